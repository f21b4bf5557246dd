"""Registries: classes and definitions by name, each imported on first use, because most of them import JAX."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """What a package offers by name, where `places` maps each name to "module:attribute" within the package."""

    def __init__(self, package: str, places: dict[str, str]):
        self._package, self._places = package, places

    def place(self, name: str) -> tuple[str, str]:
        """The module and the attribute of an entry."""
        module, _, attribute = self._places[name].partition(":")
        return f"{self._package}.{module}", attribute

    def __getitem__(self, name: str) -> T:
        module, attribute = self.place(name)
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
