"""Settings of a run as untrusted input: plain values, or an error in one line, without much work (docs/trust.md)."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from qmix_jax.deployed_agent import ArtifactError, read_file
from qmix_jax.settings import ConfigError, require

MAX_BYTES, MAX_DEPTH, MAX_EVENTS, MAX_WORD = 1 << 20, 32, 50_000, 1_000
"""Limits: bytes of the file, nesting, events of YAML (about one per value), characters of a value."""

SHOWN = 5
"""The most runs that are named where a folder of runs is given in place of one."""


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it


class _Loader(_SafeLoader):
    """YAML as OmegaConf reads it: 1e-3 is a number, a date is a string, and names are unique."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        if len({key.value for key, _ in node.value}) < len(node.value):
            raise ValueError(f"a name occurs twice in the mapping at line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The contents of a YAML file as plain containers. Nothing in it is executed or looked up elsewhere.

    Raises:
        ConfigError: it is no regular file, too large, too deep or no YAML, or has what settings of a run never have:
            aliases, tags, interpolations, repeated names, integers beyond 64 bits.
    """
    try:
        text = read_file(path, MAX_BYTES).decode("utf-8")
        _check_events(text)
        values = yaml.load(text, _Loader)
        _check_values(values)
    except ArtifactError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, TypeError, yaml.YAMLError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path} is damaged: {_one_line(error)}") from error
    return values


def require_folder(path: Path) -> None:
    """Raise ConfigError unless there is a folder."""
    require(path.is_dir(), f"{path} is a file, not a folder" if path.exists() else f"there is no folder {path}")


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder; raises ConfigError if there is none, or its file is damaged."""
    path = folder / "config.yaml"
    require_folder(folder)
    require(path.is_file(), f"{folder} is no run's folder: it has no config.yaml{_runs_below(folder)}")
    values = read_yaml(path)
    require(isinstance(values, dict), f"{path} is damaged: it holds no settings")
    return values


def _runs_below(folder: Path) -> str:
    """The first runs in a folder of runs, also of one that has a folder for each day."""
    found = [each.parent for depth in ("*", "*/*") for each in sorted(folder.glob(f"{depth}/metrics.jsonl"))]
    found = [str(each) for each in found if (each / "config.yaml").is_file()]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"; choose one of {', '.join(found[:SHOWN])}{more}" if found else ""


def _check_events(text: str) -> None:
    """Raise ValueError for anything that is no plain value, or could grow beyond the size of the file."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, _Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        flaw = _flaw(event) or (depth > MAX_DEPTH and f"more than {MAX_DEPTH} levels")
        if flaw or number > MAX_EVENTS:
            flaw = flaw or f"more than {MAX_EVENTS:,} values"
            raise ValueError(f"{flaw}, which no run's settings have (line {event.start_mark.line + 1})")


def _flaw(event: Any) -> str:
    if isinstance(event, yaml.AliasEvent):
        return "an alias"
    if getattr(event, "tag", None) is not None:
        return "a tag"
    return f"more than {MAX_WORD:,} characters in a value" if len(getattr(event, "value", "")) > MAX_WORD else ""


def require_plain(settings: Any, path: Path) -> None:
    """Raise ConfigError if settings read from `path` hold a value that no setting has."""
    try:
        _check_values(settings)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {_one_line(error)}") from error


def _check_values(value: Any) -> None:
    """Raise ValueError for a value that no setting has."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not (isinstance(name, str) and name.isprintable()):
                raise ValueError(f"{ascii(name)[:80]} is no setting's name")
            _check_values(item)
    elif isinstance(value, list):
        for item in value:
            _check_values(item)
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("an integer is beyond 64 bits")
    elif isinstance(value, str) and ("${" in value or not value.isprintable()):
        raise ValueError(f"{ascii(value)[:80]} is an interpolation, or not printable")


def _one_line(error: BaseException) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1})" if mark else ""
    return " ".join(f"{problem or error}{where}".split()) or type(error).__name__
