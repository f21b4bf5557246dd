"""From the command line to the jobs that run: Hydra composes each of them once, before the first starts.

Every mistake (an override, a choice, a value that does not resolve) becomes a `ConfigError`: one line that names the
mistake and the nearest right name.
"""

import argparse
import copy
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeAlias

from hydra import initialize_config_dir
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ConfigDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError

from qmix_jax.build import GROUPS, NOTHING, REGISTRIES, import_paths
from qmix_jax.cli.conf import conf_dir, installed_conf_dirs
from qmix_jax.cli.flags import parse_flags
from qmix_jax.cli.overrides import OverrideChecker
from qmix_jax.cli.search import make_search
from qmix_jax.cli.store import fill_store
from qmix_jax.cli.sweep_plugins import SweepOfPlugin
from qmix_jax.import_path import folder_to_record, load, search_in
from qmix_jax.reporters.callbacks import callback_class
from qmix_jax.run.startup import leave_accelerators_free
from qmix_jax.settings import ConfigError, require
from qmix_jax.sweep.jobs import Job, JobList
from qmix_jax.sweep.launchers import LAUNCHERS
from qmix_jax.sweep.ledger import numbered, plans_before

if TYPE_CHECKING:
    from qmix_jax.sweep.search.loop import Search

    Work: TypeAlias = JobList | SweepOfPlugin | Search

FIXED = {
    "hydra/job_logging": "none",
    "hydra/hydra_logging": "none",
}
"""Hydra's groups of which only one choice works: a run keeps its own log."""
REFUSED = ("callbacks", "job.chdir", "verbose")
"""Hydra's settings that would have no effect."""
SEARCHPATH = "hydra.searchpath"
OF_SWEEPS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweep")
"""Begin the names of settings that matter with -m alone, `hydra.sweep.dir` and `hydra.sweeper.trials` too."""
BASIC = "basic"
"""The sweeper that runs every combination, which this package does itself."""

_LOCK = RLock()
"""Hydra composes with global objects, one command line at a time."""


