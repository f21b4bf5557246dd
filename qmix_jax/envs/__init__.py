"""Environments under one contract (`base.TeamEnv`), and their registry. Importing this package does not import JAX.

Everything that is known of an environment is in its own file or folder here. A new one needs a class that fulfils
the contract, a dataclass of settings, a `Definition` and a line in the registry.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module

from qmix_jax.envs.definition import Definition

DEFAULT_ENVIRONMENT = "smax"


class Registry(Mapping[str, Definition]):
    """Definitions by name. Each is imported on first use: some modules import JAX, and JaxMARL takes seconds."""

    def __init__(self, places: dict[str, str]):
        self._places = places

    def __getitem__(self, name: str) -> Definition:
        module, _, attribute = self._places[name].partition(":")
        return getattr(import_module(f"{__name__}.{module}"), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


ENVIRONMENTS = Registry(
    {
        "smax": "smax.settings:SMAX",
        "mpe": "mpe.settings:MPE",
        "two_step": "two_step:TWO_STEP",
        "matrix": "matrix:MATRIX",
        "climbing": "matrix:CLIMBING",
        "penalty": "matrix:PENALTY",
        "qplex_game": "matrix:QPLEX_GAME",
        "predator_prey": "predator_prey:PREDATOR_PREY",
        "probe": "probe:PROBE",
    }
)
