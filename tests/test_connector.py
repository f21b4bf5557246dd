"""Connector: episodes played by hand, what is seen of a board, and what jumanji makes of the same one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import near

from qmix_jax.build import from_mapping, make_env
from qmix_jax.film.canvas import GOLD
from qmix_jax.film.painter import painter_of
from qmix_jax.film.recording import CARD_FRAMES, FRAMES_PER_STEP, Recording
from qmix_jax.settings import ConfigError

pytest.importorskip("jumanji")
from jumanji.environments.routing.connector.types import Agent, State
from jumanji.environments.routing.connector.utils import get_action_masks

STAY, UP, RIGHT, DOWN, LEFT = range(5)
PATH, HEAD, TARGET = range(1, 4)  # of agent 0; 3 more for agent 1


def connector(**settings):
    return make_env(from_mapping({"env": {"name": "connector", **settings}, "algorithm": {"name": "vdn"}}).env)


def board(grid):
    """A state of jumanji's with two agents at the start of an episode."""
    grid = np.array(grid)
    head, target = (np.array([np.argwhere(grid == 3 * i + kind)[0] for i in range(2)]) for kind in (HEAD, TARGET))
    agents = Agent(id=jnp.arange(2), start=jnp.array(head), target=jnp.array(target), position=jnp.array(head))
    grid, key = jnp.array(grid, jnp.int32), jax.random.PRNGKey(0)
    mask = get_action_masks(agents, grid)
    return State(grid=grid, step_count=jnp.array(0), agents=agents, key=key, action_mask=mask)


SMALL = {"grid_size": 3, "num_agents": 2, "time_limit": 6}
ENV = connector(**SMALL)
STEP = jax.jit(ENV.step)
BOARD = [[2, 0, 3], [0, 0, 0], [5, 0, 6]]


def play(grid, *actions):
    """The states, observations and outcomes of joint actions from a board."""
    state, played = board(grid), []
    for action in actions:
        played.append(STEP(jax.random.key(0), state, jnp.array(action)))
        state = played[-1][0]
    return tuple(zip(*played, strict=True))


# --- by hand -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def won():
    """Agent 0 yields its cell to agent 1, which comes later; then both reach their targets."""
    states, observations, outcomes = play(BOARD, (DOWN, UP), (RIGHT, RIGHT), (RIGHT, DOWN), (STAY, RIGHT))
    return states, observations, jax.device_get(outcomes)


def test_heads_lay_paths_and_the_last_agent_gets_a_cell_that_two_enter(won):
    assert [state.grid.tolist() for state in won[0]] == [
        [[2, 0, 3], [5, 0, 0], [4, 0, 6]],
        [[1, 2, 3], [4, 5, 0], [4, 0, 6]],
        [[1, 1, 2], [4, 4, 0], [4, 5, 6]],
        [[1, 1, 2], [4, 4, 0], [4, 4, 5]],
    ]


def test_the_team_is_paid_one_for_each_connection_and_fined_for_each_agent_that_had_none(won):
    assert [outcome.reward for outcome in won[2]] == pytest.approx([-0.06, -0.06, 1 - 0.06, 1 - 0.03])


def test_the_team_wins_when_all_are_connected(won):
    ends = [(outcome.terminated, outcome.truncated) for outcome in won[2]]
    assert ends == [(False, False)] * 3 + [(True, False)]
    assert [outcome.metrics["win_rate"] for outcome in won[2]] == [False, False, False, True]
    assert [outcome.metrics["connected"] for outcome in won[2]] == [0, 0, 0, 1]


def test_moves_are_legal_to_empty_cells_and_to_the_own_target(won):
    assert won[1][0].available.tolist() == [
        [True, False, True, False, False],  # below is agent 1
        [True, False, True, False, False],  # above is agent 0, below its own path
    ]
    assert won[1][1].available.tolist() == [
        [True, False, True, False, False],  # to its target
        [True, False, True, True, False],
    ]
    assert won[1][2].available.tolist() == [[True] + [False] * 4, [True, False, True, False, False]]  # 0 is connected


