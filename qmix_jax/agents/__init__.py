"""Networks of the agents, one file each, and their registry. Importing this package does not import JAX.

A new network is a class that fulfils the contract (`base.Agents`), and a line in the registry.
"""

from typing import TYPE_CHECKING

from qmix_jax.registry import Registry

if TYPE_CHECKING:
    from qmix_jax.agents.base import Agents

DEFAULT_NETWORK = "gru"

NETWORKS: "Registry[type[Agents]]" = Registry(
    __name__,
    {
        "gru": "gru:RecurrentAgents",
        "deep_sets": "deep_sets:DeepSetAgents",
        "transformer": "transformer:TransformerAgents",
    },
    setting="agent",
    contract="base:Agents",
    group="qmix_jax.agents",
)
