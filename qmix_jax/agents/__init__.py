"""The networks that act."""

from qmix_jax.agents.base import Agents
from qmix_jax.agents.gru import RecurrentAgents
from qmix_jax.agents.transformer import TransformerAgents

__all__ = ["Agents", "RecurrentAgents", "TransformerAgents"]
