"""Games with a known answer, and the probe world: small enough to check by hand."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qmix_jax.config import ProbeConfig, TwoStepConfig
from qmix_jax.envs.base import RemembersObservations
from qmix_jax.envs.layout import AgentLayout, Feature, Layout
from qmix_jax.types import Observation, Outcome, TeamSpec

CLIMBING = ((11, -30, 0), (-30, 7, 0), (0, 6, 5))
"""The climbing game (Claus and Boutilier 1998): the best is 11, and whoever leaves it alone pays 30."""

QPLEX_GAMES = {
    "harder": ((8, -12, -12), (-12, 6, 0), (-12, 0, 6)),  # table 2a: two more equilibria to be caught in; the best is 8
    "flat": ((10.4, 0, 10), (0, 10, 10), (10, 10, 10)),  # matrix_game_1 of the public code; the best is 10.4
}
"""The games of the QPLEX paper (Wang et al. 2021) that are not QTRAN's."""


def penalty(k: float) -> tuple:
    """The penalty game (Claus and Boutilier 1998): the best is 10, twice; agents that choose differently pay k."""
    return ((k, 0, 10), (0, 2, 0), (10, 0, k))


class MatrixState(NamedTuple):
    """The joint action just taken (-1 before it)."""

    action: Int[Array, "N"]


