"""Level-Based Foraging: an episode computed by hand, sight, limits and names."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.envs.foraging.env import Foraging, task_of
from qmix_jax.envs.foraging.settings import MAPS, ForagingConfig
from qmix_jax.envs.jumanji_import import only_parts_of_jumanji
from qmix_jax.envs.layout import layout_of
from qmix_jax.settings import ConfigError

STAY, UP, DOWN, LEFT, RIGHT, LOAD = range(6)


@pytest.fixture(scope="module")
def game():
    """Food of level 1 at (1, 1) and of level 3 at (3, 3); agents of level 1 at (0, 1) and of level 2 at (3, 4)."""
    env = Foraging(ForagingConfig("6x6-2p-2f", time_limit=6))
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    agents = state.agents.replace(position=jnp.array([[0, 1], [3, 4]]), level=jnp.array([1, 2]))
    food = state.food_items.replace(position=jnp.array([[1, 1], [3, 3]]), level=jnp.array([1, 3]))
    return env, jax.jit(env.step), state.replace(agents=agents, food_items=food)


def play(game, actions):
    """The observations and outcomes of joint actions."""
    _, step, state = game
    steps = []
    for action in actions:
        state, *rest = step(jax.random.key(0), state, jnp.array(action))
        steps.append(rest)
    return state, *zip(*steps, strict=True)


WINNING = [(LOAD, LOAD), (RIGHT, STAY), (RIGHT, STAY), (DOWN, STAY), (DOWN, STAY), (LOAD, LOAD)]


def test_the_reward_is_the_levels_share_of_what_is_eaten_and_the_return_of_all_food_is_one(game):
    _, _, outcomes = play(game, WINNING)
    assert [float(o.reward) for o in outcomes] == pytest.approx([1 / 4, 0, 0, 0, 0, 3 / 4])
    assert [float(o.metrics["food_share"]) for o in outcomes] == [0.5, 0, 0, 0, 0, 0.5]


def test_an_episode_is_won_when_all_is_eaten_also_in_its_last_step_else_the_time_limit_truncates_it(game):
    for actions, won in ((WINNING, True), ([(STAY, STAY)] * 6, False)):
        _, _, outcomes = play(game, actions)
        assert [bool(o.terminated) for o in outcomes] == [False] * 5 + [won]
        assert [bool(o.truncated) for o in outcomes] == [False] * 5 + [not won]
        assert [bool(o.metrics["win_rate"]) for o in outcomes] == [False] * 5 + [won]


def test_agents_that_would_meet_in_a_cell_stay(game):
    meeting = [
        (RIGHT, UP),
        (RIGHT, UP),
        (DOWN, UP),
        (RIGHT, LEFT),
    ]  # the last: past each other
    state, *_ = play(game, meeting)
    np.testing.assert_array_equal(state.agents.position, [[1, 4], [0, 3]])
    state, *_ = play(game, [*meeting[:3], (RIGHT, DOWN)])
    np.testing.assert_array_equal(state.agents.position, [[1, 3], [0, 4]])


def test_agents_see_food_themselves_and_the_others_by_row_column_and_level(game):
    _, (seen, *_), _ = play(game, [(LOAD, LOAD)])
    eaten, food, first, second = [-0.2, -0.2, 0], [0.6, 0.6, 0.75], [0, 0.2, 0.25], [0.6, 0.8, 0.5]
    expected = [[*eaten, *food, *first, *second], [*eaten, *food, *second, *first]]
    np.testing.assert_allclose(seen.agents, expected, atol=1e-6)
    assert [about for about, _ in layout_of(game[0]).agents[1].blocks] == ["food_0", "food_1", "agent_1", "agent_0"]


def test_moves_lead_to_free_cells_and_only_food_beside_is_loaded(game):
    _, (seen, *_), _ = play(game, [(STAY, STAY)])
    #                                            stay, up, down, left, right, load
    np.testing.assert_array_equal(seen.available, [[1, 0, 0, 1, 1, 1], [1, 1, 1, 0, 1, 1]])
    _, (seen, *_), _ = play(game, [(LOAD, RIGHT)])
    np.testing.assert_array_equal(seen.available, [[1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]])


def test_sight_hides_what_is_farther():
    env = Foraging(ForagingConfig("2s-8x8-2p-2f"))
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    agents = state.agents.replace(position=jnp.array([[7, 7], [5, 5]]), level=jnp.array([2, 1]))
    food = state.food_items.replace(position=jnp.array([[1, 1], [6, 4]]), level=jnp.array([1, 4]))
    _, seen, _ = jax.jit(env.step)(
        jax.random.key(0), state.replace(agents=agents, food_items=food), jnp.array([STAY, STAY])
    )
    nothing = [-1, -1, 0]  # rows and columns count from two cells before the agent
    expected = [[*nothing, *nothing, 2, 2, 2, 0, 0, 1], [*nothing, 3, 1, 4, 2, 2, 1, 4, 4, 2]]
    np.testing.assert_allclose(seen.agents, np.array(expected) / ([7, 7, 4] * 4), atol=1e-6)


def test_replay_keeps_a_byte_for_each_number_and_action():
    env = Foraging(ForagingConfig())
    compact = jax.eval_shape(lambda key: env.compress(*env.reset(key)), jax.random.key(0))
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(compact)) == 2 * (12 + 6)


def test_all_food_of_a_coop_task_needs_the_whole_team():
    state, _ = jax.jit(Foraging(ForagingConfig("8x8-2p-2f-coop")).reset)(jax.random.key(0))
    np.testing.assert_array_equal(state.food_items.level, [jnp.sum(state.agents.level)] * 2)


def test_names_say_grid_agents_food_and_sight():
    assert task_of("8x8-2p-3f") == (8, 2, 3, 8, False)
    assert task_of("2s-15x15-4p-5f-coop") == (15, 4, 5, 2, True)
    assert len(set(map(task_of, MAPS))) == len(MAPS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("8x8-2p2f", "did you mean '8x8-2p-2f'"),
        ("forest", "write it as 8x8-2p-2f"),
        ("8x9-2p-2f", "square, such as 8x8"),
        ("9s-8x8-2p-2f", "farther than the 8 cells"),
        ("6x6-2p-3f", "too little room"),
        ("4x4-1p-1f", "too little room"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_way_out(name, message):
    with pytest.raises(ConfigError, match=message):
        Foraging(ForagingConfig(name))


def test_without_jumanji_one_line_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("jumanji.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jumanji", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'qmix-jax\[jumanji\]'$"),
        only_parts_of_jumanji(),
    ):
        pass


def test_only_the_module_of_the_one_environment_is_imported():
    code = "import sys, qmix_jax.envs.foraging.env as _; print(*(name for name in sys.modules if 'jumanji' in name))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "jumanji.environments.routing.lbf.env" in printed
    assert not {"jumanji", "jumanji.environments.packing", "jumanji.environments.routing.connector"} & set(printed)
