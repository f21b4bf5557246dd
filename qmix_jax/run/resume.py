"""Resuming a run: the checkpoint in its folder, and the settings that may change."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qmix_jax.build import from_mapping, upgrade
from qmix_jax.config import Config, by_name
from qmix_jax.console import warn
from qmix_jax.deployed_agent import ArtifactError
from qmix_jax.import_path import ImportPathError
from qmix_jax.records import ENVIRONMENT_NAN, FROZEN, HAS_STATE, batch_folder, read_manifest, read_metrics, seed_batches
from qmix_jax.run import hosts
from qmix_jax.run.checkpoint import METRICS, Checkpoint, checkpoints, first_usable
from qmix_jax.run.program import Program, TrainState
from qmix_jax.run.trained import read_config, read_config_of
from qmix_jax.settings import ConfigError, flatten, merge, nearest, require
from qmix_jax.untrusted import read_settings

MAY_CHANGE = (
    "total_env_steps",
    "num_seeds_at_once",
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
    "learner.final_learning_rate_share",
    "learner.adam_epsilon",
    "learner.max_grad_norm",
    "target.every_env_steps",
    "target.tau",
    "evaluation",
    "checkpoint",
    "callbacks",
    "import_folders",
    "logging",
)
"""Settings, and groups of them, that a resumed run may change. All others decide the shape or meaning of the state."""
NO_CURE = (
    *("total_env_steps", "num_seeds_at_once", "devices", "evaluation"),
    *("checkpoint", "callbacks", "import_folders", "logging"),
)
"""Those of `MAY_CHANGE` that cannot prevent a NaN."""
NO_CURE_OF_ENVIRONMENT = (*NO_CURE, "learner", "target", "matmul_dtype")
"""Those that cannot prevent a NaN which the environment causes."""


@dataclass
class ResumePoint:
    """What a run did before this process; the defaults are those of a new run."""

    checkpoint: Checkpoint | None = None
    """The checkpoint to resume from."""
    state: TrainState | None = None
    """The checkpoint's training state on the host; None where the run is complete."""
    rows: list[dict] = field(default_factory=list)
    """The rows of metrics.jsonl up to the checkpoint."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Setting -> [before, now]."""
    assumed: dict[str, Any] = field(default_factory=dict)
    """Setting -> value, of settings that the version which wrote the checkpoint did not have."""
    later: list[Checkpoint] = field(default_factory=list)
    """Newer checkpoints, which cannot be resumed from; the run will write them anew."""
    met_nan: int | None = None
    """The environment step at which the last seed met NaN; None while a seed trains."""
    is_environments_nan: bool = False
    """Whether the environment caused the NaN of every seed."""

    @property
    def env_steps(self) -> int:
        """Environment steps done."""
        return self.checkpoint.env_steps if self.checkpoint else 0

    def total(self, column: str) -> float:
        """A column that adds up (`metrics.SUMS`), up to the checkpoint."""
        return self.checkpoint.total(column) if self.checkpoint else 0.0


# --- the content of a folder -------------------------------------------------------------------------------------


def holds_run(folder: Path) -> bool:
    """Whether a folder holds an evaluation or a checkpoint; otherwise a new run may use it."""
    return bool(read_rows(folder) or checkpoints(folder) or begun_batches(folder))


def begun_batches(folder: Path) -> list[range]:
    """The batches of seeds of the run in a folder that hold an evaluation or a checkpoint, in order."""
    return [seeds for seeds in seed_batches(folder) if holds_run(batch_folder(folder, seeds))]


def read_rows(folder: Path) -> list[dict]:
    """The rows of a run so far; raises OSError where they cannot be read."""
    path = folder / METRICS
    try:
        return read_metrics(path) if path.is_file() else []
    except ArtifactError as error:
        raise OSError(f"{error}; make it readable, or move it away: a checkpoint has the rows too") from error


def complete_rows(folder: Path, env_steps: int | None) -> list[dict]:
    """The rows of a run; where metrics.jsonl ends before `env_steps`, those of the checkpoint there, with a warning."""
    rows = read_rows(folder)
    if rows and rows[-1]["env_steps"] >= (env_steps or 0):
        return rows
    saved = [read_metrics(each.path / METRICS) for each in checkpoints(folder) if each.env_steps == env_steps]
    if not any(saved):
        return rows
    warn(f"{folder / METRICS} is missing or not whole: the rows of the checkpoint {env_steps} are used")
    return saved[0]


def require_place(folder: Path, resumes: bool) -> None:
    """Raise ConfigError where a new run would overwrite the results of another."""
    require(
        resumes or not holds_run(folder),
        f"{folder} holds a run: add resume=auto to resume it, or name another folder, hydra.run.dir=FOLDER",
    )


def _whole(folder: Path) -> list[Checkpoint]:
    """Checkpoints of whole states, and those too damaged to tell, the newest first."""
    return [each for each in reversed(checkpoints(folder)) if each.is_whole_state or not each.items]


