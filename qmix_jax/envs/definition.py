"""What the program knows of an environment before it makes one. Needs no JAX."""

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from qmix_jax.config import Config, EnvConfig
from qmix_jax.settings import ConfigError, check_keys, constructor_settings, convert, field_names, require


@dataclass(frozen=True)
class Definition:
    """An environment's entry in the registry (`qmix_jax.envs.ENVIRONMENTS`)."""

    settings: type
    """The dataclass of its settings."""
    make: Callable[[Any], Any]
    """From settings to the environment, a `TeamEnv`."""
    help: str
    """One line for `qmix-jax train --help`."""
    training: Mapping[str, Any]
    """The settings of training that suit it, nested as in a config: defaults where a run sets nothing else."""
    variant: str | None = None
    """The setting that names a map, task or game; None where there is none."""
    variants: tuple[str, ...] = ()
    """The values of that setting."""
    team_sizes: Callable[[Any], dict[str, Any]] = lambda _: {}
    """From settings to settings with teams of several sizes, by label, for benchmarks; empty where teams have one."""
    example: str = ""
    """Overrides of a short run on another variant, suggested after training."""
    other_names: tuple[str, ...] = ()
    """What other programs call the environment, in lower case."""


@cache
def definition_of(cls: Any) -> Definition:
    """The definition of a `TeamEnv` from elsewhere: its settings are what its constructor takes.

    Raises:
        ConfigError: they cannot be settings, or `training` has none of a run.
    """
    settings = constructor_settings(cls)
    check_class(cls, settings)
    return Definition(
        settings=settings,
        make=lambda settings: cls(**vars(settings)),
        help=(cls.__doc__ or "").strip().partition("\n")[0].removesuffix("."),
        training=cls.training,
        variant=cls.variant,
        variants=tuple(cls.variants),
    )


def check_class(cls: Any, settings: type) -> None:
    """Raise ConfigError for the first of an environment's `settings`, the arguments of its constructor, that has the
    name of another setting, and for the first mistake in its `training`.
    """
    common = field_names(EnvConfig, _OWN)
    for name in field_names(settings):
        about = f"the argument {name} of {cls.__name__}() cannot be a setting"
        require(name not in common, f"{about}: env.{name} is one of every environment; give it another name")
    training, hints = cls.training, typing.get_type_hints(Config)
    about = f"{cls.__name__}.training"
    require(isinstance(training, Mapping), f"{about} is of type {type(training).__name__}, but must be a dict")
    try:
        check_keys(training, field_names(Config, ("env", "algorithm")))
        for key in training:
            convert(training[key], Mapping if key == "agent" else hints[key], key)
    except ConfigError as error:
        raise ConfigError(f"{about}: {error}") from error


_OWN = ("settings", "given")
"""Of the fields of `EnvConfig`, those that are no settings themselves."""


def training_of_game(num_steps: int) -> dict[str, Any]:
    """The settings of training for a game of so few steps: a rollout is an episode, and one update follows it."""
    return {
        "total_env_steps": 80_000 * num_steps,
        "agent": {"hidden_size": 16},
        "rollout": {"num_envs": 32, "num_steps": num_steps, "whole_episodes": True},
        "exploration": {"start": 1.0, "finish": 1.0},  # uniform data, as in the papers
        "replay": {"capacity": 16_000 * num_steps},
        "learner": {
            "batch_size": 32,
            "env_steps_per_update": 32 * num_steps,
            "start_env_steps": 0,
            "td_lambda": 0,
            "final_learning_rate_share": 0,
        },
        "target": {"every_env_steps": 640 * num_steps},  # 20 updates
        "evaluation": {"every_env_steps": 8_000 * num_steps, "episodes": 32},
    }
