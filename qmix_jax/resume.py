"""Going on with a run: what its folder holds, and what a command line may still change."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qmix_jax.checkpoint import METRICS, Checkpoint, checkpoints, first_without_flaw, read_settings
from qmix_jax.config import Config, ConfigError, by_name, from_mapping, nearest, require

MAY_CHANGE = (
    "total_env_steps",
    "devices",
    "matmul_dtype",
    "env.starts_per_rollout",
    "exploration",
    "learner.batch_size",
    "learner.env_steps_per_update",
    "learner.start_env_steps",
    "learner.burn_in",
    "learner.td_lambda",
    "learner.double_q",
    "learner.learning_rate",
    "learner.final_learning_rate",
    "learner.adam_epsilon",
    "learner.max_grad_norm",
    "target.every_env_steps",
    "target.tau",
    "evaluation",
    "checkpoint",
    "logging",
)
"""Settings, and groups of them, that a resumed run may change. All others give the saved state its shape or its
meaning."""


@dataclass
class Past:
    """What a run did before this process: nothing, where it begins."""

    checkpoint: Checkpoint | None = None
    """Where it goes on from."""
    metrics: str = ""
    """The text of metrics.jsonl until there."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Setting -> [before, now]."""
    later: list[Checkpoint] = field(default_factory=list)
    """Checkpoints that cannot be gone on from, and that the run will come by again."""

    @property
    def env_steps(self) -> int:
        """Environment steps that are done."""
        return self.checkpoint.env_steps if self.checkpoint else 0

    @property
    def rows(self) -> list[dict]:
        """The rows of metrics.jsonl until there."""
        return [json.loads(line) for line in self.metrics.splitlines()]

    def seconds(self, kind: str) -> float:
        """`wall_seconds` or `compile_seconds` until there."""
        return self.checkpoint.about[kind] if self.checkpoint else 0.0


def holds_run(folder: Path) -> bool:
    """Whether a run was begun in a folder."""
    return (folder / "config.yaml").is_file()


def changes(folder: Path, config: Config) -> dict[str, Any]:
    """Setting -> [what the run in a folder was begun with, what `config` says]; nothing where none was begun.

    Raises:
        ConfigError: one of them may not change.
    """
    if not holds_run(folder):
        return {}
    before, now = by_name(from_mapping(read_settings(folder))), by_name(config)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    refused = [name for name in names if not _may_change(name)]
    require(
        not refused,
        f"{folder} cannot go on with another value of "
        + ", ".join(f"{name} ({before.get(name)} before, {now.get(name)} now)" for name in refused)
        + ": it shapes what is saved; begin a new run for it",
    )
    return {name: [before.get(name), now.get(name)] for name in names}


def _may_change(name: str) -> bool:
    return any(name == allowed or name.startswith(allowed + ".") for allowed in MAY_CHANGE)


def holds_results(folder: Path) -> bool:
    """Whether a folder holds an evaluation or a checkpoint; a run that ended before may be begun again in its place."""
    metrics = folder / "metrics.jsonl"
    return bool(checkpoints(folder)) or (metrics.is_file() and metrics.stat().st_size > 0)


def require_place(folder: Path, go_on: bool) -> None:
    """Raise ConfigError where a new run would write over the results of another."""
    require(
        go_on or not holds_results(folder),
        f"{folder} holds a run: add resume=auto to go on with it, or begin elsewhere, hydra.run.dir=FOLDER",
    )


def find_past(folder: Path, config: Config) -> Past:
    """What the run in a folder has done; checkpoints that are not whole are named.

    Raises:
        ConfigError: a setting changed that may not, or there are checkpoints and none of them can be gone on from.
    """
    changed = changes(folder, config)
    found = checkpoints(folder)
    chosen = first_without_flaw(reversed(found), to_resume=True)
    if chosen is None:
        require(not found, f"{folder} cannot go on: none of its checkpoints is whole; begin a new run")
        return Past(changes=changed)
    metrics = (chosen.path / METRICS).read_text()
    return Past(chosen, metrics, changed, [each for each in found if each.env_steps > chosen.env_steps])


def merge_settings(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The settings of the run in a folder, with overrides `NAME=VALUE` on top.

    Raises:
        ConfigError: the folder holds no run, or there is no such setting.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    settings = read_settings(folder)
    known = by_name(from_mapping(settings))
    for line in overrides:
        name, equals, _ = line.partition("=")
        require(bool(equals) and not line.startswith("-"), f"'{line}': a resumed run takes settings only, NAME=VALUE")
        within = [each for each in known if each.startswith(name + ".")]
        require(not within, f"{line}: the {name} of a run stays; settings like {', '.join(within[:2])} go one by one")
        require(name in known, f"unknown setting '{name}'{nearest(name, list(known)) or ''}")
    try:
        merged = OmegaConf.merge(OmegaConf.create(settings), OmegaConf.from_dotlist(overrides))
        return OmegaConf.to_container(merged, resolve=True)  # pyright: ignore[reportReturnType]
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error
