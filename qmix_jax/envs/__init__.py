"""Environments under one contract (`base.TeamEnv`), and their registry. Importing this package does not import JAX.

Everything that is known of an environment is in its own file or folder here. A new one needs a class that fulfils
the contract, a dataclass of settings, a `Definition` and a line in the registry. `qmix-jax train --help` reads `help`,
`variant` and `variants` from the source of the `Definition`, so they are constants, or `get_args` of a `Literal`.
"""

from qmix_jax.envs.definition import Definition, definition_of
from qmix_jax.registry import Registry

DEFAULT_ENVIRONMENT = "smax"

ENVIRONMENTS: Registry[Definition] = Registry(
    __name__,
    {
        "smax": "smax.settings:SMAX",
        "mpe": "mpe.settings:MPE",
        "connector": "connector.settings:CONNECTOR",
        "two_step": "two_step:TWO_STEP",
        "matrix": "matrix:MATRIX",
        "climbing": "matrix:CLIMBING",
        "penalty": "matrix:PENALTY",
        "qplex_game": "matrix:QPLEX_GAME",
        "predator_prey": "predator_prey:PREDATOR_PREY",
        "foraging": "foraging.settings:FORAGING",
        "warehouse": "warehouse.settings:WAREHOUSE",
        "probe": "probe:PROBE",
        "jaxnav": "jaxnav.settings:JAXNAV",
        "jaxmarl": "jaxmarl.settings:JAXMARL",
    },
    setting="env",
    contract="base:TeamEnv",
    group="qmix_jax.environments",
    adapt=definition_of,
)