def test_each_agent_sees_its_own_planes_first_and_the_state_has_them_all(won):
    seen = np.asarray(won[1][1].agents).reshape(2, 2, 3, 3, 3)  # agent, own or others', kind, row, column
    head = {0: [[0, 1, 0], [0, 0, 0], [0, 0, 0]], 1: [[0, 0, 0], [0, 1, 0], [0, 0, 0]]}
    target = {0: [[0, 0, 1], [0, 0, 0], [0, 0, 0]], 1: [[0, 0, 0], [0, 0, 0], [0, 0, 1]]}
    path = {0: [[1, 0, 0], [0, 0, 0], [0, 0, 0]], 1: [[0, 0, 0], [1, 0, 0], [1, 0, 0]]}
    planes = {i: [head[i], target[i], path[i]] for i in (0, 1)}
    assert seen.tolist() == [[planes[0], planes[1]], [planes[1], planes[0]]]
    assert np.asarray(won[1][1].state).reshape(2, 3, 3, 3).tolist() == [planes[0], planes[1]]


def test_an_episode_is_lost_when_nobody_can_move_also_in_the_last_step():
    """Agent 0 is blocked from the start, agent 1 walks around to its target."""
    moves = [(STAY, move) for move in (DOWN, RIGHT, RIGHT, UP, UP, LEFT)]
    *_, outcomes = play([[2, 6, 0], [5, 3, 0], [0, 0, 0]], *moves)
    assert [bool(outcome.terminated) for outcome in outcomes] == [False] * 5 + [True]
    assert not any(outcome.truncated for outcome in outcomes)
    assert float(outcomes[-1].metrics["connected"]) == 0.5 and not outcomes[-1].metrics["win_rate"]


def test_an_episode_is_cut_at_the_time_limit():
    *_, outcomes = play(BOARD, *[(STAY, STAY)] * 6)
    assert [bool(outcome.truncated) for outcome in outcomes] == [False] * 5 + [True]
    assert not any(outcome.terminated for outcome in outcomes)


# --- against jumanji ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["random_walk", "uniform"])
def test_legal_actions_are_those_of_jumanji(generator):
    env, rng = connector(**SMALL, generator=generator), np.random.default_rng(0)
    state, observation = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 64))
    step = jax.jit(jax.vmap(env.step))
    for _ in range(8):
        assert (observation.available == state.action_mask).all()
        action = (rng.random(observation.available.shape) * np.asarray(observation.available)).argmax(-1)
        state, observation, _ = step(jax.random.split(jax.random.key(1), 64), state, jnp.array(action))
    assert 0.1 < np.asarray(state.agents.connected).mean() < 0.95


@pytest.mark.parametrize(("num_agents", "dtype"), [(42, jnp.int8), (43, jnp.int16)])
def test_replay_keeps_a_board_in_the_smallest_numbers(num_agents, dtype):
    env = connector(num_agents=num_agents, grid_size=12)
    compact = jax.eval_shape(lambda key: env.compress(*env.reset(key)), jax.random.key(0))
    assert (compact.shape, compact.dtype) == ((12, 12), dtype)
    assert 3 * num_agents <= jnp.iinfo(dtype).max


# --- settings and film -------------------------------------------------------------------------------------------


def test_too_many_agents_for_the_grid_are_refused():
    with pytest.raises(ConfigError, match=r"env.num_agents=3 need 6 cells for heads and targets, and env.grid_size=2"):
        connector(grid_size=2)


def test_a_head_turns_gold_when_it_is_connected(won):
    scenes = [ENV.scene(state) for state in (board(BOARD), *won[0])]
    scene = {name: np.stack([scene[name] for scene in scenes]) for name in scenes[0]}
    frames = painter_of(ENV)(Recording(scene, np.zeros(4), True, "title", colours=((0, 0, 255), (255, 0, 0))))
    boards = [frame.image.crop((0, 80, 480, 480)) for frame in frames]
    assert len(frames) == 4 * FRAMES_PER_STEP + 1 + CARD_FRAMES
    gold = [near(boards[step * FRAMES_PER_STEP], GOLD) for step in range(5)]
    assert gold[:3] == [0, 0, 0] and 100 < gold[3] < 0.6 * gold[4]