def _settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the newest whole checkpoint, or else of config.yaml; None where there is neither."""
    saved = (each.settings for each in _whole(folder) if each.settings is not None)
    return next(saved, None) or (read_settings(folder) if (folder / "config.yaml").is_file() else None)


# --- changed settings --------------------------------------------------------------------------------------------


def changes(folder: Path, config: Config) -> dict[str, Any]:
    """Setting -> [value in the folder's run, value in `config`]; empty where the folder holds no run.

    Raises:
        ConfigError: a setting differs that may not change, or another version wrote the settings.
    """
    newest = next((each for each in _whole(folder) if each.items), None)
    has_results = holds_run(folder) and (folder / "config.yaml").is_file()
    return _changes(folder, newest, config) if newest or has_results else {}


def _changes(folder: Path, checkpoint: Checkpoint | None, config: Config) -> dict[str, Any]:
    saved = read_config(folder) if checkpoint is None else read_config_of(checkpoint)
    before, now = by_name(saved), by_name(config)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    refused = [name for name in names if not _is_one_of(name, MAY_CHANGE)]
    require(
        not refused,
        f"{folder} cannot be resumed with another value of "
        + ", ".join(f"{name} ({before.get(name)} before, {now.get(name)} now)" for name in refused)
        + ": it decides the shape or meaning of the saved state; start a new run",
    )
    return {name: [before.get(name), now.get(name)] for name in names}


def _is_one_of(name: str, settings: tuple[str, ...]) -> bool:
    return any(name == setting or name.startswith(setting + ".") for setting in settings)


# --- the point to resume from ------------------------------------------------------------------------------------


def shared_resume_point(folder: Path, program: Program, channel: hosts.Channel) -> ResumePoint:
    """Where the run in a folder can resume, with its state: in every process where process 0 found it. No process
    returns, and may then write, before all have read.

    Raises as `find_resume_point`.
    """
    point = find_resume_point(folder, program) if hosts.is_first() else ResumePoint()
    env_steps = channel.first(point.env_steps)
    if not hosts.is_first():
        point = find_resume_point(folder, program, env_steps)
    channel.all(None)
    return point


def find_resume_point(folder: Path, program: Program, env_steps: int | None = None) -> ResumePoint:
    """Where the run in a folder can resume, with its state. Skips damaged checkpoints with a warning; writes nothing.

    With `env_steps`, only that checkpoint counts, or with 0 none.

    Raises:
        ConfigError: a setting changed that may not, there are checkpoints and no usable one, or there are rows and no
            checkpoint.
    """
    config, found, rows = program.config, checkpoints(folder), read_rows(folder)
    met_nan, is_environments = _last_step_of_all(rows, FROZEN), _last_step_of_all(rows, ENVIRONMENT_NAN) is not None
    no_cure = NO_CURE_OF_ENVIRONMENT if is_environments else NO_CURE

    def use(checkpoint: Checkpoint) -> ResumePoint:
        changed = _changes(folder, checkpoint, config)
        saved_rows = read_metrics(checkpoint.path / METRICS)
        is_left = checkpoint.env_steps < config.total_env_steps
        state = checkpoint.restore(program) if is_left else None
        later = [each for each in found if each.env_steps > checkpoint.env_steps]
        known = by_name(config) if checkpoint.settings is None else flatten(upgrade(checkpoint.settings))
        assumed = {name: value for name, value in by_name(config).items() if name not in known}
        is_cured = any(not _is_one_of(name, no_cure) for name in changed)
        end = None if is_cured else met_nan
        return ResumePoint(checkpoint, state, saved_rows, changed, assumed, later, end, is_environments)

    candidates = [each for each in _whole(folder) if env_steps in (None, each.env_steps)]
    usable = first_usable(candidates, use, to_resume=True)
    if usable is not None:
        return usable[1]
    if met_nan is not None:
        return ResumePoint(met_nan=met_nan, is_environments_nan=is_environments)
    require(not candidates, f"{folder} cannot be resumed: none of its checkpoints is whole; start a new run")
    changes(folder, config)
    may_restart = not rows or read_manifest(folder).get(HAS_STATE) is False
    require(
        may_restart,
        f"{folder} has {len(rows)} rows in {METRICS} and no checkpoint to resume from: is {folder / 'checkpoints'} "
        f"mounted and complete? To start from the beginning, delete {folder / METRICS}",
    )
    return ResumePoint(later=found)


def _last_step_of_all(rows: list[dict], name: str) -> int | None:
    """The largest of the environment steps under a name in the last row; None unless every seed has one."""
    steps = rows[-1].get(name) if rows else None
    has_all = isinstance(steps, list) and bool(steps) and all(type(step) is int for step in steps)
    return max(steps) if has_all else None  # pyright: ignore[reportArgumentType]


# --- from the command line ---------------------------------------------------------------------------------------


def merge_settings(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The settings to resume the run in a folder with.

    Those of its newest checkpoint, overridden by config.yaml, overridden by `overrides` (NAME=VALUE).

    Raises:
        ConfigError: the folder holds no run, or an override names no setting.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    written = read_settings(folder)
    settings = merge(_settings(folder) or {}, written)
    try:
        known = by_name(from_mapping(settings))
    except ImportPathError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.yaml'} was edited, or another version wrote it: {error}") from error
    for line in overrides:
        name, equals, _ = line.partition("=")
        require(bool(equals) and not line.startswith("-"), f"'{line}': a resumed run takes settings only, NAME=VALUE")
        within = [each for each in known if each.startswith(name + ".")]
        require(not within, f"{line}: a run keeps its {name}; override single settings like {', '.join(within[:2])}")
        require(name in known, f"unknown setting '{name}'{nearest(name, list(known)) or ''}")
    try:
        merged = OmegaConf.merge(OmegaConf.create(settings), OmegaConf.from_dotlist(overrides))
        return OmegaConf.to_container(merged, resolve=True)  # pyright: ignore[reportReturnType]
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error
