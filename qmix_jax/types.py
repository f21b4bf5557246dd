"""The records that environments, agents, mixers and the learner exchange, and the names of their axes.

Axes are always in this order, and a leading axis that a function does not mention is added by `jax.vmap`:

    S seed · T time · B environment or batch · N agent · A action · O observation · H hidden · K value stream

A record holds arrays of one environment (or of one sequence) where its docstring names no T or B.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Params = Any
"""A pytree of network parameters."""
EnvState = Any
"""A pytree that only its environment understands."""
CompactObservation = Any
"""What the replay buffer keeps of an observation, in a form that its environment decides (`envs.base.TeamEnv`)."""
RecurrentState = Any
"""A pytree (B, ...) that only its agents understand: what they carry from step to step."""


class TeamSpec(NamedTuple):
    """What the rest of the program knows of an environment.

    Agents with smaller observations or fewer actions are padded to the largest: observations with zeros,
    actions with ones that are never available.
    """

    name: str
    agent_names: tuple[str, ...]
    obs_size: int
    num_actions: int
    state_size: int
    """Length of the global state, also where it is only the concatenated observations."""
    episode_limit: int
    """The largest number of steps an episode can take."""
    idle_action: int | None = None
    """The action that does nothing, always legal; None where there is none."""
    shortest_episode: int = 1
    """No episode takes fewer steps; or where chance could end one at once, no few in a row take fewer on average."""

    @property
    def num_agents(self) -> int:
        """How many agents the team has."""
        return len(self.agent_names)


class Observation(NamedTuple):
    """What is seen before a step."""

    agents: Float[Array, "*batch N O"]
    """Each agent's own observation: all that it may act on."""
    available: Bool[Array, "*batch N A"]
    """True where the action is legal; every agent has a legal action."""
    state: Float[Array, "*batch Z"] | None
    """The global state for the mixer; None where it is the concatenated observations."""


class Outcome(NamedTuple):
    """The result of a step, besides the next state and observation."""

    reward: Float[Array, "*batch"]
    """The team's one reward."""
    terminated: Bool[Array, "*batch"]
    """The task itself ended: nothing follows."""
    truncated: Bool[Array, "*batch"]
    """The time limit cut the episode: something would have followed. Never true with `terminated`."""
    metrics: dict[str, Array] = {}  # noqa: RUF012  (never changed)
    """Further scores (*batch,) by name, such as {"win_rate": won}: summed over the steps of an episode, then averaged
    over the episodes that finished. Every step has the same names.
    """


class AgentInput(NamedTuple):
    """What the agents get at one time, or at T times (a leading axis)."""

    obs: Float[Array, "*T B N O"]
    last_action: Int[Array, "*T B N"]
    """Ignored where `first` is true; num_actions stands for none."""
    first: Bool[Array, "*T B"]
    """The episode begins here: the recurrent state is reset before this step."""


class AgentOutput(NamedTuple):
    """What the agents make of an `AgentInput`."""

    q: Float[Array, "*T B N A"]
    """Each agent's value of each of its actions."""
    features: Float[Array, "*T B N H"]
    """What mixers see of each agent: its recurrent state as one vector, after its observation."""


class Sequence(NamedTuple):
    """T consecutive steps of one environment, cut across episode ends: what replay stores and the learner gets.

    There are T+1 observations. The last one only bootstraps, and it is the true successor of step T-1, also where
    that step ended the episode; every other observation after an end is the first of the next episode.
    """

    observation: Observation | CompactObservation
    """(T+1, ...); in its compact form from the rollout until a batch is drawn."""
    action: Int[Array, "*batch T N"]
    reward: Float[Array, "*batch T"]
    first: Bool[Array, "*batch T"]
    """The episode began at t: recurrent state and last action are reset *before* step t."""
    terminated: Bool[Array, "*batch T"]
    truncated: Bool[Array, "*batch T"]
    last_action: Int[Array, "*batch N"]
    """The action before the sequence's first step (num_actions: none)."""
    hidden: RecurrentState
    """The recurrent state before the sequence's first step, as the rollout had it (R2D2's stored state)."""


def swap_time_and_batch(sequences: Sequence) -> Sequence:
    """Many sequences (B, T, ...) as arrays with time first (T, B, ...), or back."""
    timed = sequences._replace(last_action=None, hidden=None)
    timed = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), timed)
    return timed._replace(last_action=sequences.last_action, hidden=sequences.hidden)


class MixerInput(NamedTuple):
    """What a mixer sees of one joint action, at each of `*batch` times."""

    chosen_q: Float[Array, "*batch N"]
    """Each agent's value of its own action in the joint action."""
    greedy_q: Float[Array, "*batch N"]
    """Each agent's largest value among its legal actions."""
    action: Float[Array, "*batch N A"]
    """The joint action, one-hot."""
    is_greedy: Bool[Array, "*batch N"]
    """Whether the agent's action is its greedy one: by the online network; in the joint action that makes a target, by
    the network that selects it, so that it is true throughout."""
    hidden: Float[Array, "*batch N H"]
    """Each agent's features (`AgentOutput.features`)."""
    state: Float[Array, "*batch Z"]


class TeamValues(NamedTuple):
    """The team's values of the joint action that it takes."""

    q: Float[Array, "*batch N"]
    """Each agent's value of its own action."""
    q_tot: Float[Array, "*batch"] | None
    """The team's value; None where the mixer has one stream for each agent (independent learners)."""
    credit: Float[Array, "*batch N"] | None
    """dQ_tot / dQ_i: how much the team's value moves with each agent's."""


class Behaviour(NamedTuple):
    """What each agent of S seeds' teams did: means over the steps at which an agent could choose (had several legal
    actions); NaN where it never could.
    """

    steps: np.ndarray
    """(S, N) how many these steps were."""
    q: np.ndarray
    """(S, N) the agent's value of the action that it took, in scaled rewards (`learner.reward_scale`)."""
    credit: np.ndarray | None
    """(S, N) dQ_tot / dQ_i; None for independent learners, which have no Q_tot."""
    actions: np.ndarray
    """(S, N, A) the share of each action."""


class Clock(NamedTuple):
    """The one answer to *when*. It is never batched over seeds, so that `lax.cond` on it stays a branch."""

    iteration: Int[Array, ""]
    """Iterations completed; every other time is derived from it."""
    replay_start: Int[Array, ""] | int = 0
    """The iteration that began with an empty replay: 0, or where a run was resumed without its replay."""


def action_dtype(spec: TeamSpec) -> Any:
    """The smallest integer type that holds every action and `num_actions`, which stands for none."""
    return jnp.int8 if spec.num_actions < 127 else jnp.int16


def tree_bytes(tree: Any) -> int:
    """Bytes that the arrays (or shapes) of a pytree take."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def tree_where(condition: Bool[Array, "*batch"], yes: Any, no: Any) -> Any:
    """`jnp.where` leaf by leaf; the condition's axes lead in every leaf."""

    def of_leaf(a: Array, b: Array) -> Array:
        return jnp.where(jnp.reshape(condition, condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return jax.tree.map(of_leaf, yes, no)


def global_state(observation: Observation) -> Float[Array, "*batch Z"]:
    """The state for the mixer: the environment's own, or else the agents' observations side by side."""
    if observation.state is not None:
        return observation.state
    obs = observation.agents
    return jnp.reshape(obs, (*obs.shape[:-2], obs.shape[-2] * obs.shape[-1]))
