"""The numbers that a compiled program takes as arguments, so that one program trains with any of their values.

They are the settings whose type is `Traced` (`qmix_jax.settings`) and what follows from them (`traced_property`), each
under its dotted name.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qmix_jax.build import mixer_class
from qmix_jax.config import CheckpointConfig, Config, LoggingConfig, by_name
from qmix_jax.settings import TRACED, traced_numbers, traced_properties

SECTIONS = ("exploration", "learner", "target")
"""The groups of settings with `Traced` ones, besides those of the environment and the mixer."""
ENV, ALGORITHM = "env.", "algorithm."


def numbers(config: Config) -> dict[str, float]:
    """Every number that the program takes."""
    return settings(config) | {
        f"{name}.{derived}": getattr(getattr(config, name), derived)
        for name in SECTIONS
        for derived in traced_properties(type(getattr(config, name)))
    }


def settings(config: Config) -> dict[str, float]:
    """Those numbers that are settings."""
    parts = {f"{name}.": getattr(config, name) for name in SECTIONS} | {ENV: config.env.settings}
    found = {path: traced_numbers(type(part), vars(part)) for path, part in parts.items()}
    found[ALGORITHM] = traced_numbers(mixer_class(config.algorithm), config.algorithm.options)
    return {path + name: value for path, own in found.items() for name, value in own.items()}


def with_numbers(config: Config, numbers: Mapping[str, Any]) -> Config:
    """The config with other values for its numbers, such as tracers, which are not checked."""
    algorithm, own = config.algorithm, _below(ALGORITHM, numbers)
    given = algorithm.given.clone(**own) if algorithm.given else None
    changed = {name: _changed(getattr(config, name), _below(f"{name}.", numbers)) for name in SECTIONS}
    algorithm = replace(algorithm, options={**algorithm.options, **own}, given=given)
    return _changed(config, {**changed, "algorithm": algorithm})


def numbers_of_env(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's own numbers, by the names of its settings."""
    return _below(ENV, numbers)


def program_key(config: Config) -> str:
    """Equal for configs that need the same program on the same devices: they differ in their numbers, the first seed,
    how many seeds may train at once, what is written, and callbacks, on which no compiled code depends.

    The same in every process. Parts that are made in Python, or from elsewhere, are known by their names alone.
    """
    evaluation = replace(config.evaluation, score="last")
    nothing: dict[str, Any] = {"logging": LoggingConfig(), "checkpoint": CheckpointConfig(), "callbacks": ()}
    plain = replace(config, seed=0, num_seeds_at_once="auto", evaluation=evaluation, **nothing)
    return f"{by_name(plain) | dict.fromkeys(settings(config), TRACED)}"


def _below(path: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(path): value for name, value in numbers.items() if name.startswith(path)}


def _changed(part: Any, values: Mapping[str, Any]) -> Any:
    """A shallow copy of a frozen dataclass with these values."""
    made = copy.copy(part)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made
