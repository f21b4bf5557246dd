"""The QMIX paper's two-step game."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.definition import Definition, training_of_game
from qmix_jax.types import Observation, Outcome, TeamSpec


@dataclass(frozen=True)
class TwoStepConfig:
    """The QMIX paper's two-step game."""


class TwoStepState(NamedTuple):
    """The stage of the game."""

    stage: Int[Array, ""]
    """0: the first choice, 1: state 2A, 2: state 2B, 3: over."""
    action: Int[Array, "N"]
    """The joint action just taken (-1 before it)."""


class TwoStep(TeamEnv):
    """The two-step game of the QMIX paper (Rashid et al. 2018, section 6.1).

    Agent 0's first action picks the second state's payoff table, 2A or 2B; the first reward is 0. The best return is
    8, in 2B; a team that cannot represent 2B's table settles for the 7 of 2A. Observation and state are the stage,
    one-hot.
    """

    painter = "qmix_jax.envs.two_step_painter:paint_two_step"

    def __init__(self, settings: TwoStepConfig):
        del settings
        self.payoff_a = jnp.array([[7.0, 7.0], [7.0, 7.0]])
        self.payoff_b = jnp.array([[0.0, 1.0], [1.0, 8.0]])
        self.spec = TeamSpec("two-step game", ("agent_0", "agent_1"), 4, 2, 4, episode_limit=2, shortest_episode=2)

    def _observation(self, stage: Int[Array, ""]) -> Observation:
        one_hot = jax.nn.one_hot(stage, 4)
        return Observation(jnp.tile(one_hot, (2, 1)), jnp.ones((2, 2), bool), one_hot)

    def reset(self, key: jax.Array) -> tuple[TwoStepState, Observation]:
        """Start at stage 0."""
        del key
        state = TwoStepState(jnp.array(0), jnp.full(2, -1))
        return state, self._observation(state.stage)

    def step(self, key: jax.Array, state: TwoStepState, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """The first step chooses the table; the second is rewarded by it."""
        del key
        is_first = state.stage == 0
        payoff = jnp.where(state.stage == 1, self.payoff_a[tuple(action)], self.payoff_b[tuple(action)])
        stage = jnp.where(is_first, 1 + action[0].astype(int), 3)
        reward = jnp.where(is_first, 0.0, payoff)
        outcome = Outcome(reward, terminated=~is_first, truncated=jnp.array(False))
        return TwoStepState(stage, action.astype(int)), self._observation(stage), outcome

    def scene(self, state: TwoStepState) -> dict[str, Any]:
        """The stage, both tables and the choice."""
        return {"stage": state.stage, "payoff_a": self.payoff_a, "payoff_b": self.payoff_b, "action": state.action}


TWO_STEP = Definition(
    settings=TwoStepConfig,
    make=TwoStep,
    help="The QMIX paper's two-step game: QMIX finds 8, VDN only 7",
    training=training_of_game(2),
)
