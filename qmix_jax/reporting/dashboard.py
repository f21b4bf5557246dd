"""Weights & Biases. Whatever goes wrong with it, training goes on: one warning, then silence."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qmix_jax.config import WandbConfig
from qmix_jax.reporting.records import known, mean_interval

TIMEOUT = 60.0
"""Seconds that the start and the end of a run wait at most for the network."""


def make_wandb(config: WandbConfig, *, run_config: dict, folder: Path, name: str) -> "Wandb | None":
    """A reporter to a new Weights & Biases run, or None where it is disabled or cannot be started."""
    if config.mode == "disabled":
        return None
    try:
        run = _start(config, run_config, folder, name)
    except Exception as error:
        _warn(error)
        return None
    return Wandb(run)


def _start(config: WandbConfig, run_config: dict, folder: Path, name: str) -> Any:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    wandb.setup(wandb.Settings(silent=True))  # or else it asks on the terminal who you are, and waits for an answer
    names = ("init_timeout", "finish_timeout")  # older releases know only the first
    timeouts: dict[str, Any] = {name: TIMEOUT for name in names if name in wandb.Settings.model_fields}
    settings = wandb.Settings(silent=True, console="off", **timeouts)
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        group=config.group,
        tags=list(config.tags),
        mode=config.mode,
        config=run_config,
        dir=str(folder),
        name=name,
        settings=settings,
    )
    run.define_metric("env_steps")
    run.define_metric("*", step_metric="env_steps")
    return run


class Wandb:
    """Sends every row to a Weights & Biases run until the first failure."""

    def __init__(self, run: Any):
        self._run = run
        self._env_steps = 0

    def log(self, row: dict) -> None:
        """Send one row: with several seeds the mean, its 95 % interval and every seed."""
        self._env_steps = row["env_steps"]
        self._try(lambda run: run.log(flatten(row)))

    def media(self, curve: Path | None, film: Path | None) -> None:
        """Upload the training curve (PNG) and the film (GIF), where there are any."""

        def upload(run: Any) -> None:
            import wandb

            items: dict[str, Any] = {}
            if curve is not None:
                items["curve"] = wandb.Image(str(curve))
            if film is not None:
                items["policy"] = wandb.Video(str(film), format="gif")
            if items:
                run.log({"env_steps": self._env_steps, **items})

        self._try(upload)

    def close(self) -> None:
        """Finish the run: online, this waits for the last uploads, though not forever (`wandb sync` catches up)."""
        self._try(lambda run: run.finish())
        self._run = None

    def _try(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            _warn(error)


def flatten(row: dict) -> dict[str, float]:
    """A row as numbers by name; a list of several seeds as its mean, the mean's 95 % interval and every seed."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, list) and len(value) > 1:
            flat |= _over_seeds(name, value)
        elif numbers := known(value):
            flat[name] = numbers[0]
    return flat | {"env_steps": row["env_steps"]}


def _over_seeds(name: str, values: list) -> dict[str, float]:
    summary = mean_interval(values)
    if summary is None:
        return {}
    mean, half = summary
    seeds = {f"seed_{i}/{name}": numbers[0] for i, value in enumerate(values) if (numbers := known(value))}
    return {name: mean, f"{name}/low": mean - half, f"{name}/high": mean + half, **seeds}


def _warn(error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    print(f"warning: Weights & Biases is off for the rest of this run: {reason[:300]}", file=sys.stderr, flush=True)
