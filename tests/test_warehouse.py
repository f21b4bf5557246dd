"""The Robot Warehouse: a delivery and collisions computed by hand, observations as jumanji's, limits and names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.envs.layout import layout_of
from qmix_jax.envs.warehouse.env import SHELVES, RobotWarehouse, Warehouse, make_warehouse, task_of
from qmix_jax.envs.warehouse.layout import OWN
from qmix_jax.envs.warehouse.settings import MAPS, WarehouseConfig
from qmix_jax.settings import ConfigError

IDLE, FORWARD, LEFT, RIGHT, TOGGLE = range(5)
FACES_UP, FACES_RIGHT, FACES_DOWN, FACES_LEFT = range(4)
LIMIT = 10


@pytest.fixture(scope="module")
def floor():
    """Four rows of ten cells: shelves at columns 1, 2, 7 and 8 of row 1, goals at columns 4 and 5 of row 3."""
    env = Warehouse(WarehouseConfig("1x3-2ag", column_height=1, requests=1, time_limit=LIMIT))
    return env, jax.jit(env.step), jax.jit(env.reset)(jax.random.key(0))[0]


def place(state, robots, facing, time=0):
    """Two robots in these cells, and the shelf of cell (1, 1) requested."""
    grid = np.zeros((2, 4, 10), np.int32)
    grid[SHELVES, 1, [1, 2, 7, 8]] = [1, 2, 3, 4]
    for robot, (row, column) in enumerate(robots):
        grid[1 - SHELVES, row, column] = robot + 1
    rows, columns = jnp.array(robots).T
    position = state.agents.position._replace(x=rows, y=columns)
    return state.replace(
        grid=jnp.asarray(grid),
        agents=state.agents._replace(position=position, direction=jnp.array(facing)),
        shelves=state.shelves._replace(is_requested=jnp.array([1.0, 0, 0, 0])),
        request_queue=jnp.array([0]),
        action_mask=jnp.ones((2, 5), bool),
        step_count=jnp.array(time),
    )


def play(floor, state, actions):
    """The last state, and observations and outcomes of joint actions."""
    _, step, _ = floor
    steps = []
    for time, action in enumerate(actions):
        state, *rest = step(jax.random.key(time), state, jnp.array(action))
        steps.append(rest)
    return state, *zip(*steps, strict=True)


def alone(floor, actions):
    """The first robot starts below the requested shelf and faces right; the second does nothing in a corner."""
    state = place(floor[2], [(1, 1), (0, 9)], [FACES_RIGHT, FACES_UP])
    return play(floor, state, [(action, IDLE) for action in actions])


DELIVERY = [TOGGLE, RIGHT, FORWARD, FORWARD, LEFT, FORWARD, FORWARD, FORWARD]


def test_a_requested_shelf_at_a_goal_pays_one_and_another_is_requested(floor):
    state, seen, outcomes = alone(floor, DELIVERY)
    assert [float(o.reward) for o in outcomes] == [0] * 7 + [1]
    assert [float(o.metrics["deliveries"]) for o in outcomes] == [0] * 7 + [1]
    np.testing.assert_array_equal(state.shelves.is_requested[0], 0)
    assert state.shelves.is_requested.sum() == 1
    requested = np.array(seen[-1].state[2 * len(OWN) :]).reshape(4, 10)
    assert requested.sum() == 1 and requested[1, [2, 7, 8]].sum() == 1


def test_the_state_holds_all_robots_own_numbers_and_the_cells_with_requested_shelves(floor):
    _, seen, _ = alone(floor, DELIVERY[:4])
    first, second, requested = np.split(seen[-1].state, [8, 16])
    np.testing.assert_allclose(first, [3 / 3, 1 / 9, 1, 0, 0, 1, 0, 1], atol=1e-6)  # row 3, column 1, faces down
    np.testing.assert_allclose(second, [0, 9 / 9, 0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(np.argwhere(requested.reshape(4, 10)), [[3, 1]])  # it is being carried


def test_a_robot_that_carries_a_shelf_does_not_move_into_another(floor):
    _, seen, _ = alone(floor, [IDLE, TOGGLE])
    assert seen[0].available.all()
    np.testing.assert_array_equal(seen[1].available, [[1, 0, 1, 1, 1], [1] * 5])


def test_a_shelf_is_put_down_off_the_paths_only_also_by_doing_nothing(floor):
    for actions, carries in (
        ([TOGGLE], 1),
        ([TOGGLE, TOGGLE], 0),
        ([TOGGLE, IDLE], 0),
        ([TOGGLE, RIGHT, FORWARD, TOGGLE, IDLE], 1),
    ):
        state, *_ = alone(floor, actions)
        assert state.agents.is_carrying[0] == carries, actions


def test_the_time_limit_truncates(floor):
    _, _, outcomes = alone(floor, [IDLE] * LIMIT)
    assert [bool(o.truncated) for o in outcomes] == [False] * (LIMIT - 1) + [True]
    assert not any(bool(o.terminated) or bool(o.metrics["collision_rate"]) for o in outcomes)


@pytest.mark.parametrize("time", [0, LIMIT - 1])
@pytest.mark.parametrize(
    ("robots", "facing", "actions", "collides"),
    [
        ([(0, 3), (0, 4)], [FACES_RIGHT, FACES_UP], (FORWARD, IDLE), True),
        ([(0, 3), (0, 5)], [FACES_RIGHT, FACES_LEFT], (FORWARD, FORWARD), True),
        ([(0, 3), (0, 4)], [FACES_RIGHT, FACES_LEFT], (FORWARD, FORWARD), True),
        ([(0, 3), (0, 4)], [FACES_RIGHT, FACES_RIGHT], (FORWARD, FORWARD), True),  # the larger number leaves
        ([(0, 4), (0, 3)], [FACES_RIGHT, FACES_RIGHT], (FORWARD, FORWARD), False),
        ([(0, 3), (0, 4)], [FACES_UP, FACES_UP], (FORWARD, FORWARD), False),
    ],
)
def test_a_collision_terminates_also_at_the_time_limit(floor, robots, facing, actions, collides, time):
    state = place(floor[2], robots, facing, time)
    _, _, (outcome,) = play(floor, state, [actions])
    assert bool(outcome.terminated) == bool(outcome.metrics["collision_rate"]) == collides
    assert bool(outcome.truncated) == (time == LIMIT - 1 and not collides)


def test_the_layout_puts_a_name_to_the_right_number(floor):
    env, *_ = floor
    state = place(floor[2], [(1, 1), (2, 2)], [FACES_RIGHT, FACES_LEFT])
    _, (seen,), _ = play(floor, state, [(IDLE, IDLE)])
    layout = layout_of(env)
    names = [(about, feature.name) for about, kind in layout.agents[0].blocks for feature in layout.kinds[kind]]
    found = dict(zip(names, map(float, seen.agents[0]), strict=True))
    ones = {name for name, value in found.items() if value == 1}
    assert ones == {
        ("robot_0", "faces_right"),
        ("robot_0", "is_shelf"),
        ("robot_0", "is_requested"),
        ("cell +0 +1", "is_shelf"),
        ("cell +1 +1", "is_robot"),
        ("cell +1 +1", "faces_left"),
    }
    assert found["robot_0", "row"] == pytest.approx(1 / 3) and found["robot_0", "column"] == pytest.approx(1 / 9)


@pytest.mark.parametrize("sensor_range", [1, 2])
def test_observations_are_jumanjis(sensor_range):
    env = make_warehouse(WarehouseConfig("1x3-3ag", column_height=1, requests=2, sensor_range=sensor_range))

    def both(key):
        state = env.reset(key)[0]
        seen = state.grid, state.agents, state.shelves
        return env._make_observations(*seen), RobotWarehouse._make_observations(env, *seen)

    ours, theirs = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), 50))
    np.testing.assert_array_equal(ours, theirs)


def test_replay_keeps_a_byte_for_each_number_action_and_cell():
    env = Warehouse(WarehouseConfig("tiny-2ag"))
    compact = jax.eval_shape(lambda key: env.compress(*env.reset(key)), jax.random.key(0))
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(compact)) == 2 * (66 + 5) + 11 * 10


def test_on_a_floor_of_many_rows_replay_restores_them_all():
    env = Warehouse(WarehouseConfig("9x1-2ag", column_height=25, requests=1))
    state, seen = jax.jit(env.reset)(jax.random.key(0))
    last = seen._replace(agents=seen.agents.at[:, :2].set(1.0))  # row 235, column 3
    np.testing.assert_allclose(env.decompress(env.compress(state, last)).agents, last.agents, atol=1e-6)


def test_names_say_size_robots_and_requests():
    expected = {
        "mini-3ag": (1, 3, 3, 3, 3),
        "tiny-2ag": (1, 3, 8, 2, 2),
        "small-2ag-easy": (2, 3, 8, 2, 4),
        "medium-4ag-hard": (2, 5, 8, 4, 2),
        "large-8ag": (3, 5, 8, 8, 8),
        "2x7-1ag-hard": (2, 7, 8, 1, 1),
    }
    assert {name: task_of(name) for name in expected} == expected
    assert len(set(map(task_of, MAPS))) == len(MAPS)


def test_settings_change_numbers_of_the_map():
    env = make_warehouse(WarehouseConfig("tiny-2ag", column_height=3, requests=7))
    assert env.grid_size == (5 + 1, 10) and env.request_queue_size == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WarehouseConfig("tiny2ag"), "did you mean 'tiny-2ag'"),
        (WarehouseConfig("shop"), "write it as tiny-2ag"),
        (WarehouseConfig("1x2-2ag"), "odd, such as 1x3"),
        (WarehouseConfig("tiny-2ag", column_height=1, requests=4), "less than the 4 shelves"),
    ],
)
def test_a_wrong_setting_is_one_line_with_the_way_out(settings, message):
    with pytest.raises(ConfigError, match=message):
        Warehouse(settings)
