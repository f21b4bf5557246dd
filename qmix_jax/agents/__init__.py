"""Networks of the agents, one file each, and their registry. Importing this package does not import JAX.

A new network needs a class that fulfils the contract (`base.Network`), a dataclass of its settings and a line in the
registry.
"""

from typing import TYPE_CHECKING

from qmix_jax.registry import Registry

if TYPE_CHECKING:
    from qmix_jax.agents.base import Network

DEFAULT_NETWORK = "gru"

NETWORKS: "Registry[type[Network]]" = Registry(
    __name__,
    {
        "gru": "gru:RecurrentAgents",
        "transformer": "transformer:TransformerAgents",
    },
)
