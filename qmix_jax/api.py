"""The package from Python: training with settings, objects or both, and what a run is good for (docs/python.md)."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qmix_jax.agents.base import Agents
from qmix_jax.analysis.scores import Scores
from qmix_jax.build import REGISTRIES, from_mapping
from qmix_jax.cli.compose import compose_jobs
from qmix_jax.cli.flags import parse_flags
from qmix_jax.cli.render import SUFFIXES
from qmix_jax.cli.store import GIVEN
from qmix_jax.config import Config, to_mapping
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning.robustness import ParallelEvaluator
from qmix_jax.mixers.base import Mixer
from qmix_jax.records import best_seed
from qmix_jax.reporters.base import Callback, of_seed
from qmix_jax.run import exits, experiment, startup, trained
from qmix_jax.run.program import ReusingProgram
from qmix_jax.run.resume import complete_rows, holds_run
from qmix_jax.run.scoring import score
from qmix_jax.run.trained import TrainedRun
from qmix_jax.settings import LARGEST_INT, ConfigError, flatten, require, shown
from qmix_jax.sweep.jobs import Job

AUTO = "auto"
PARTS = {"env": ("env", "environment"), "algorithm": ("mixer", "mixer"), "agent": ("agents", "network")}
"""Group of settings -> the argument for a part of it made in Python, and what that is."""
CONTRACTS: dict[str, type] = {"env": TeamEnv, "algorithm": Mixer, "agent": Agents}
"""Group of settings -> the class from which its parts are derived."""
SEVERAL = re.compile(r"""[^\s=]+=[^\s='"\[{(]+(\s+[^\s=]+=[^\s='"\[{(]+)+""")
"""Words of a command line in one."""


@dataclass(frozen=True)
class Run(TrainedRun):
    """A run that was trained or loaded: `config`, `env`, `agents`, `params(seed)`, and what it left."""

    rows: list[dict] = field(default_factory=list, repr=False)
    """The rows of metrics.jsonl (docs/run-folder.md), one an evaluation."""
    folder: Path | None = None
    """Its folder; None where nothing was kept."""

    def to_pandas(self) -> Any:
        """The rows as a pandas.DataFrame with a line for each evaluation and seed. Needs pandas."""
        import pandas

        seeds = range(self.config.num_seeds)
        return pandas.DataFrame([{"seed": self.config.seed + i, **of_seed(row, i)} for row in self.rows for i in seeds])

    def evaluate(self, episodes: int = 1024, seed: int = 0) -> Scores:
        """Scores of greedy episodes, see `evaluate`."""
        return evaluate(self, episodes, seed)

    def render(self, path: str | Path | None = None, episodes: int = 1, seed: int = 0) -> "Film":
        """A film of greedy episodes, see `render`."""
        return render(self, path, episodes, seed)


@dataclass(frozen=True)
class Film:
    """A film or figure; a notebook shows it."""

    path: Path | None
    data: bytes = field(repr=False)
    suffix: str = ".gif"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        kinds = {".gif": "image/gif", ".png": "image/png"}
        return {kinds[self.suffix]: self.data} if self.suffix in kinds else {"text/plain": repr(self)}


# --- training ----------------------------------------------------------------------------------------------------


def compose(*overrides: str, env: Any = None, mixer: Any = None, agents: Any = None, **settings: Any) -> Config:
    """The config of a run, from the same arguments as those of `train`."""
    job, given = _job(overrides, settings, env, mixer, agents)
    return from_mapping(job.settings, given)


def train(
    *overrides: str,
    env: "TeamEnv | type[TeamEnv] | str | None" = None,
    mixer: "Mixer | type[Mixer] | None" = None,
    agents: "Agents | type[Agents] | None" = None,
    callbacks: Sequence[Callback] = (),
    folder: str | Path | None = AUTO,
    resume: bool = False,
    **settings: Any,
) -> Run:
    """Train a team, as `qmix-jax train` does.

    Args:
        overrides: settings as on the command line, such as "env=smax", "env.map=3m".
        env: an environment: an object, a class (with its settings as overrides), or a name.
        mixer: likewise a mixer, in place of algorithm=NAME.
        agents: likewise the networks of the agents, in place of agent=NAME; an object must be made for `env`.
        callbacks: objects that are called while it trains.
        folder: where its files go; "auto": below runs/ in the current folder; None: nothing is kept.
        resume: continue the run that the folder holds.
        settings: further settings by name, nested as mappings: `total_env_steps=1e6, learner={"gamma": 0.9}`.

    Raises:
        ConfigError: a setting is wrong, or cannot work on this machine; nothing was written.
        KeyboardInterrupt: it was interrupted; what it learnt is saved in its folder.
        MemoryError, OSError: it ran out of memory, or its end could not be written.
    """
    _require_callbacks(callbacks)
    job, given = _job(overrides, settings, env, mixer, agents)
    config = from_mapping(job.settings, given)
    startup.start_jax([config.devices])
    if folder is None:
        config = replace(config, logging=replace(config.logging, film=False))
    checked = experiment.check(config)
    program = ReusingProgram(checked.config, checked.env, checked.mesh)
    with _folder(folder, job) as place:
        is_free = resume or not holds_run(place)
        require(is_free, f"{place} holds a run: continue it with resume=True, or name another folder=")
        is_kept = folder is not None
        finished = experiment.train(program.config, place, to_mapping(config), resume, program, callbacks, is_kept)
    _raise_for(finished.status, place)
    steps = finished.rows[-1]["env_steps"] if finished.rows else None
    kept = None if folder is None else place
    return Run(program.config, program.env, trained.on_device(finished.params), steps, finished.rows, kept)


