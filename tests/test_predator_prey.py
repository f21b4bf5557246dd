"""Predator-prey: positions set by hand with known outcomes, and what holds in any game."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.actions import random_action
from qmix_jax.envs import predator_prey as game
from qmix_jax.envs.predator_prey import Board, PredatorPrey, PredatorPreyConfig, PredatorPreyState

STAY, RIGHT, DOWN, LEFT, UP, CAPTURE = range(6)
AGENTS, PREY = game.NUM_AGENTS, game.NUM_PREY
ENV = PredatorPrey(PredatorPreyConfig(punishment=-2.0))
STEP = jax.jit(ENV.step)
KEYS = range(8)  # units move in random order: results that must not depend on it are tested with several


def place(agents, prey, time=0):
    """A state with these units, by row and column; the others have left."""
    position, is_present = np.zeros((game.UNITS, 2), int), np.zeros(game.UNITS, bool)
    for start, cells in ((0, agents), (AGENTS, prey)):
        position[start : start + len(cells)] = cells
        is_present[start : start + len(cells)] = True
    board = Board(jnp.array(position), jnp.array(is_present))
    return PredatorPreyState(board, jnp.zeros(AGENTS, bool), jnp.array(time))


def take(state, actions, key=0):
    """One step; agents without an action stay."""
    return STEP(jax.random.key(key), state, jnp.array([*actions, *[STAY] * (AGENTS - len(actions))]))


def cells(state, kind="agents"):
    """Where the units of a kind are that are left."""
    part = slice(0, AGENTS) if kind == "agents" else slice(AGENTS, None)
    board = jax.device_get(state.board)
    return [tuple(cell) for cell in board.position[part][board.is_present[part]].tolist()]


# --- capture -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_two_captors_earn_ten_and_leave_with_the_prey(key):
    state, _, outcome = take(place([(4, 4), (6, 4), (0, 0)], [(5, 4), (9, 9)]), [CAPTURE, CAPTURE], key)
    assert float(outcome.reward) == 10 and not outcome.terminated
    assert cells(state) == [(0, 0)]
    assert len(cells(state, "prey")) == 1


@pytest.mark.parametrize("key", KEYS)
def test_one_captor_alone_is_punished_and_nobody_leaves(key):
    state, _, outcome = take(place([(4, 4), (6, 4)], [(5, 4)]), [CAPTURE, STAY], key)
    assert float(outcome.reward) == -2
    assert cells(state) == [(4, 4), (6, 4)] and len(cells(state, "prey")) == 1


def test_the_punishment_is_a_setting_and_none_by_default():
    env = PredatorPrey(PredatorPreyConfig())
    alone = place([(4, 4)], [(5, 4)])
    _, _, outcome = jax.jit(env.step)(jax.random.key(0), alone, jnp.array([CAPTURE] + [STAY] * 7))
    assert float(outcome.reward) == 0
    assert env.spec.name != ENV.spec.name


def test_one_captor_beside_two_prey_is_punished_twice():
    _, _, outcome = take(place([(4, 4)], [(3, 4), (4, 5)]), [CAPTURE])
    assert float(outcome.reward) == -4


@pytest.mark.parametrize("key", KEYS)
def test_captors_capture_once_even_beside_two_prey(key):
    state, _, outcome = take(place([(4, 4), (5, 5), (0, 0)], [(4, 5), (5, 4)]), [CAPTURE, CAPTURE], key)
    assert float(outcome.reward) == 10
    assert cells(state) == [(0, 0)] and len(cells(state, "prey")) == 1


@pytest.mark.parametrize("key", KEYS)
def test_three_captors_leave_for_the_same_ten(key):
    state, _, outcome = take(place([(4, 4), (6, 4), (5, 3), (0, 0)], [(5, 4)]), [CAPTURE] * 3, key)
    assert float(outcome.reward) == 10 and outcome.terminated
    assert cells(state) == [(0, 0)]


def test_two_pairs_may_capture_in_one_step():
    _, _, outcome = take(place([(1, 0), (1, 2), (7, 0), (7, 2), (9, 9)], [(1, 1), (7, 1)]), [CAPTURE] * 4)
    assert float(outcome.reward) == 20


# --- movement ----------------------------------------------------------------------------------------------------


def test_agents_move_as_their_actions_say():
    state, _, _ = take(place([(2, 2), (2, 6), (6, 2), (6, 6)], [(9, 9)]), [RIGHT, DOWN, LEFT, UP])
    assert cells(state) == [(2, 3), (3, 6), (6, 1), (5, 6)]


@pytest.mark.parametrize("key", KEYS)
def test_an_occupied_cell_is_not_entered(key):
    state, _, _ = take(place([(5, 4), (5, 5), (6, 4)], [(0, 0)]), [RIGHT, STAY, STAY], key)
    assert cells(state) == [(5, 4), (5, 5), (6, 4)]
    state, _, _ = take(place([(5, 4)], [(5, 5)]), [RIGHT], key)
    assert cells(state) == [(5, 4)], "prey blocks too: agents move first"


def test_of_two_agents_that_want_a_cell_either_may_get_it():
    ends = {tuple(cells(take(place([(5, 4), (5, 6)], [(0, 0)]), [RIGHT, LEFT], key)[0])) for key in range(20)}
    assert ends == {((5, 5), (5, 6)), ((5, 4), (5, 5))}


def test_an_agent_follows_another_only_when_its_turn_comes_later():
    ends = {tuple(cells(take(place([(5, 4), (5, 5)], [(0, 0)]), [RIGHT, RIGHT], key)[0])) for key in range(20)}
    assert ends == {((5, 5), (5, 6)), ((5, 4), (5, 6))}


def test_prey_moves_to_each_free_cell_beside_it_and_never_rests():
    ends = {cells(take(place([(5, 6)], [(5, 5)]), [STAY], key)[0], "prey")[0] for key in range(40)}
    assert ends == {(4, 5), (6, 5), (5, 4)}
    ends = {cells(take(place([(9, 9)], [(0, 0)]), [STAY], key)[0], "prey")[0] for key in range(20)}
    assert ends == {(0, 1), (1, 0)}


def test_prey_that_is_shut_in_stays():
    state, _, _ = take(place([(0, 1), (1, 0)], [(0, 0)]), [STAY, STAY])
    assert cells(state, "prey") == [(0, 0)]


# --- what is seen and what is legal ------------------------------------------------------------------------------


def window(board, agent):
    """The 5 x 5 cells around an agent, cell by cell."""
    seen = np.zeros((2, 5, 5))
    for unit in range(game.UNITS):
        row, column = board.position[unit] - board.position[agent] + 2
        if board.is_present[unit] and board.is_present[agent] and 0 <= row < 5 and 0 <= column < 5:
            seen[int(unit >= AGENTS), row, column] = 1
    return seen.ravel()


def legal(board, agent):
    """The legal actions of an agent, one by one."""
    row, column = board.position[agent]
    on_board, is_here = ((0, 1), (1, 0), (0, -1), (-1, 0)), board.is_present[agent]
    moves = [is_here and 0 <= row + i < 10 and 0 <= column + j < 10 for i, j in on_board]
    gaps = np.abs(board.position[AGENTS:] - board.position[agent]).sum(1)
    return [True, *moves, is_here and (gaps[board.is_present[AGENTS:]] == 1).any()]


@pytest.fixture(scope="module")
def games():
    """Random legal play for a whole episode and a little more; agents that can capture do so."""

    def step(carry, key):
        state, observation = carry
        action = random_action(jax.random.uniform(key, (AGENTS,)), observation.available)
        action = jnp.where(observation.available[:, CAPTURE], CAPTURE, action)
        after, successor, outcome = ENV.step(key, state, action)
        return (after, successor), (after, successor, outcome, observation.available, action)

    def play(key):
        start = ENV.reset(key)
        return start, jax.lax.scan(step, start, jax.random.split(key, game.LIMIT + 3))[1]

    return jax.device_get(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 4)))


def boards(games):
    """Every board of the games, with what was observed of it."""
    (state, observation), (later, seen, *_) = games
    everything = jax.tree.map(
        lambda a, b: np.concatenate([a[:, None], b], axis=1), (state.board, observation), (later.board, seen)
    )
    for index in np.ndindex(len(state.time), game.LIMIT // 3):
        yield jax.tree.map(operator.itemgetter((index[0], 3 * index[1])), everything)


def test_views_states_and_legal_actions_are_as_counted_cell_by_cell(games):
    for board, observation in boards(games):
        grid = np.zeros((2, 10, 10))
        for unit in np.flatnonzero(board.is_present):
            grid[int(unit >= AGENTS), *board.position[unit]] = 1
        np.testing.assert_array_equal(observation.state, grid.ravel())
        np.testing.assert_array_equal(observation.agents, [window(board, agent) for agent in range(AGENTS)])
        np.testing.assert_array_equal(observation.available, [legal(board, agent) for agent in range(AGENTS)])


def test_no_two_units_share_a_cell_and_all_stay_on_the_grid(games):
    for board, _ in boards(games):
        present = board.position[board.is_present]
        assert (present >= 0).all() and (present < 10).all()
        assert len({tuple(cell) for cell in present.tolist()}) == len(present)


def test_who_has_left_sees_nothing_and_may_only_stay(games):
    absent = 0
    for board, observation in boards(games):
        for agent in np.flatnonzero(~board.is_present[:AGENTS]):
            absent += 1
            assert not observation.agents[agent].any()
            np.testing.assert_array_equal(observation.available[agent], [1, 0, 0, 0, 0, 0])
    assert absent > 10


def test_rewards_follow_from_who_left(games):
    (state, _), (later, _, outcome, _, _) = games
    present = np.concatenate([state.board.is_present[:, None], later.board.is_present], axis=1)
    captured = present[:, :-1, AGENTS:].sum(-1) - present[:, 1:, AGENTS:].sum(-1)
    left = present[:, :-1, :AGENTS].sum(-1) - present[:, 1:, :AGENTS].sum(-1)
    failures = (10 * captured - outcome.reward) / 2
    assert (failures >= 0).all() and (failures == failures.astype(int)).all() and failures.any()
    assert (left >= 2 * captured).all() and (left[captured == 0] == 0).all() and captured.any()


# --- ends --------------------------------------------------------------------------------------------------------


def test_an_episode_is_truncated_after_exactly_200_steps():
    state = place([(0, 0)], [(9, 9)])
    ends = []
    for t in range(200):
        state, _, outcome = take(state, [STAY], key=t)
        ends.append((bool(outcome.terminated), bool(outcome.truncated)))
    assert ends == [(False, False)] * 199 + [(False, True)]


@pytest.mark.parametrize("bystanders", [[], [(0, 0)]])
def test_an_episode_terminates_when_no_agent_or_no_prey_is_left(bystanders):
    prey = [(5, 4)] if bystanders else [(5, 4), (9, 9)]
    for time in (0, 199):  # also with the last step
        _, _, outcome = take(place([(4, 4), (6, 4), *bystanders], prey, time), [CAPTURE, CAPTURE])
        assert outcome.terminated and not outcome.truncated


def test_everyone_starts_in_a_cell_of_their_own_and_anywhere():
    state, _ = jax.jit(jax.vmap(ENV.reset))(jax.random.split(jax.random.key(0), 200))
    cell = np.asarray(state.board.position @ jnp.array([10, 1]))
    assert all(len(set(row)) == game.UNITS for row in cell.tolist())
    assert set(cell.ravel().tolist()) == set(range(100))
    assert np.asarray(state.board.is_present).all()
