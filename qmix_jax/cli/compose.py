"""From Hydra's command line to the settings of every job, before anything runs.

Whatever is wrong (a flag, an override, a choice, a value that does not resolve) becomes a `ConfigError`, one line that
names the mistake and the nearest right name. Hydra runs the jobs afterwards, from the same command line.
"""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from qmix_jax.cli.conf import conf_dir, fill_store
from qmix_jax.cli.overrides import OverrideChecker
from qmix_jax.settings import ConfigError, require

# --- the command line --------------------------------------------------------------------------------------------


class Flags(NamedTuple):
    """A command line in Hydra's grammar."""

    options: argparse.Namespace
    argv: list[str]
    """The same, in an order that Hydra's own parser understands."""

    @property
    def composes(self) -> bool:
        """Whether settings matter at all."""
        return not (self.options.hydra_help or self.options.shell_completion)

    @property
    def runs(self) -> bool:
        """Whether jobs are to run, rather than something to be shown."""
        return self.composes and not (self.options.cfg or self.options.info)


def parse_flags(arguments: list[str]) -> Flags:
    """Read Hydra's flags; overrides may stand anywhere among them."""
    parser = get_args_parser()
    parser.error = _refuse_flag
    options = parser.parse_intermixed_args(arguments)
    modes = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(options, name)]
    require(len(modes) <= 1, f"only one of {' and '.join('--' + name for name in modes)} can be given")
    require(options.cfg or not options.resolve, "--resolve goes with --cfg")
    require(options.experimental_rerun is None, "--experimental-rerun is not supported")
    require(options.config_path is None, "--config-path would lose all settings; --config-dir FOLDER adds to them")
    folder = options.config_dir
    require(folder is None or Path(folder).is_dir(), f"--config-dir {folder}: there is no such folder")
    flags = [argument for argument in arguments if argument not in options.overrides]
    return Flags(options, [*options.overrides, *flags])


def _refuse_flag(message: str) -> NoReturn:
    word = message.removeprefix("unrecognized arguments: ").split()[0]
    if word.startswith("-"):
        name, _, value = word.lstrip("-").partition("=")
        raise ConfigError(
            f"unknown option '{word}'; settings have no dashes: {name.replace('-', '_')}={value or 'VALUE'}"
        )
    raise ConfigError(" ".join(message.split()))


def compose(overrides: list[str]) -> dict[str, Any]:
    """The settings, as plain containers, of one job from its overrides: `["env=mpe", "seed=3"]`."""
    (job,) = compose_jobs(parse_flags(overrides).options)
    return job.settings


# --- jobs --------------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What one job of a command line will do."""

    settings: dict[str, Any]
    """As plain containers."""
    folder: Path
    dated: str
    """The setting that makes its folder another one at every start; '' where none does."""


def compose_jobs(options: argparse.Namespace) -> list[Job]:
    """Every job of a command line, in the order in which Hydra will run them."""
    fill_store()
    with initialize_config_dir(str(conf_dir()), job_name="train", version_base="1.3"):
        return _Composer(options).jobs()


class _Composer:
    """Composes with the Hydra that is initialised."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._name = options.config_name or "config"
        loader: Any = GlobalHydra.instance().config_loader()
        if options.config_dir:
            search_path, schema = loader.get_search_path(), SearchPathQuery(provider="schema")
            search_path.prepend("command-line", f"file://{Path(options.config_dir).resolve()}", anchor=schema)
            loader.repository.initialize_sources(search_path)
        self._load = loader.load_configuration
        self._checker = OverrideChecker(loader, self._compose)

    def jobs(self) -> list[Job]:
        """Every job."""
        lines = self._options.overrides
        overrides = self._checker.parse(lines)
        shared = [line for line, override in zip(lines, overrides, strict=True) if not override.is_sweep_override()]
        master = self._checked(shared)  # as Hydra does: what the jobs share must be right by itself
        if not self._options.multirun and master.hydra.mode != RunMode.MULTIRUN:
            several = " ".join(line for line in lines if line not in shared)
            require(not several, f"{several} has several values: add -m to run each, or put a list in [ ]")
            return [self._job(master)]
        hydras = [line for line, override in zip(lines, overrides, strict=True) if override.is_hydra_override()]
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.get("params") or {}).items()]
        swept = self._checker.parse([*params, *(line for line in lines if line not in hydras)])
        combinations = BasicSweeper.split_arguments(swept, None)[0]
        require(bool(combinations), "this sweep has no job: one of its settings has no value")
        return [self._job(self._checked([*hydras, *own]), number) for number, own in enumerate(combinations)]

    def _checked(self, lines: list[str]) -> DictConfig:
        self._checker.check(self._checker.parse(lines))
        return self._compose(lines)

    def _compose(self, lines: list[str]) -> DictConfig:
        """Hydra's composition, with its own part."""
        try:
            return self._load(self._name, lines, RunMode.RUN, from_shell=False)
        except Exception as error:  # whatever it is, it is Hydra's answer to what it was told
            raise ConfigError(one_line(error)) from error

    @staticmethod
    def _job(config: DictConfig, number: int | None = None) -> Job:
        """A job; also looks whether its folder can be made."""
        with open_dict(config):
            config.hydra.job.update({"num": number or 0, "id": str(number or 0)})
        try:
            HydraConfig.instance().set_config(config)
            kind = "run" if number is None else "sweep"
            paths = config.hydra[kind]
            dated = "${now" in str(OmegaConf.to_container(paths))
            folder = Path(paths.dir) / (paths.subdir if number is not None else "")
            _require_writable(folder)
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            return Job(to_plain(own), folder, f"hydra.{kind}.dir" if dated else "")
        except OmegaConfBaseException as error:
            raise ConfigError(one_line(error)) from error
        finally:
            HydraConfig.instance().cfg = None


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Settings as plain containers, with every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # pyright: ignore[reportReturnType]


def _require_writable(folder: Path) -> None:
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    require(writable, f"cannot make {folder}: {existing} is not writable; go elsewhere, or set hydra.run.dir=FOLDER")


def one_line(error: BaseException) -> str:
    """What Hydra and OmegaConf say in many lines, without their advice, which is not for here."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    lines = [str(each).strip().splitlines()[0] for each in (error, cause) if each is not None and str(each).strip()]
    key = getattr(cause or error, "full_key", None)
    where = f" ({key})" if key and not any(key in line for line in lines) else ""
    return ": ".join(line.rstrip(".") for line in lines) + where if lines else type(error).__name__