def register(name: str, cls: type) -> None:
    """Give an environment, a mixer or a network a name in this process, so that `env=NAME` and the like find it.

    Installed packages name theirs for every process by entry points (docs/extending.md).

    Raises:
        ConfigError: the name is taken, or the class fulfils no contract.
    """
    for group, contract in CONTRACTS.items():
        if isinstance(cls, type) and issubclass(cls, contract):
            return REGISTRIES[group]().register(name, cls)
    raise ConfigError(f"{cls} is no subclass of qmix_jax.TeamEnv, Mixer or Agents")


def _job(overrides: Sequence[str], settings: Mapping[str, Any], env: Any, mixer: Any, agents: Any) -> tuple[Job, dict]:
    """The job that the arguments describe, and the parts that are made in Python."""
    parts = {"env": env, "algorithm": mixer, "agent": agents}
    _refuse_what_is_no_setting(overrides, settings)
    _refuse_two_names(parts, overrides, settings)
    given = {group: part for group, part in parts.items() if part is not None and not isinstance(part, str)}
    for group, part in given.items():
        _require_part(group, part)
    named = [f"{group}={GIVEN if group in given else part}" for group, part in parts.items() if part is not None]
    plain = [f"{name}={json.dumps(_plain(name, value))}" for name, value in flatten(settings).items()]
    options = parse_flags([*named, *overrides, *plain]).options
    require(not options.multirun, "one call trains one run: leave out -m, and call train several times")
    (job,) = compose_jobs(options, given).jobs
    return job, given


def _plain(name: str, value: Any) -> Any:
    """A setting's value without types of NumPy, JAX and the like; raises ConfigError where it cannot be one."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(name, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, each) for each in value]
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    is_plain = value is None or isinstance(value, bool | int | float | str)
    require(is_plain, f"{name}={shown(value)}: a setting cannot be of type {type(value).__name__}")
    return value


def _refuse_what_is_no_setting(overrides: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for what a person new to `train` may write in place of settings."""
    for word in overrides:
        forms = 'settings are words, such as "env=two_step", or are given by name, such as seed=3'
        require(isinstance(word, str), f"{shown(word)} is no setting: {forms}")
        each = ", ".join(f'"{part}"' for part in word.split())
        require(not SEVERAL.fullmatch(word), f"'{word}' holds several settings: give each as its own argument, {each}")
    for group, (argument, what) in PARTS.items():
        value = settings.get(group)
        is_setting = value is None or isinstance(value, str | Mapping)
        own = f"a {what} made in Python is given as {argument}={_title(value)}"
        require(is_setting, f"{group}={_title(value)} is no name: {own}")


def _require_part(group: str, part: Any) -> None:
    """Raise ConfigError unless a part made in Python is one of its group."""
    (argument, _), contract, cls = PARTS[group], CONTRACTS[group], part if isinstance(part, type) else type(part)
    wrong = f"{argument}={_title(part)} is no subclass of qmix_jax.{contract.__name__}"
    if group == "env" and isinstance(part, Mapping):
        wrong = "env is a name, a class or an object: write env='matrix', and its settings as \"env.SETTING=VALUE\""
    if group == "env" and cls.__module__.startswith("jaxmarl."):
        wrong += ': give JaxMarlEnv(env) of qmix_jax.envs.jaxmarl.env, or env="jaxmarl" (docs/jaxmarl.md)'
    require(issubclass(cls, contract), wrong)


def _require_callbacks(callbacks: Any) -> None:
    """Raise ConfigError unless these are objects of callbacks."""
    is_list = isinstance(callbacks, list | tuple)
    require(is_list, f"callbacks={_title(callbacks)} must be a list of objects: callbacks=[{_title(callbacks)}(...)]")
    for each in callbacks:
        is_class = isinstance(each, type) and issubclass(each, Callback)
        wrong = f"is a class: make an object of it, {_title(each)}()" if is_class else "is no qmix_jax.Callback"
        require(isinstance(each, Callback), f"{shown(each)} in callbacks {wrong}")