def compose(overrides: list[str], given: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """The settings, as plain containers, of one job from its overrides: `["env=mpe", "seed=3"]`.

    `given` are parts made in Python, see `build.from_mapping`.
    """
    (job,) = compose_jobs(parse_flags(overrides).options, given).jobs
    return job.settings


def compose_jobs(options: argparse.Namespace, given: Mapping[str, Any] = NOTHING) -> JobList:
    """Every job of a command line, in the order in which they run; raises ConfigError for a search."""
    found = compose_work(options, given)
    if isinstance(found, JobList):
        return found
    raise ConfigError("this is a search, which makes its jobs itself: leave out hydra/sweeper")


def compose_work(options: argparse.Namespace, given: Mapping[str, Any] = NOTHING) -> "Work":
    """Every job of a command line, or what makes them one by one from the scores of those before."""
    with _composer(options, given) as composer:
        return composer.job_list()


def settings_as_yaml(options: argparse.Namespace) -> str:
    """What `--cfg job|hydra|all` prints: the composed settings, or the `--package` among them."""
    with _composer(options) as composer:
        composer.job_list()  # its checks
        return composer.as_yaml()


@contextmanager
def _composer(options: argparse.Namespace, given: Mapping[str, Any] = NOTHING) -> "Iterator[_Composer]":
    with _LOCK:
        if options.multirun:
            leave_accelerators_free()
        fill_store(given)
        with initialize_config_dir(str(conf_dir()), job_name="train", version_base="1.3"):
            yield _Composer(options)


class _Composer:
    """Composes with the Hydra that is initialised."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._name = options.config_name or "config"
        self._loader: Any = GlobalHydra.instance().config_loader()
        self._add_folders([*([Path(options.config_dir)] if options.config_dir else []), *installed_conf_dirs()])
        _complete_files_of_own_parts(self._loader.repository)
        self._checker = OverrideChecker(self._loader, self._name, self._compose)

    def _add_folders(self, folders: list[Path]) -> None:
        search_path, schema = self._loader.get_search_path(), SearchPathQuery(provider="schema")
        for folder in folders:
            search_path.prepend("qmix-jax", f"file://{folder.resolve()}", anchor=schema)
        self._loader.repository.initialize_sources(search_path)

    def job_list(self) -> "Work":
        """Every job, or what makes them one by one."""
        lines = self._options.overrides
        overrides = self._checker.parse(lines)
        _refuse_searchpath(any(override.key_or_group == SEARCHPATH for override in overrides))
        self._checker.check_many(overrides)
        swept = [line for line, override in zip(lines, overrides, strict=True) if override.is_sweep_override()]
        shared = [line for line in lines if line not in swept]
        common = self._checker.checked(self._checker.parse(shared))  # what the jobs share must be right by itself
        _refuse_what_has_no_effect(common)
        mode = RunMode.MULTIRUN if self._options.multirun else common.hydra.mode or RunMode.RUN
        if mode == RunMode.MULTIRUN:
            return self._sweep([*lines, *([f"hydra.mode={mode.name}"] if mode != common.hydra.mode else [])])
        require(not swept, f"{' '.join(swept)} has several values: add -m to run each, or put a list in [ ]")
        if not self._options.cfg:
            _refuse_what_sweeps_have(overrides, common.hydra.runtime.choices["hydra/sweeper"])
        common.hydra.mode = mode
        return JobList((_job(common),))

    def as_yaml(self) -> str:
        """The settings of a single job, as Hydra's own --cfg prints them."""
        config, options = self._compose(self._options.overrides), self._options
        HydraConfig.instance().set_config(config)
        shown = {"job": _without_hydra(config), "hydra": OmegaConf.masked_copy(config, "hydra"), "all": config}
        package = None if options.package == "_global_" else options.package
        found = OmegaConf.select(shown[options.cfg], package) if package else shown[options.cfg]
        require(found is not None, f"--package {package}: there is no such section")
        if not OmegaConf.is_config(found):
            return str(found)
        return f"# @package {package}\n" * bool(package) + OmegaConf.to_yaml(found, resolve=options.resolve).rstrip()

    def _sweep(self, lines: list[str]) -> "Work":
        master, options = self._compose(lines, RunMode.MULTIRUN), self._options
        own, job = list(master.hydra.overrides.task), partial(self._swept_job, master)
        folder = _folder(master, "hydra.sweep.dir").absolute()  # resolved once: the jobs share its ${now:...}
        files = {folder / "multirun.yaml": OmegaConf.to_yaml(master)}
        common = JobList((), folder, files, to_plain(master.hydra.launcher))
        sweeper = master.hydra.runtime.choices["hydra/sweeper"]
        if "_target_" in master.hydra.sweeper and sweeper != BASIC:
            return SweepOfPlugin(sweeper, master, self._loader, own, job, common)
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.get("params") or {}).items()]
        overrides = self._checker.parse([*params, *own])
        if sweeper != BASIC:
            return make_search(to_plain(master.hydra.sweeper), overrides, job, common, _words(options))
        combinations = _combinations(overrides)
        require(bool(combinations), "this sweep has no job: one of its settings has no value")
        return replace(common, jobs=tuple(numbered(combinations, plans_before(folder), job)))

    def _swept_job(self, master: DictConfig, number: int, own: Sequence[str]) -> Job:
        """A job of a sweep by its number and its overrides; also works when this composer's context has ended."""
        self._checker.check(self._checker.parse([*master.hydra.overrides.hydra, *own]))
        with _LOCK:
            try:
                config = self._loader.load_sweep_config(master, list(own))
            except Exception as error:
                raise ConfigError(one_line(error)) from error
            with open_dict(config):
                config.hydra.job.update({"num": number, "id": number})
            return replace(_job(config, is_swept=True), number=number)

    def _compose(self, lines: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """Hydra's composition, with its own part."""
        try:
            return self._loader.load_configuration(self._name, lines, mode, from_shell=False)
        except Exception as error:  # Hydra raises errors of many types for a wrong command line
            raise ConfigError(one_line(error)) from error


def _words(options: argparse.Namespace) -> list[str]:
    """The words of a command line that every job of it has before its overrides."""
    flags = {"--config-dir": options.config_dir, "--config-name": options.config_name}
    return ["qmix-jax", "train", *(f"{flag}={value}" for flag, value in flags.items() if value)]


def _complete_files_of_own_parts(repository: Any) -> None:
    """Let a YAML file of somebody's environment, mixer or network set only what differs.

    A file without a defaults list, whose `name` is an import path or another choice of its group, gets that choice as
    its only default: with it come all settings, and an environment's settings of training.
    """
    load = cache(repository.load_config)  # the jobs of a sweep read a file once, and Hydra changes what it gets

    def load_config(config_path: str) -> Any:
        found, (group, _, choice) = copy.deepcopy(load(config_path)), config_path.partition("/")
        if found is None or group not in GROUPS or found.defaults_list:
            return found
        config: Any = OmegaConf.to_container(found.config, resolve=False)
        name = config.get("name") or (config.get(group) or {}).get("name")
        if isinstance(name, str) and name != choice and found.provider == "qmix-jax":
            REGISTRIES[group]().require(name)
            found.defaults_list = [ConfigDefault(path=f"/{group}/{name}"), ConfigDefault(path="_self_")]
        return found

    repository.load_config = load_config


def _refuse_searchpath(is_set: bool) -> None:
    require(not is_set, f"{SEARCHPATH} has no effect: name the folder of your YAML files with --config-dir=FOLDER")


def _refuse_what_sweeps_have(overrides: list[Override], sweeper: str) -> None:
    found = [str(each.input_line) for each in overrides if each.key_or_group.startswith(OF_SWEEPS)]
    require(sweeper == BASIC, f"hydra/sweeper={sweeper} makes many jobs: add -m")
    require(not found, f"{' '.join(found)} affects only sweeps: add -m, also for a single job")


def _refuse_what_has_no_effect(config: DictConfig) -> None:
    _refuse_searchpath(bool(config.hydra.searchpath))
    chosen = config.hydra.runtime.choices
    launcher = chosen.get("hydra/launcher")
    is_ours = "_target_" not in config.hydra.launcher
    require(is_ours, f"hydra/launcher={launcher} cannot run these jobs; choose one of {', '.join(LAUNCHERS.names)}")
    wrong = [f"{group}={chosen[group]}" for group, name in FIXED.items() if chosen.get(group) != name]
    wrong += [f"hydra.{name}" for name in REFUSED if OmegaConf.select(config.hydra, name)]
    require(not wrong, f"{', '.join(wrong)} has no effect: qmix-jax runs the jobs itself, each with its own log")


def _combinations(overrides: list[Override]) -> list[list[str]]:
    """Every combination of the values that the overrides give, the last override varying fastest."""
    lines: dict[str, list[str]] = {}
    for override in overrides:
        key, is_swept = override.get_key_element(), override.is_sweep_override()
        is_list = not is_swept or override.is_discrete_sweep()
        why = "a sweep takes a list of values; hydra/sweeper=optuna searches a range"
        require(is_list, f"{override.input_line}: {why}")
        values = override.sweep_string_iterator() if is_swept else [override.get_value_element_as_str()]
        lines[key] = [f"{key}={value}" for value in values]
    return [list(combination) for combination in itertools.product(*lines.values())]


def _job(config: DictConfig, is_swept: bool = False) -> Job:
    """The job of a whole composition, Hydra's part included; also looks whether its folder can be made."""
    kind = "sweep" if is_swept else "run"
    setting = f"hydra.{kind}.dir"
    hydra_config = HydraConfig.instance()
    try:
        hydra_config.set_config(config)
        paths = config.hydra[kind]
        folder = _folder(config, setting) / (paths.subdir if is_swept else "")
        _require_writable(folder, setting)
        folder = folder.absolute()
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = str(folder)
        hydra_config.set_config(config)
        is_dated = "${now" in str(OmegaConf.to_container(paths))
        return Job(
            _with_import_folders(to_plain(_without_hydra(config))),
            folder,
            tuple(config.hydra.overrides.task),
            _records(config, folder),
            to_plain(config.hydra.job.env_set),
            setting if is_dated else "",
        )
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    finally:
        hydra_config.cfg = None


def _with_import_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with the folders in which the modules of its import paths were found here."""
    paths = import_paths(settings)
    if not paths:
        return settings
    settings = {**settings, "import_folders": [str(Path(each).absolute()) for each in settings["import_folders"]]}
    search_in(settings["import_folders"])
    for path, setting in paths.items():
        if setting == "callbacks":
            callback_class(path)
        else:
            load(path, setting, "function" if setting == "env.shield" else "class")
    found = [folder for path in paths if (folder := folder_to_record(path))]
    return {**settings, "import_folders": list(dict.fromkeys([*settings["import_folders"], *found]))}


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])


def _records(config: DictConfig, folder: Path) -> dict[Path, str]:
    """The files that Hydra leaves in the folder of a job."""
    if config.hydra.output_subdir is None:
        return {}
    contents = {
        "config": _without_hydra(config),
        "hydra": HydraConfig.instance().cfg,
        "overrides": config.hydra.overrides.task,
    }
    subfolder = folder / config.hydra.output_subdir
    return {subfolder / f"{name}.yaml": OmegaConf.to_yaml(content) for name, content in contents.items()}


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Settings as plain containers, with every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # pyright: ignore[reportReturnType]


def _folder(config: DictConfig, setting: str) -> Path:
    try:
        name = OmegaConf.select(config, setting)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    require(bool(name), f"{setting} is empty: set {setting}=FOLDER, or leave it out")
    return Path(name)


def _require_writable(folder: Path, setting: str) -> None:
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    writable = os.access(existing, os.W_OK | os.X_OK)
    why = "is a file" if not existing.is_dir() else "" if writable else "is not writable"
    require(not why, f"cannot make {folder}: {existing} {why}; set {setting}=FOLDER")


def one_line(error: BaseException) -> str:
    """The first lines of Hydra's and OmegaConf's errors, without their advice, which is about Python code."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no default: set {error.full_key}=VALUE"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    lines = [str(each).strip().splitlines()[0] for each in (error, cause) if each is not None and str(each).strip()]
    key = getattr(cause or error, "full_key", None)
    where = f" ({key})" if key and not any(key in line for line in lines) else ""
    return ": ".join(line.rstrip(".") for line in lines) + where if lines else type(error).__name__
