"""Weights & Biases: one of its runs per run folder, or one per seed."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmix_jax.config import Config
from qmix_jax.files import write_json
from qmix_jax.records import SEEDS
from qmix_jax.reporters.base import Callback, RunEnd, flatten, of_seed

PATIENCE = 45.0
"""Seconds that the start and the end of a run may each take; what is not sent by then stays for `wandb sync`."""
SENT = "wandb.json"


@dataclass
class Sent:
    """The contents of wandb.json in a run folder, with which a resumed run continues its Weights & Biases runs."""

    ids: list[str]
    """The ids of the Weights & Biases runs."""
    env_steps: int = 0
    """Of the last row that was sent online."""

    @classmethod
    def open(cls, folder: Path, count: int) -> "Sent":
        """Read wandb.json; with new ids if it is missing or does not name `count` runs."""
        path = folder / SENT
        ids, env_steps = [], 0
        if path.exists():
            found = json.loads(path.read_text())
            ids, env_steps = found["ids"], found["sent"]
        if len(ids) == count:
            return cls(ids, env_steps)
        given = os.environ.get("WANDB_RUN_ID")  # by an agent of a W&B sweep, for example
        if given and count == 1 and folder.parent.name != SEEDS:
            return cls([given])
        return cls([secrets.token_hex(8) for _ in range(count)])

    def save(self, folder: Path) -> None:
        """Write wandb.json."""
        write_json(folder / SENT, {"ids": self.ids, "sent": self.env_steps})


class WandbRuns(Callback):
    """Sends rows, pictures and checkpoints to new or resumed Weights & Biases runs.

    Online, a resumed run continues them and does not send a row again. An offline run cannot be continued: it starts
    anew under the same id and receives every row.
    """

    def __init__(self, config: Config, settings: dict, folder: Path):
        self._config, self._folder = config.logging.wandb, folder
        self._seeds = range(config.seed, config.seed + config.num_seeds) if self._config.per_seed else None
        self._sweep, self._differs = _place_in_sweep(folder.absolute())
        self._sent = Sent.open(folder, len(self._seeds or [None]))
        self._is_online = self._config.mode == "online"
        self._skipped = self._sent.env_steps if self._is_online else 0
        self._env_steps = 0
        self._sent.save(folder)
        self._runs = [self._start(settings, index) for index in range(len(self._sent.ids))]

    def on_evaluation(self, row: dict) -> None:
        """Send one row, see `base.flatten`; with `per_seed`, the values of each seed to its run."""
        self._env_steps = row["env_steps"]
        if self._env_steps <= self._skipped:
            return
        for index, run in enumerate(self._runs):
            run.log(flatten(of_seed(row, index) if self._seeds else row))
        if self._is_online:
            self._sent.env_steps = self._env_steps
            self._sent.save(self._folder)

    def on_end(self, end: RunEnd) -> None:
        """Upload the pictures, to the first run."""
        import wandb

        items: dict[str, Any] = {}
        if end.curve is not None:
            items["curve"] = wandb.Image(str(end.curve))
        if end.film is not None:
            items["policy"] = wandb.Video(str(end.film), format="gif")
        if items:
            self._runs[0].log({"env_steps": self._env_steps, **items})

    def on_checkpoint(self, path: Path) -> None:
        """With `artifacts`, upload a checkpoint to the first run as an artifact with the layout of a run folder."""
        import wandb

        if not self._config.artifacts or not path.exists():
            return
        artifact = wandb.Artifact(
            f"checkpoint-{self._sent.ids[0]}", "checkpoint", metadata={"env_steps": int(path.name)}
        )
        for file in (self._folder / name for name in ("config.yaml", "run.json", "metrics.jsonl")):
            if file.is_file():  # on a full disk there may be no rows yet
                artifact.add_file(str(file))
        try:
            artifact.add_dir(str(path), f"checkpoints/{path.name}", skip_cache=True)
        except FileNotFoundError:  # a newer one has replaced it and follows
            return
        self._runs[0].log_artifact(artifact, aliases=["latest", f"step-{path.name}"])

    def close(self) -> None:
        """Finish the runs; online, this waits for the last uploads."""
        late = False
        for run in self._runs:
            try:
                run.finish()
            except TimeoutError:
                late = True
        if late:
            raise TimeoutError(f"not all was sent in time; wandb sync {self._folder}/wandb/run-* sends the rest")

    def _start(self, settings: dict, index: int) -> Any:
        import wandb

        config, folder = self._config, self._folder
        wandb.setup(wandb.Settings(silent=True))  # or else it asks for an account on the terminal and waits
        name = " ".join([folder.name, *self._differs])
        own: dict[str, Any] = {"name": name, "config": settings}
        if self._seeds:
            seed = self._seeds[index]
            own = {"name": f"{name} seed {seed}", "config": {**settings, "seed": seed}, "job_type": name}
        run = wandb.init(
            id=self._sent.ids[index],
            resume="allow" if self._is_online else None,
            project=config.project,
            entity=config.entity,
            group=config.group or self._sweep or (folder.name if self._seeds else None),
            tags=list(config.tags),
            mode=config.mode,
            dir=str(folder),
            settings=wandb.Settings(
                silent=True,
                console="off",
                reinit="create_new",
                init_timeout=PATIENCE,
                finish_timeout=PATIENCE,
                finish_timeout_raises=True,
            ),
            **own,
        )
        run.define_metric("env_steps")
        run.define_metric("*", step_metric="env_steps")
        return run


def _place_in_sweep(folder: Path) -> tuple[str, list[str]]:
    """The name of the sweep that a run belongs to ('' without one), and the overrides in which it differs there."""
    found = next((parent for parent in folder.parents if (parent / "sweep.json").exists()), None)
    if found is None:
        return "", []
    jobs = json.loads((found / "sweep.json").read_text())["jobs"]
    place = str(folder.relative_to(found))
    return found.name, next((job["differs"] for job in jobs if job["folder"] == place), [])
