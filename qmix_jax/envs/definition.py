"""What the program knows of an environment before it makes one. Needs no JAX."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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
    """What other programs call the environment, in small letters."""
