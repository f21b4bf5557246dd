"""The networks that act."""

from qmix_jax.agents.gru import AgentInput, RecurrentAgents
from qmix_jax.agents.transformer import TransformerAgents

__all__ = ["AgentInput", "Agents", "RecurrentAgents", "TransformerAgents"]

Agents = RecurrentAgents | TransformerAgents
"""The team's networks: `init`, `initial_hidden`, `step` and `unroll`."""
