"""Objects by import path, package.module:Name, and the folders in which their modules are found."""

import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from qmix_jax.settings import ConfigError, nearest, require, shown

MADE_IN_PYTHON = " (made in Python)"
"""Ends the name of a part of a run that cannot be made again from its settings."""
PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class ImportPathError(ConfigError):
    """An import path leads to nothing that can be used."""


def is_import_path(value: Any) -> bool:
    """Whether a value is written like package.module:Name."""
    return isinstance(value, str) and PATTERN.fullmatch(value) is not None


def title_of(name: str) -> str:
    """The name of an environment, a mixer or a network for people and for folders: of an import path the class."""
    return name.rpartition(":")[2].partition(" ")[0]


def search_in(folders: Iterable[str]) -> None:
    """Add folders to the end of Python's search path, where they hide no installed package."""
    sys.path += [folder for folder in folders if folder not in sys.path]


def imported(path: str) -> Callable[..., Any]:
    """A function that imports what an import path of this package names, and calls it."""
    module, _, name = path.partition(":")
    return lambda *arguments: getattr(import_module(module), name)(*arguments)


def load(path: str, setting: str, kind: str = "class") -> Any:
    """The object that an import path names.

    Raises:
        ConfigError: the path is not well-formed, its module cannot be imported, or has no such name. `setting` is
            what has the path as its value, and `kind` what it should name, for the message.
    """
    is_path = is_import_path(path)
    require(is_path, f"{setting}={shown(path)} must be written package.module:{_placeholder(kind)}{dotted(path)}")
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # a module can raise anything
        package = module_name.partition(".")[0]
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == package
        where = _where_to_look(package) if is_missing else place_of(error) or _hidden(sys.modules.get(package))
        reason = dotted(path) if module_name.endswith(".py") else where
        message = f"{setting}={path}: {module_name} cannot be imported ({describe(error)}){reason}"
        raise ImportPathError(message) from error
    if not hasattr(module, name):
        hint = nearest(name, [key for key, value in vars(module).items() if callable(value)])
        raise ImportPathError(f"{setting}={path}: {module_name} has no {kind} {name}{hint or _hidden(module)}")
    return getattr(module, name)


def _placeholder(kind: str) -> str:
    return kind.capitalize() if kind == "class" else kind


def dotted(path: Any) -> str:
    """What an import path should be: ` (did you mean 'package.module:Class'?)` for a path with dots alone, or that of a
    file; else ''.
    """
    module, colon, name = str(path).rpartition(":")
    if str(path).endswith(".py"):
        return f"; the class of a file is written {_module_of(str(path))}:Class"
    fixed = f"{_module_of(module)}:{name}" if colon else ":".join(name.rsplit(".", 1))
    return f" (did you mean '{fixed}'?)" if is_import_path(fixed) and fixed != path else ""


def _module_of(file: str) -> str:
    return file.removesuffix(".py").removeprefix("./").replace("/", ".")


def describe(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def place_of(error: BaseException) -> str:
    """`, at FILE:LINE`: the innermost line of an error that is neither of Python's library nor of an installed package
    nor of this one; '' where there is none.
    """
    own, found, trace = _own_folders(), "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if Path(file).is_absolute() and not _is_below(file, own):
            found = f", at {file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _where_to_look(package: str) -> str:
    if any(Path(package + suffix).exists() for suffix in ("", ".py")):
        return "; the current folder has one: if you trust it, set PYTHONPATH=. before the command"
    return "; looked in installed packages, in PYTHONPATH and in import_folders: name its folder, PYTHONPATH=FOLDER"


def _hidden(module: ModuleType | None) -> str:
    """For a module of Python's library or of an installed package: that it hides a file of the current folder."""
    if module is None:
        return ""
    place, found = Path(*module.__name__.split(".")), getattr(module, "__file__", None)
    file = next((each for each in (place.with_suffix(".py"), place) if each.exists()), None)
    if file is None or (found and _is_below(found, [os.path.realpath(file)])):
        return ""
    return f"; it is {found or 'a part of Python'}, which hides {file} here: give that another name"


def folder_to_record(path: str) -> str | None:
    """The folder in which the top-level module of an import path was found; None where any Python process of this
    installation finds it.
    """
    package = sys.modules.get(path.partition(":")[0].partition(".")[0])
    places = [getattr(package, "__file__", None), *getattr(package, "__path__", [])]
    place = next((Path(each).absolute() for each in places if each), None)
    if place is None:
        return None
    folder = place.parent.parent if place.name == "__init__.py" else place.parent
    return None if _is_below(folder, _installed()) else str(folder)


def _installed() -> list[str]:
    """The folders of Python's library and of installed packages."""
    return [os.path.realpath(folder) for folder in {*sysconfig.get_paths().values()}]


def _own_folders() -> list[str]:
    return [*_installed(), str(Path(__file__).resolve().parent)]


def _is_below(path: str | Path, folders: Iterable[str]) -> bool:
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(folder) for folder in folders)
