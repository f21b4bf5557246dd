"""Predator-prey with punishment: the game of relative overgeneralisation (Böhmer et al. 2020, section 5.1)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.actions import random_action
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.definition import Definition
from qmix_jax.settings import NotPositive, Traced
from qmix_jax.types import Observation, Outcome, TeamSpec

SIZE, NUM_AGENTS, NUM_PREY, REACH, LIMIT = 10, 8, 8, 2, 200
UNITS = NUM_AGENTS + NUM_PREY
VIEW = 2 * REACH + 1
STAY, CAPTURE, NUM_ACTIONS = 0, 5, 6  # 1 to 4 move
MOVES = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]], np.int32)
"""Right, down, left, up, as steps of (row, column)."""
CAPTURE_REWARD = 10.0


@dataclass(frozen=True)
class PredatorPreyConfig:
    """Eight agents hunt eight prey on a grid, two at a time."""

    punishment: Traced[NotPositive] = 0.0
    """Reward when one agent tries a capture alone: 0, -0.5, -1, -1.5, -2; from -1 on, monotonic mixers give up."""


class Board(NamedTuple):
    """The positions of all units; U counts the agents and then the prey."""

    position: Int[Array, "U 2"]
    """Row and column."""
    is_present: Bool[Array, "U"]
    """False for captured prey and for the agents that captured it."""


class PredatorPreyState(NamedTuple):
    """The board, which agents tried to capture in the previous step, and the steps taken."""

    board: Board
    is_capturing: Bool[Array, "N"]
    time: Int[Array, ""]


class PredatorPrey(TeamEnv):
    """Eight agents hunt eight prey on a grid of 10 x 10; each sees the 5 x 5 cells around it.

    Actions are stay, four moves and capture. A move off the grid is illegal, one into an occupied cell does nothing.
    Capture is legal beside a prey (no diagonals). In a step, first the agents move one after the other in random
    order. Then for each prey, in random order:

    - If two or more agents beside it capture, the team gets 10, and the prey and all of those agents are removed.
    - If only one does, the team gets `punishment`. An agent beside several prey can cause it several times.
    - If it is not captured, it moves to a random free cell beside it, or stays where there is none.

    At most there are four captures, a return of 40. The episode terminates when no agent (or no prey) is left and is
    truncated after 200 steps. Removed agents see zeros and may only stay. An observation marks agents and then prey
    in the view; the state marks both on the whole grid.

    The rules are those of the authors' stag hunt (wendelinboehmer/dcg) as set up for relative overgeneralisation. Two
    differences: their observation and state have a third channel, for hares, which is always empty; and an episode
    whose last agents leave with step 200 terminates here, where theirs is truncated.
    """

    painter = "qmix_jax.envs.predator_prey_painter:paint_predator_prey"

    def __init__(self, settings: PredatorPreyConfig):
        self.punishment = settings.punishment
        self.spec = TeamSpec(
            name=f"predator-prey, punishment {settings.punishment:g}",
            agent_names=tuple(f"agent_{i}" for i in range(NUM_AGENTS)),
            obs_size=2 * VIEW * VIEW,
            num_actions=NUM_ACTIONS,
            state_size=2 * SIZE * SIZE,
            episode_limit=LIMIT,
            idle_action=STAY,
            shortest_episode=7,  # of 20,000 hunts one took 5 steps, but no three in a row fewer than 32 each
        )

    def reset(self, key: jax.Array) -> tuple[PredatorPreyState, Observation]:
        """Place all units in different random cells."""
        cell = jax.random.choice(key, SIZE * SIZE, (UNITS,), replace=False)
        board = Board(jnp.stack([cell // SIZE, cell % SIZE], axis=-1), jnp.ones(UNITS, bool))
        return PredatorPreyState(board, jnp.zeros(NUM_AGENTS, bool), jnp.array(0)), observe(board)

    def step(
        self, key: jax.Array, state: PredatorPreyState, action: Int[Array, "N"]
    ) -> tuple[PredatorPreyState, Observation, Outcome]:
        """The agents move, then the prey are captured or move."""
        order, choice_noise = jax.random.uniform(key, (2, UNITS))
        is_capturing = state.board.is_present[:NUM_AGENTS] & (action == CAPTURE)
        board = agents_move(state.board, action, order[:NUM_AGENTS])
        board, captures, failures = prey_act(board, is_capturing, order[NUM_AGENTS:], choice_noise[NUM_AGENTS:])
        time = state.time + 1
        terminated = ~jnp.any(board.is_present[:NUM_AGENTS]) | ~jnp.any(board.is_present[NUM_AGENTS:])
        outcome = Outcome(
            reward=CAPTURE_REWARD * captures + self.punishment * failures,
            terminated=terminated,
            truncated=~terminated & (time >= LIMIT),
        )
        return PredatorPreyState(board, is_capturing, time), observe(board), outcome

    def compress(self, state: PredatorPreyState, observation: Observation) -> Board:
        """The board, one byte a number."""
        del observation
        return state.board._replace(position=state.board.position.astype(jnp.int8))

    def decompress(self, compact: Board) -> Observation:
        """What the agents saw of the board."""
        return observe(compact._replace(position=compact.position.astype(int)))

    def scene(self, state: PredatorPreyState) -> dict[str, Any]:
        """Positions of agents and then prey by row and column, which are still there, which agents tried to capture."""
        return {
            "position": state.board.position,
            "is_present": state.board.is_present,
            "is_capturing": state.is_capturing,
        }


# --- dynamics ----------------------------------------------------------------------------------------------------


def in_order(order: Float[Array, "M"]) -> Bool[Array, "M M"]:
    """Row k marks the unit with the k-th smallest number (of equals, the first)."""
    index = jnp.arange(order.shape[0])
    is_before = (order[None] < order[:, None]) | ((order[None] == order[:, None]) & (index[None] < index[:, None]))
    return jnp.sum(is_before, axis=1) == index[:, None]


def is_free(board: Board, cell: Int[Array, "M 2"]) -> Bool[Array, "M"]:
    """Whether each cell lies on the grid and is empty."""
    is_taken = jnp.all(board.position == cell[:, None], axis=-1) & board.is_present
    return is_on_grid(cell) & ~jnp.any(is_taken, axis=1)


def is_on_grid(cell: Int[Array, "*batch 2"]) -> Bool[Array, "*batch"]:
    """Whether each cell lies on the grid."""
    return jnp.all((cell >= 0) & (cell < SIZE), axis=-1)


def agents_move(board: Board, action: Int[Array, "N"], order: Float[Array, "N"]) -> Board:
    """Each agent in turn moves as it chose, if the cell is still free."""
    is_moving = board.is_present[:NUM_AGENTS] & (action != STAY) & (action != CAPTURE)
    goal = board.position[:NUM_AGENTS] + jnp.asarray(MOVES)[jnp.clip(action - 1, 0, 3)]

    def move(board: Board, is_next: Bool[Array, "N"]) -> tuple[Board, None]:
        cell = _row(is_next, goal)
        moves = jnp.pad(is_next & is_free(board, cell[None]), (0, NUM_PREY))
        return _put(board, moves, cell), None

    return lax.scan(move, board, in_order(order) & is_moving)[0]


def prey_act(
    board: Board, is_capturing: Bool[Array, "N"], order: Float[Array, "P"], choice_noise: Float[Array, "P"]
) -> tuple[Board, Int[Array, ""], Int[Array, ""]]:
    """Each prey in turn is captured or moves. Also counts captures, and captures that one agent tried alone."""

    def act(board: Board, is_next: Bool[Array, "P"]) -> tuple[Board, Int[Array, ""]]:
        here = _row(is_next, board.position[NUM_AGENTS:])
        is_captor = is_capturing & board.is_present[:NUM_AGENTS] & is_beside(board.position[:NUM_AGENTS], here[None])
        count = jnp.where(jnp.any(is_next), jnp.sum(is_captor), 0)
        leaves = jnp.concatenate([is_captor, is_next]) & (count > 1)
        board = board._replace(is_present=board.is_present & ~leaves)
        cells = here + MOVES
        free = is_free(board, cells) & (count < 2)
        choice = random_action(jnp.sum(jnp.where(is_next, choice_noise, 0.0)), free)
        moves = jnp.pad(is_next & jnp.any(free), (NUM_AGENTS, 0))
        return _put(board, moves, _row(jnp.arange(4) == choice, cells)), count

    board, counts = lax.scan(act, board, in_order(order) & board.is_present[NUM_AGENTS:])
    return board, jnp.sum(counts > 1), jnp.sum(counts == 1)


def _row(is_it: Bool[Array, "M"], cells: Int[Array, "M 2"]) -> Int[Array, "2"]:
    """The marked cell, or (0, 0) if none is."""
    return jnp.sum(jnp.where(is_it[:, None], cells, 0), axis=0)


def _put(board: Board, is_moved: Bool[Array, "U"], cell: Int[Array, "2"]) -> Board:
    """The board with the marked unit, if there is one, in `cell`."""
    return board._replace(position=jnp.where(is_moved[:, None], cell, board.position))


def is_beside(cell: Int[Array, "*#batch 2"], other: Int[Array, "*#batch 2"]) -> Bool[Array, "*batch"]:
    """Whether two cells share an edge."""
    return jnp.sum(jnp.abs(cell - other), axis=-1) == 1


# --- observations ------------------------------------------------------------------------------------------------


def observe(board: Board) -> Observation:
    """The agents' views, legal actions and the grid."""
    return Observation(views(board), available(board), grid(board))


