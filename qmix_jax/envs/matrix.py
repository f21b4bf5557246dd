"""Games of one step: the payoff table of the settings, and those with a name in the literature."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.definition import Definition, training_of_game
from qmix_jax.envs.layout import AgentLayout, Feature, Layout
from qmix_jax.settings import LARGEST, Traced, require, shown
from qmix_jax.types import Observation, Outcome, TeamSpec

# --- the environment ---------------------------------------------------------------------------------------------


class MatrixState(NamedTuple):
    """The joint action just taken (-1 before it)."""

    action: Int[Array, "N"]


class Matrix(TeamEnv):
    """A one-step game: every agent picks an action and the team gets payoff[action_0, action_1, ...].

    Observations and the state are the constant 1: all there is to learn is the table.
    """

    painter = "qmix_jax.envs.matrix_painter:paint_matrix"

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


# --- any payoff --------------------------------------------------------------------------------------------------

MAX_AXES = 32  # of a payoff


@dataclass(frozen=True)
class MatrixConfig:
    """A game of one step: the payoff is indexed by the agents' actions, one axis an agent."""

    payoff: tuple = ((8.0, -12.0, -12.0), (-12.0, 0.0, 0.0), (-12.0, 0.0, 0.0))
    """Indexed by the agents' actions, one axis an agent; on the command line 'env.payoff=[[1,0],[0,2]]'."""

    def __post_init__(self):
        num_axes = len(_table_shape(self.payoff))
        require(num_axes > 1, "env.payoff needs one axis an agent and two agents or more, such as [[1,0],[0,2]]")


def _table_shape(table: Any, depth: int = 0) -> tuple[int, ...]:
    """The shape of nested lists of numbers; raises ConfigError where they are no table."""
    require(depth <= MAX_AXES, f"env.payoff has more than {MAX_AXES} axes, one an agent")
    if not isinstance(table, list | tuple):
        is_number = isinstance(table, int | float) and not isinstance(table, bool)
        require(is_number and abs(table) <= LARGEST, f"env.payoff holds {shown(table)}, which is no number of float32")
        return ()
    shapes = {_table_shape(row, depth + 1) for row in table}
    require(len(shapes) == 1, "env.payoff must be a table of numbers with rows of one length, and none of them empty")
    return len(table), *shapes.pop()


MATRIX = Definition(
    settings=MatrixConfig,
    make=lambda settings: Matrix(settings.payoff),
    help="A game of one step with any payoff; the default (QTRAN paper) is not monotonic: its best is 8",
    training=training_of_game(1),
)

# --- games with a name -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClimbingConfig:
    """The climbing game (Claus and Boutilier 1998): an agent that leaves the best joint action alone loses 30."""


CLIMBING_PAYOFF = ((11, -30, 0), (-30, 7, 0), (0, 6, 5))

CLIMBING = Definition(
    settings=ClimbingConfig,
    make=lambda settings: Matrix(CLIMBING_PAYOFF, "climbing game"),
    help="The climbing game (Claus and Boutilier 1998): best 11, beside -30",
    training=training_of_game(1),
)


@dataclass(frozen=True)
class PenaltyConfig:
    """The penalty game (Claus and Boutilier 1998): two best payoffs, and `k` where the agents choose different ones."""

    k: Traced[float] = -100.0
    """Reward of agents that choose different best places: 0, -25, -50, -75, -100 as published."""


def penalty_payoff(k: float) -> tuple:
    """The best is 10, twice; agents that choose different ones get k."""
    return ((k, 0, 10), (0, 2, 0), (10, 0, k))


class Penalty(Matrix):
    """The penalty game."""

    def __init__(self, settings: PenaltyConfig):
        super().__init__(penalty_payoff(settings.k), f"penalty game, k = {settings.k:g}")

    def with_numbers(self, numbers: Mapping[str, Any]) -> "TeamEnv":
        """A copy with another k."""
        return super().with_numbers({"payoff": jnp.asarray(penalty_payoff(numbers["k"]), float)})


PENALTY = Definition(
    settings=PenaltyConfig,
    make=Penalty,
    help="The penalty game (Claus and Boutilier 1998): best 10, in two places",
    training=training_of_game(1),
)

Game = Literal["harder", "flat"]


@dataclass(frozen=True)
class QplexGameConfig:
    """The matrix games of the QPLEX paper; its other one, QTRAN's, is the default payoff of `MatrixConfig`."""

    game: Game = "harder"
    """harder: two equilibria of 6 beside the 8; flat: 10 in most places beside the 10.4."""


QPLEX_PAYOFFS: dict[Game, tuple] = {
    "harder": ((8, -12, -12), (-12, 6, 0), (-12, 0, 6)),  # table 2a: two more equilibria, of 6; the best is 8
    "flat": ((10.4, 0, 10), (0, 10, 10), (10, 10, 10)),  # matrix_game_1 of the public code; the best is 10.4
}

QPLEX_GAME = Definition(
    settings=QplexGameConfig,
    make=lambda settings: Matrix(QPLEX_PAYOFFS[settings.game], f"QPLEX's {settings.game} game"),
    help="The other matrix games of the QPLEX paper (Wang et al. 2021): best 8 and 10.4",
    training=training_of_game(1),
    variant="game",
    variants=get_args(Game),
)
