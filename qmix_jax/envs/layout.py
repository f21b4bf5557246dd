"""The meaning of each number of an observation and of each action: for exported teams, and for transformers."""

from typing import NamedTuple

from qmix_jax.envs.base import TeamEnv


class Feature(NamedTuple):
    """One number of an observation."""

    name: str
    low: float | None = None
    """The smallest value; None where it has no bound."""
    high: float | None = None


class AgentLayout(NamedTuple):
    """One agent's observation and actions in their true sizes, without padding."""

    blocks: tuple[tuple[str, str], ...]
    """The observation's blocks in order: (the entity that it describes, the key of its features in `Layout.kinds`)."""
    actions: tuple[str, ...]
    """What each action does."""
    aims: tuple[str | None, ...] = ()
    """The entity that each action is aimed at, or None; empty where none is aimed."""


class Layout(NamedTuple):
    """The team's observations and actions."""

    kinds: dict[str, tuple[Feature, ...]]
    """The features of each kind of block."""
    agents: tuple[AgentLayout, ...]
    availability: str
    """When an action is legal."""
    state: tuple[tuple[str, str], ...] | None = ()
    """The global state's blocks; None: the agents' observations, concatenated; empty: not described."""

    def features(self, agent: int) -> tuple[Feature, ...]:
        """All features of one agent's observation, in order."""
        return tuple(feature for _, kind in self.agents[agent].blocks for feature in self.kinds[kind])


def layout_of(env: TeamEnv) -> Layout:
    """The result of the environment's own method `layout`, or else one in which numbers have no names."""
    own = getattr(env, "layout", None)
    if own is not None:
        return own()
    spec = env.spec
    observation = tuple(Feature(f"observation_{i}") for i in range(spec.obs_size))
    actions = tuple(f"action_{i}" for i in range(spec.num_actions))
    agent = AgentLayout((("the agent", "observation"),), actions)
    return Layout({"observation": observation}, (agent,) * spec.num_agents, "as the environment says")