def views(board: Board) -> Float[Array, "N O"]:
    """Each agent's 5 x 5 cells, row by row: first those with agents (itself included), then those with prey."""
    seen = board.position[None] - board.position[:NUM_AGENTS, None] + REACH
    is_seen = jnp.all((seen >= 0) & (seen < VIEW), axis=-1) & board.is_present & board.is_present[:NUM_AGENTS, None]
    return _marks(jnp.where(is_seen, seen[..., 0] * VIEW + seen[..., 1], -1), VIEW * VIEW)


def grid(board: Board) -> Float[Array, "Z"]:
    """The whole grid, row by row: first the cells with agents, then those with prey."""
    cell = board.position[:, 0] * SIZE + board.position[:, 1]
    return _marks(jnp.where(board.is_present, cell, -1), SIZE * SIZE)


def _marks(cell: Int[Array, "*batch U"], num_cells: int) -> Float[Array, "*batch M"]:
    """1 in the cell of every agent, then 1 in the cell of every prey; -1 is nowhere."""
    is_at = cell[..., None] == jnp.arange(num_cells)
    agents, prey = is_at[..., :NUM_AGENTS, :], is_at[..., NUM_AGENTS:, :]
    return jnp.concatenate([jnp.any(agents, axis=-2), jnp.any(prey, axis=-2)], axis=-1).astype(float)


