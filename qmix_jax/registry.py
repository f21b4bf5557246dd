"""Registries: classes and definitions by name, each imported on first use, because most of them import JAX.

Besides the package's own names a registry has those of installed packages (entry points), and takes import paths.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar

from qmix_jax.import_path import dotted, is_import_path, load
from qmix_jax.settings import require, require_one_of, shown

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """What can be chosen by name for a setting; as a mapping, the package's own names.

    Args:
        package: the package of the own names.
        places: own name -> "module:attribute" within the package.
        setting: the setting, for messages.
        contract: "module:Class" within the package, of which a class from elsewhere must be a subclass.
        group: the group of entry points by which installed packages give names to their classes.
        adapt: from a class from elsewhere to what the registry has for its own names.
    """

    def __init__(
        self,
        package: str,
        places: dict[str, str],
        *,
        setting: str,
        contract: str,
        group: str,
        adapt: Callable[[type], Any] = lambda cls: cls,
    ):
        self._package, self._places = package, places
        self._registered: dict[str, type] = {}
        self._setting, self._contract, self._group, self._adapt = setting, contract, group, adapt

    def place(self, name: str) -> tuple[str, str]:
        """The module and the attribute of an own entry."""
        module, _, attribute = self._places[name].partition(":")
        return f"{self._package}.{module}", attribute

    @cached_property
    def installed(self) -> dict[str, str]:
        """The names that installed packages give -> import paths."""
        return {name: paths[0] for name, paths in self._of_packages.items() if len(paths) == 1}

    @cached_property
    def _of_packages(self) -> dict[str, list[str]]:
        """The names that installed packages give -> the import paths of each, several where packages disagree."""
        from importlib.metadata import entry_points  # 15 ms

        found: dict[str, list[str]] = {}
        for each in entry_points(group=self._group):
            paths = found.setdefault(each.name, [])
            paths += [path for path in [each.value.replace(" ", "")] if path not in paths]
        return {name: paths for name, paths in found.items() if name not in self._places}

    @property
    def names(self) -> list[str]:
        """Every name that can be chosen; import paths besides."""
        return [*self._places, *self.installed, *self._registered]

    def register(self, name: str, cls: type) -> None:
        """Give a class a name in this process; raises ConfigError where the name is taken or the class unfit.

        A class that was defined anew replaces its earlier self.
        """
        require(name.isidentifier(), f"{shown(name)} is no name: it may have letters, digits and underscores")
        before = self._registered.get(name, cls)
        is_same = (before.__module__, before.__qualname__) == (cls.__module__, cls.__qualname__)
        require(is_same and name not in self._places, f"{name} is taken already")
        self.of_class(cls, name)
        self._registered[name] = cls

    def __getitem__(self, name: str) -> T:
        if name in self._places:
            module, attribute = self.place(name)
            return getattr(import_module(module), attribute)
        if name in self._registered:
            return self.of_class(self._registered[name], name)
        path = self.installed.get(name, name)
        if not is_import_path(path):
            raise KeyError(name)
        return self.of_class(load(path, self._setting), path)

    def find(self, name: str) -> T:
        """The entry of a name or an import path; raises ConfigError where there is none."""
        self.require(name)
        return self[name]

    def require(self, name: str, others: Collection[str] = ()) -> None:
        """Raise ConfigError unless a name is one of this registry or of `others`, or has the form of an import path."""
        if is_import_path(name) or name in others:
            return
        paths = self._of_packages.get(name, []) if name not in self.names else []
        either = " or ".join(f"{self._setting}={path}" for path in sorted(paths))
        require(not paths, f"{self._setting}={name} is a name in several installed packages: write {either}")
        hint = dotted(name)
        require(":" not in name, f"{self._setting}={name} must be written package.module:Class{hint}")
        if not hint:
            require_one_of(self._setting, name, list(dict.fromkeys([*self.names, *others])))
        require(not hint, f"{self._setting}={name} is not known{hint}")

    def of_class(self, found: Any, path: str) -> T:
        """The entry of a class from elsewhere; raises ConfigError where it does not fulfil the contract."""
        module, _, name = self._contract.partition(":")
        contract = getattr(import_module(f"{self._package}.{module}"), name)
        fulfils = isinstance(found, type) and issubclass(found, contract)
        require(fulfils, f"{self._setting}={path} is no subclass of qmix_jax.{name}")
        missing = sorted(getattr(found, "__abstractmethods__", ()))
        require(not missing, f"{self._setting}={path} does not define {', '.join(missing)}")
        return self._adapt(found)

    def __contains__(self, name: object) -> bool:
        return name in self.names or is_import_path(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