class Matrix(RemembersObservations):
    """A one-step game: every agent picks an action and the team gets payoff[action_0, action_1, ...].

    Observations and the state are the constant 1: all there is to learn is the table.
    """

    def __init__(self, payoff: Any, name: str = "matrix game"):
        self.payoff = jnp.asarray(payoff, float)
        num_agents, num_actions = self.payoff.ndim, max(self.payoff.shape)
        self._available = jnp.arange(num_actions) < jnp.array(self.payoff.shape)[:, None]
        names = tuple(f"agent_{i}" for i in range(num_agents))
        self.spec = TeamSpec(name, names, 1, num_actions, 1, episode_limit=1)

    def layout(self) -> Layout:
        """The constant, and as many actions as the payoff's axis is long."""
        agents = tuple(
            AgentLayout((("the game", "constant"),), tuple(f"choose {i}" for i in range(size)))
            for size in self.payoff.shape
        )
        return Layout({"constant": (Feature("one", 1.0, 1.0),)}, agents, "every action of the agent's own list, always")

    def _observation(self) -> Observation:
        return Observation(jnp.ones((self.spec.num_agents, 1)), self._available, jnp.ones(1))

    def reset(self, key: jax.Array) -> tuple[MatrixState, Observation]:
        """Before the choice."""
        del key
        return MatrixState(jnp.full(self.spec.num_agents, -1)), self._observation()

    def step(self, key: jax.Array, state: MatrixState, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """The payoff of the joint action; the episode ends."""
        del key, state
        reward = self.payoff[tuple(action)]
        outcome = Outcome(reward, terminated=jnp.array(True), truncated=jnp.array(False))
        return MatrixState(action.astype(int)), self._observation(), outcome

    def scene(self, state: MatrixState) -> dict[str, Any]:
        """The table and the choice."""
        return {"payoff": self.payoff, "action": state.action}


class TwoStepState(NamedTuple):
    """Where the game stands."""

    stage: Int[Array, ""]
    """0: the first choice, 1: state 2A, 2: state 2B, 3: over."""
    action: Int[Array, "N"]
    """The joint action just taken (-1 before it)."""


class TwoStep(RemembersObservations):
    """The two-step game of the QMIX paper (Rashid et al. 2018, section 6.1).

    Agent 0's first action picks the second state's payoff table, 2A or 2B; the first reward is 0. The best return is
    8, in 2B; a team that cannot represent 2B's table settles for the 7 of 2A. Observation and state are the stage,
    one-hot.
    """

    payoff_a = jnp.array([[7.0, 7.0], [7.0, 7.0]])
    payoff_b = jnp.array([[0.0, 1.0], [1.0, 8.0]])

    def __init__(self, config: TwoStepConfig):
        del config
        self.spec = TeamSpec("two-step game", ("agent_0", "agent_1"), 4, 2, 4, episode_limit=2, shortest_episode=2)

    def _observation(self, stage: Int[Array, ""]) -> Observation:
        one_hot = jax.nn.one_hot(stage, 4)
        return Observation(jnp.tile(one_hot, (2, 1)), jnp.ones((2, 2), bool), one_hot)

    def reset(self, key: jax.Array) -> tuple[TwoStepState, Observation]:
        """Before the first choice."""
        del key
        state = TwoStepState(jnp.array(0), jnp.full(2, -1))
        return state, self._observation(state.stage)

    def step(self, key: jax.Array, state: TwoStepState, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """The first step chooses the table, the second is paid by it."""
        del key
        is_first = state.stage == 0
        payoff = jnp.where(state.stage == 1, self.payoff_a[tuple(action)], self.payoff_b[tuple(action)])
        stage = jnp.where(is_first, 1 + action[0].astype(int), 3)
        reward = jnp.where(is_first, 0.0, payoff)
        outcome = Outcome(reward, terminated=~is_first, truncated=jnp.array(False))
        return TwoStepState(stage, action.astype(int)), self._observation(stage), outcome

    def scene(self, state: TwoStepState) -> dict[str, Any]:
        """The stage, both tables and the choice."""
        return {
            "stage": state.stage,
            "payoff_a": self.payoff_a,
            "payoff_b": self.payoff_b,
            "action": state.action,
        }


class ProbeState(NamedTuple):
    """Which episode, how far in, and how long it will be."""

    episode: Array
    time: Int[Array, ""]
    length: Int[Array, ""]


class Probe(RemembersObservations):
    """A world whose observation names the episode (a random number), the time in it and the agent.

    The reward of step t is t + 1. Episodes end after `episode_length` steps (or after a random number up to it) by
    termination or truncation, as the config says. Agent i may take action a unless (time + i + a) is divisible by 3.
    """

    def __init__(self, config: ProbeConfig):
        self.config = config
        names = tuple(f"agent_{i}" for i in range(config.num_agents))
        limit = config.episode_length
        self._shortest = 1 if config.ends == "random" else limit
        self.spec = TeamSpec("probe", names, 3, 4, 3, episode_limit=limit, shortest_episode=self._shortest)

    def _observation(self, state: ProbeState) -> Observation:
        agent, action = jnp.arange(self.spec.num_agents), jnp.arange(self.spec.num_actions)
        common = jnp.stack([state.episode, state.time.astype(float)])
        obs = jnp.concatenate([jnp.tile(common, (self.spec.num_agents, 1)), agent[:, None].astype(float)], -1)
        available = (state.time + agent[:, None] + action) % 3 != 0
        return Observation(obs, available, jnp.append(common, state.length.astype(float)))

    def reset(self, key: jax.Array) -> tuple[ProbeState, Observation]:
        """A new name, time 0."""
        name_key, length_key = jax.random.split(key)
        length = jax.random.randint(length_key, (), self._shortest, self.config.episode_length + 1)
        state = ProbeState(jax.random.uniform(name_key), jnp.array(0), length)
        return state, self._observation(state)

    def step(self, key: jax.Array, state: ProbeState, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """Time passes."""
        del key
        state = state._replace(time=state.time + 1)
        ended = state.time >= state.length
        is_cut = {"terminated": False, "truncated": True, "random": state.length % 2 == 0}[self.config.ends]
        outcome = Outcome(
            reward=state.time.astype(float),
            terminated=ended & ~jnp.array(is_cut),
            truncated=ended & is_cut,
            metrics={"win_rate": ended & (action[0] == 0)},
        )
        return state, self._observation(state), outcome

    def scene(self, state: ProbeState) -> dict[str, Any]:
        """Nothing worth painting but the time."""
        return {"time": state.time}
