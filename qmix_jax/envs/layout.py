"""What the numbers of an observation and of an action mean, for people and for programs that feed an exported team."""

from typing import NamedTuple

from qmix_jax.envs.base import TeamEnv


class Feature(NamedTuple):
    """One number of an observation."""

    name: str
    low: float | None = None
    """The least that it can be; None where nothing bounds it."""
    high: float | None = None


class AgentLayout(NamedTuple):
    """One agent's observation and actions in their true sizes, without padding."""

    blocks: tuple[tuple[str, str], ...]
    """The observation's blocks in order: (whom or what it is about, which of `Layout.kinds` it holds)."""
    actions: tuple[str, ...]
    """What each action does."""
    aims: tuple[str | None, ...] = ()
    """Whom each action is aimed at; empty where none is aimed."""


class Layout(NamedTuple):
    """The team's observations and actions."""

    kinds: dict[str, tuple[Feature, ...]]
    """The features of each kind of block."""
    agents: tuple[AgentLayout, ...]
    availability: str
    """When an action is legal."""
    state: tuple[tuple[str, str], ...] | None = ()
    """The global state's blocks; None: the agents' observations side by side; empty: it is not described."""

    def features(self, agent: int) -> tuple[Feature, ...]:
        """All features of one agent's observation, in order."""
        return tuple(feature for _, kind in self.agents[agent].blocks for feature in self.kinds[kind])


def layout_of(env: TeamEnv) -> Layout:
    """The layout that the environment's own method `layout` gives, or one that only counts."""
    own = getattr(env, "layout", None)
    if own is not None:
        return own()
    spec = env.spec
    observation = tuple(Feature(f"observation_{i}") for i in range(spec.obs_size))
    actions = tuple(f"action_{i}" for i in range(spec.num_actions))
    agent = AgentLayout((("the agent", "observation"),), actions)
    return Layout({"observation": observation}, (agent,) * spec.num_agents, "as the environment says")
