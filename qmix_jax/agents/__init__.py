"""The networks that act."""

from qmix_jax.agents.gru import AgentInput, RecurrentAgents
from qmix_jax.agents.transformer import TransformerAgents
from qmix_jax.config import AgentConfig
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.entities import team_of

__all__ = ["AgentInput", "Agents", "RecurrentAgents", "TransformerAgents", "make_agents"]

Agents = RecurrentAgents | TransformerAgents
"""The team's networks: `init`, `initial_hidden`, `step` and `unroll`."""


def make_agents(config: AgentConfig, env: TeamEnv) -> Agents:
    """The networks of a config, for an environment."""
    if config.kind == "gru":
        return RecurrentAgents(config, env.spec)
    return TransformerAgents(config, env.spec, team_of(env))