def _refuse_two_names(parts: Mapping[str, Any], overrides: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raise ConfigError where a setting names a part that an argument gives too."""
    for group, part in parts.items():
        words = [*overrides, *([f"{group}={settings[group]}"] if isinstance(settings.get(group), str) else [])]
        named = [word for word in words if isinstance(word, str) and word.startswith(f"{group}=")]
        argument, what = PARTS[group]
        both = f"{(*named, '')[0]} and {argument}={_title(part)} both name the {what}; leave one out"
        require(part is None or not named, both)


def _title(part: Any) -> str:
    """A part for people: its name, or that of its class."""
    return part if isinstance(part, str) else (part if isinstance(part, type) else type(part)).__name__


@contextmanager
def _folder(folder: str | Path | None, job: Job) -> Iterator[Path]:
    """The folder of a run; for None one that is deleted afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="qmix-jax-") as place:
            yield Path(place)
    else:
        yield job.folder if folder == AUTO else Path(folder).absolute()


def _raise_for(status: int, folder: Path) -> None:
    if status == exits.INTERRUPTED:
        raise KeyboardInterrupt
    if status in exits.STOPPED:
        raise SystemExit(status)
    if status == exits.OUT_OF_MEMORY:
        raise MemoryError(f"out of memory while training in {folder}")
    if status == exits.NOT_SAVED:
        raise OSError(f"the end of the run could not be saved in {folder}")


# --- afterwards --------------------------------------------------------------------------------------------------


def load_run(
    folder: str | Path, checkpoint: str | int = "last", *, env: Any = None, mixer: Any = None, agents: Any = None
) -> Run:
    """A run from its folder, see `qmix_jax.run.trained.load_run`."""
    startup.start_jax([startup.AUTO])
    found = trained.load_run(folder, checkpoint, env=env, mixer=mixer, agents=agents)
    rows = complete_rows(Path(folder), found.env_steps)
    return Run(found.config, found.env, found.all_params, found.env_steps, rows, Path(folder))


def evaluate(run: Run | str | Path, episodes: int = 1024, seed: int = 0) -> Scores:
    """Scores of greedy episodes by metric, each a mean with its 95 % interval, as `qmix-jax evaluate` gives them.

    Args:
        run: a run, or its folder.
        episodes: how many, of each seed of the run.
        seed: the random seed of the episodes.

    Raises:
        ConfigError: `episodes` or `seed` is out of range.
    """
    _require_in_range(episodes, seed)
    run = run if isinstance(run, TrainedRun) else load_run(run)
    return score(run, ParallelEvaluator(run.env, run.agents, episodes), seed)


def _require_in_range(episodes: int, seed: int) -> None:
    """Raise ConfigError for what `jax.random.key` would take for another seed, and for no episodes."""
    require(1 <= episodes <= LARGEST_INT, f"episodes={shown(episodes)} must be 1 or more, and 2^31 - 1 at most")
    require(0 <= seed <= LARGEST_INT, f"seed={shown(seed)} must be 0 or more, and 2^31 - 1 at most")


def render(run: Run | str | Path, path: str | Path | None = None, episodes: int = 1, seed: int = 0) -> Film:
    """A film of greedy episodes of the run's best seed.

    Args:
        run: a run, or its folder.
        path: a .gif, .mp4 or .png (a figure); None: a GIF in memory.
        episodes: how many.
        seed: the random seed of the episodes.

    Raises:
        ConfigError: the path has another ending, or `episodes` or `seed` is out of range.
    """
    _require_in_range(episodes, seed)
    from qmix_jax.film.painter import painter_of
    from qmix_jax.run import films

    run = run if isinstance(run, TrainedRun) else load_run(run)
    suffix = ".gif" if path is None else Path(path).suffix.lower()
    require(suffix in SUFFIXES, f"{path} must end in {', '.join(SUFFIXES)}")
    recordings = films.play(run, best_seed(run.rows[-1]) if run.rows else 0, seed, episodes)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(path) if path is not None else Path(scratch) / "film.gif"
        films.write(painter_of(run.env), recordings, place)
        return Film(None if path is None else place, place.read_bytes(), suffix)


def export(run: Run | str | Path, out: str | Path, checkpoint: str = "last", seed: int | None = None) -> dict[str, Any]:
    """Export a team as a folder that needs only NumPy, or JAX (docs/deploy.md); returns its contract.

    Raises:
        ConfigError: the run has no folder, or cannot be exported.
    """
    from qmix_jax.run.export import export_run

    folder = run.folder if isinstance(run, Run) else Path(str(run))
    if folder is None:
        raise ConfigError("a run without a folder cannot be exported: train it with folder=FOLDER")
    startup.start_jax([startup.AUTO])
    return export_run(folder, Path(out), checkpoint, seed)
