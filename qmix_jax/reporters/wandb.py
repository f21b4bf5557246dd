"""Weights & Biases: one of its runs for a run folder, or one for each seed."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmix_jax.config import Config
from qmix_jax.records import to_json, write_text_atomically
from qmix_jax.reporters.dashboard import lines, of_seed

PATIENCE = 45.0
"""Seconds that a run's start and its end may take each: what is not sent then stays on the disk for `wandb sync`."""
RECORD = "wandb.json"


@dataclass
class Record:
    """What wandb.json in a run's folder remembers, so that a resumed run goes on where it was."""

    ids: list[str]
    """Of the Weights & Biases runs."""
    sent: int = 0
    """Environment steps of the last row that went online."""

    @classmethod
    def open(cls, folder: Path, count: int) -> "Record":
        """What is remembered of `count` runs, or new ones."""
        path = folder / RECORD
        record = cls(**json.loads(path.read_text())) if path.exists() else cls([])
        return record if len(record.ids) == count else cls([secrets.token_hex(8) for _ in range(count)])

    def save(self, folder: Path) -> None:
        """Write it."""
        write_text_atomically(folder / RECORD, to_json(vars(self)) + "\n")


class WandbRuns:
    """Sends rows, pictures and checkpoints to new or resumed Weights & Biases runs.

    Online, a resumed run continues the same ones, and rows that they have had are not sent again. An offline one
    cannot be continued: it begins anew, under the same id, and takes every row.
    """

    def __init__(self, config: Config, settings: dict, folder: Path):
        self._config, self._folder = config.logging.wandb, folder
        self._seeds = range(config.seed, config.seed + config.num_seeds) if self._config.per_seed else None
        self._record = Record.open(folder, len(self._seeds or [None]))
        self._is_online = self._config.mode == "online"
        self._sent = self._record.sent if self._is_online else 0
        self._env_steps = 0
        self._record.save(folder)
        self._runs = [self._start(settings, index) for index in range(len(self._record.ids))]

    def log(self, row: dict) -> None:
        """Send one row: the mean over seeds, its 95 % interval and every seed, or to each run its seed."""
        self._env_steps = row["env_steps"]
        if self._env_steps <= self._sent:
            return
        for index, run in enumerate(self._runs):
            run.log(flatten(of_seed(row, index) if self._seeds else row))
        if self._is_online:
            self._record.sent = self._env_steps
            self._record.save(self._folder)

    def media(self, curve: Path | None, film: Path | None) -> None:
        """Upload the pictures, to the first run."""
        import wandb

        items: dict[str, Any] = {}
        if curve is not None:
            items["curve"] = wandb.Image(str(curve))
        if film is not None:
            items["policy"] = wandb.Video(str(film), format="gif")
        if items:
            self._runs[0].log({"env_steps": self._env_steps, **items})

    def checkpoint(self, path: Path) -> None:
        """Upload a checkpoint with the settings, if asked, to the first run: an artifact that is a run's folder."""
        import wandb

        if not self._config.artifacts or not path.exists():
            return
        artifact = wandb.Artifact(
            f"checkpoint-{self._record.ids[0]}", "checkpoint", metadata={"env_steps": int(path.name)}
        )
        for file in (self._folder / name for name in ("config.yaml", "run.json", "metrics.jsonl")):
            if file.is_file():  # a full disk may have no row yet
                artifact.add_file(str(file))
        try:
            artifact.add_dir(str(path), f"checkpoints/{path.name}", skip_cache=True)
        except FileNotFoundError:  # a newer one has replaced it meanwhile, and will be uploaded
            return
        self._runs[0].log_artifact(artifact, aliases=["latest", f"step-{path.name}"])

    def close(self) -> None:
        """Finish the runs: online, this waits for the last uploads."""
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
        wandb.setup(wandb.Settings(silent=True))  # or else it asks on the terminal who you are, and waits for an answer
        own: dict[str, Any] = {"name": folder.name, "config": settings}
        if self._seeds:
            seed = self._seeds[index]
            own = {"name": f"{folder.name} seed {seed}", "config": {**settings, "seed": seed}, "job_type": folder.name}
        run = wandb.init(
            id=self._record.ids[index],
            resume="allow" if self._is_online else None,
            project=config.project,
            entity=config.entity,
            group=config.group or self._default_group(),
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

    def _default_group(self) -> str | None:
        """The sweep that the run is a job of, or else the run itself where it is several; None for a single one."""
        sweeps = [parent.name for parent in self._folder.absolute().parents if (parent / "multirun.yaml").exists()]
        return sweeps[0] if sweeps else self._folder.name if self._seeds else None


def flatten(row: dict) -> dict[str, float]:
    """A row as numbers by name: of several seeds the mean as NAME, also NAME/low, NAME/high and seed_0/NAME, ..."""
    flat: dict[str, float] = {}
    for line, numbers in lines(row).items():
        for name, number in numbers.items():
            place = {"mean": name, "low": f"{name}/low", "high": f"{name}/high"}.get(line, f"{line}/{name}")
            flat[place] = number
    return flat | {"env_steps": row["env_steps"]}
