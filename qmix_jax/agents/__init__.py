"""The networks that act."""

from qmix_jax.agents.base import Agents
from qmix_jax.agents.gru import RecurrentAgents
from qmix_jax.agents.transformer import TransformerAgents
from qmix_jax.config import AgentConfig
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.entities import team_of

__all__ = ["Agents", "RecurrentAgents", "TransformerAgents", "make_agents"]


def make_agents(config: AgentConfig, env: TeamEnv) -> Agents:
    """The networks of a config, for an environment."""
    if config.kind == "gru":
        return RecurrentAgents(config, env.spec)
    return TransformerAgents(config, env.spec, team_of(env))