def available(board: Board) -> Bool[Array, "N A"]:
    """Stay always, moves within the grid, capture beside a prey."""
    is_active, agents = board.is_present[:NUM_AGENTS, None], board.position[:NUM_AGENTS, None]
    may_move = is_active & is_on_grid(agents + MOVES)
    has_prey = is_beside(agents, board.position[None, NUM_AGENTS:]) & board.is_present[NUM_AGENTS:]
    may_capture = is_active & jnp.any(has_prey, axis=1, keepdims=True)
    return jnp.concatenate([jnp.ones((NUM_AGENTS, 1), bool), may_move, may_capture], axis=1)


TRAINING = {
    "total_env_steps": 400_000,
    "agent": {"hidden_size": 32},
    "rollout": {"num_envs": 32, "num_steps": 20},  # a tenth of the longest episode
    # The longer exploration lasts, the less the mixer matters: over 800,000 of 1e6 steps QMIX too learns to hunt at -2.
    "exploration": {"decay_env_steps": 50_000},
    "replay": {"capacity": 102_400},  # 512 episodes of 200
    "learner": {
        "batch_size": 8,  # many small updates
        "env_steps_per_update": 80,
        "start_env_steps": 6_400,
        "td_lambda": 0,  # longer targets would blame an agent for captures that others tried alone while exploring
    },
    "evaluation": {"every_env_steps": 50_000, "episodes": 32},
}

PREDATOR_PREY = Definition(
    settings=PredatorPreyConfig,
    make=PredatorPrey,
    help="Eight agents catch eight prey, two at a time (Boehmer et al. 2020): best 40",
    training=TRAINING,
    other_names=("stag_hunt",),
)
