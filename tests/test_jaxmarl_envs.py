"""JaxMARL's environments: the adapter for those without a file of their own, and JaxNav."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.build import from_mapping, make_env
from qmix_jax.cli.compose import compose
from qmix_jax.config import EnvConfig
from qmix_jax.envs.check import problems
from qmix_jax.envs.jaxmarl.env import JaxMarlEnv
from qmix_jax.envs.jaxmarl.settings import UNFIT, Id, JaxMarlConfig
from qmix_jax.envs.jaxnav.env import Navigation
from qmix_jax.envs.jaxnav.settings import JaxNavConfig
from qmix_jax.envs.layout import layout_of
from qmix_jax.settings import ConfigError

KEY = jax.random.key(0)


def registered(env_id, **settings):
    return make_env(EnvConfig("jaxmarl", JaxMarlConfig(env_id, **settings)))


def play(env, actions, state=None):
    """The outcomes of these joint actions, from a state or a fresh episode."""
    step, outcomes = jax.jit(env.step), []
    state = jax.jit(env.reset)(KEY)[0] if state is None else state
    for action in actions:
        state, _, outcome = step(KEY, state, jnp.array(action))
        outcomes.append(jax.device_get(outcome))
    return outcomes


# --- anybody's object with JaxMARL's interface ---------------------------------------------------------------------


class Lock:
    """Opens, which ends the task, when both agents press: action 1 of the first, action 2 of the second."""

    agents = ("left", "right")

    def __init__(self, max_steps=3, world_state=False, mask=(True, False, True)):
        self.max_steps, self.world_state, self.mask = max_steps, world_state, mask

    def action_space(self, agent):
        return SimpleNamespace(n={"left": 2, "right": 3}[agent])

    def observe(self, time):
        obs = {"left": jnp.array([[1, 2], [3, 4]]), "right": jnp.array([5.0])}
        return {**obs, "world_state": jnp.array([[7, 8, 9]])} if self.world_state else obs

    def reset(self, key):
        return self.observe(0), {"time": 0}

    def get_avail_actions(self, state):
        return {"left": jnp.array([1, 1]), "right": jnp.array(self.mask)}

    def step_env(self, key, state, actions):
        time, opened = state["time"] + 1, (actions["left"] == 1) & (actions["right"] == 2)
        reward = {"left": 1.0 + 2 * opened, "right": 2.0}
        info = {"opened": jnp.array([opened, opened]), "shaped_reward": {"left": 3.0, "right": 5.0}}
        done = {"__all__": opened | (time >= self.max_steps)}
        return self.observe(time), {"time": time}, reward, done, info


def test_observations_are_flattened_and_padded_and_the_state_is_all_of_them():
    env = JaxMarlEnv(Lock())
    _, observation = env.reset(KEY)
    np.testing.assert_array_equal(observation.agents, [[1, 2, 3, 4], [5, 0, 0, 0]])
    assert observation.state is None and env.spec.state_size == 8
    assert env.spec.agent_names == ("left", "right") and env.spec.name == "Lock"
    assert [len(layout_of(env).features(i)) for i in (0, 1)] == [4, 1]


def test_a_world_state_is_the_state():
    env = JaxMarlEnv(Lock(world_state=True))
    np.testing.assert_array_equal(env.reset(KEY)[1].state, [7, 8, 9])
    assert env.spec.state_size == 3


@pytest.mark.parametrize(
    ("mask", "legal"),
    [
        ((True, False, True), [[1, 1, 0], [1, 0, 1]]),
        ((True, True), [[1, 1, 0], [1, 1, 1]]),  # of the wrong shape, as JaxNav's is
        ((False, False, False), [[1, 1, 0], [1, 1, 1]]),
    ],
)
def test_a_mask_counts_where_it_has_a_number_for_each_action_and_leaves_one_legal(mask, legal):
    env = JaxMarlEnv(Lock(mask=mask))
    state, observation = env.reset(KEY)
    np.testing.assert_array_equal(observation.available, legal)
    jax.tree.map(np.testing.assert_array_equal, env.decompress(env.compress(state, observation)), observation)


@pytest.mark.parametrize(
    ("actions", "terminated", "truncated"),
    [
        ([(0, 0)] * 3, [0, 0, 0], [0, 0, 1]),
        ([(0, 0), (1, 2)], [0, 1], [0, 0]),
        ([(0, 0), (0, 0), (1, 2)], [0, 0, 1], [0, 0, 0]),  # it also opens at the last step
    ],
)
def test_the_time_limit_is_told_from_the_end_of_the_task(actions, terminated, truncated):
    outcomes = play(JaxMarlEnv(Lock(max_steps=3)), actions)
    assert [int(outcome.terminated) for outcome in outcomes] == terminated
    assert [int(outcome.truncated) for outcome in outcomes] == truncated


class Wrapped:
    """Looks attributes up in what it wraps, as JaxMARL's wrappers do."""

    def __init__(self, env):
        self._env = env

    def __getattr__(self, name):
        return getattr(self._env, name)


def test_so_it_is_in_a_wrapper_whose_own_object_keeps_its_limit():
    lock = Lock(max_steps=2)
    outcomes = play(JaxMarlEnv(Wrapped(lock)), [(0, 0), (0, 0)])
    assert [bool(outcome.truncated) for outcome in outcomes] == [False, True] and lock.max_steps == 2


class LockOfClass(Lock):
    max_steps = 2

    def __init__(self):
        self.world_state, self.mask = False, (True, False, True)


class LockOfProperty(LockOfClass):
    max_steps = property(lambda self: 2)


@dataclass(frozen=True)
class FrozenLock(Lock):
    max_steps: int = 2
    world_state: bool = False
    mask: tuple = (True, False, True)


@pytest.mark.parametrize("kind", [LockOfClass, LockOfProperty, FrozenLock])
def test_so_it_is_where_the_limit_belongs_to_the_class_or_the_object_is_frozen(kind):
    outcomes = play(JaxMarlEnv(kind()), [(0, 0), (0, 0)])
    assert [(bool(each.terminated), bool(each.truncated)) for each in outcomes] == [(False, False), (False, True)]


def test_a_lower_limit_truncates_sooner():
    outcomes = play(JaxMarlEnv(Lock(max_steps=3), max_steps=2), [(0, 0)] * 2)
    assert [bool(outcome.truncated) for outcome in outcomes] == [False, True]


def test_without_any_limit_it_is_refused():
    with pytest.raises(ConfigError, match=r"Lock has no max_steps, .*env\.max_steps=100"):
        JaxMarlEnv(Lock(max_steps=None))


@pytest.mark.parametrize(("reward", "team"), [("mean", 2.5), ("sum", 5.0), ("shared", 3.0)])
def test_the_teams_reward_is_made_of_the_agents(reward, team):  # 3 and 2 where it opens
    (outcome,) = play(JaxMarlEnv(Lock(), reward=reward), [(1, 2)])
    assert outcome.reward == team


def test_entries_of_info_are_metrics_and_the_shaped_reward_is_added():
    (outcome,) = play(JaxMarlEnv(Lock(), metrics=("opened",), shaped_reward=0.5), [(1, 2)])
    assert outcome.metrics == {"opened": 1.0, "unshaped_return": 2.5}
    assert outcome.reward == 2.5 + 0.5 * 4


class Throttle(Lock):
    """Has continuous actions."""

    def action_space(self, agent):
        return SimpleNamespace(shape=(2,))


class Letters(Lock):
    """Has observations of several parts."""

    def observe(self, time):
        return {agent: {"address": jnp.zeros(2), "text": jnp.zeros(3)} for agent in self.agents}


@pytest.mark.parametrize(
    ("kind", "why"), [(Throttle, "the actions of left are .*Discrete"), (Letters, "must be one array")]
)
def test_an_object_that_does_not_fit_says_why(kind, why):
    with pytest.raises(ConfigError, match=f"{kind.__name__} cannot be trained: .*{why}"):
        JaxMarlEnv(kind())


def test_an_entry_that_info_lacks_is_refused_with_those_it_has():
    with pytest.raises(ConfigError, match="no 'open'; it has opened, shaped_reward"):
        JaxMarlEnv(Lock(), metrics=("open",))


# --- the registered ones -------------------------------------------------------------------------------------------


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [each if each == "switch_riddle" else slow(each) for each in get_args(Id)])
def test_each_keeps_the_contract(env_id):
    assert problems(registered(env_id)) == []


@pytest.mark.parametrize("env_id", [*UNFIT, "JaxRobotarium_warehouse"])
def test_what_does_not_fit_says_why_in_one_line(env_id):
    with pytest.raises(ConfigError, match=r"env\.id=.* cannot be trained: \w.{20,}") as error:
        JaxMarlConfig(env_id)
    assert "\n" not in str(error.value)


def test_an_unknown_id_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'overcooked_v2'"):
        JaxMarlConfig("overcookedv2")


def test_the_constructors_arguments_come_from_the_command_line():
    config = from_mapping(
        compose(["env=jaxmarl", "env.id=switch_riddle", "env.kwargs={num_agents: 5}", "env.kwargs.reward_all_live=2"])
    )
    env = make_env(config.env)
    assert env.spec.num_agents == 5 and env.spec.state_size == 10 and env._env.reward_all_live == 2.0


def test_a_wrong_argument_is_one_line():
    with pytest.raises(ConfigError, match=r"env\.kwargs=.* does not make switch_riddle: TypeError: .*'agents'"):
        registered("switch_riddle", kwargs={"agents": 3})
    with pytest.raises(ConfigError, match=r"env\.kwargs=3 must be a group of settings"):
        from_mapping({"env": {"name": "jaxmarl", "kwargs": 3}, "algorithm": {"name": "vdn"}})


def test_the_switch_riddle_is_lost_by_who_tells_too_early():
    (outcome,) = play(registered("switch_riddle"), [(2, 2, 2)])
    assert outcome.reward == -1 and outcome.terminated and not outcome.truncated


def test_in_hanabi_only_the_player_whose_turn_it_is_can_act():
    env = registered("hanabi")
    _, observation = jax.jit(env.reset)(KEY)
    legal = np.asarray(observation.available)
    assert env.spec.num_actions == 21 and env.spec.episode_limit == 100
    np.testing.assert_array_equal(legal[1], np.arange(21) == 20)  # the other one can only wait
    assert not legal[0, 20] and not legal[0, :5].any() and legal[0, 5:10].all()  # no discard at 8 tokens; any play


def test_overcooked_is_truncated_at_its_limit_on_any_layout():
    env = registered("overcooked_v2", kwargs={"layout": "coord_ring", "max_steps": 2})
    assert env.spec.obs_size == 5 * 5 * 30
    outcomes = play(env, [(4, 4)] * 2)
    assert [bool(outcome.truncated) for outcome in outcomes] == [False, True]
    assert registered("overcooked", kwargs={"layout": "coord_ring"}).spec.obs_size == 5 * 5 * 26


# --- JaxNav --------------------------------------------------------------------------------------------------------

STAND, DRIVE = 2, 12  # speeds 0 and 1 m/s, straight ahead


@pytest.fixture(scope="module")
def crossing():
    """Two robots in opposite corners of an empty room, 4 m x 4 m apart, that face each other."""
    return Navigation(JaxNavConfig(map="BlankCross2", max_steps=40))


@pytest.fixture(scope="module")
def drive(crossing):
    """The observations and outcomes of so many steps with the same joint action."""
    step = jax.jit(crossing.step)

    def play(state, action, count):
        observations, outcomes = [], []
        for _ in range(count):
            state, observation, outcome = step(KEY, state, jnp.array(action))
            observations.append(jax.device_get(observation))
            outcomes.append(jax.device_get(outcome))
        return observations, outcomes

    return play


@pytest.mark.slow
@pytest.mark.parametrize("map", [slow("random"), "BlankCross2"])
def test_jaxnav_keeps_the_contract(map):
    assert problems(Navigation(JaxNavConfig(map=map, beams=2, max_steps=20))) == []


def test_robots_that_drive_straight_at_each_other_crash(crossing, drive):
    """They gain 0.1 m/s a step up to 1 m/s, so they have driven 0.55 m after 10 steps and 2.65 m after 31: their
    centres are 0.36 m apart then, and their bodies, half a metre long, touch. At the last two steps each saw the
    other's front nearer than 0.4 m.
    """
    state, _ = crossing.reset(KEY)
    _, outcomes = drive(state, (DRIVE, DRIVE), 31)
    assert [int(outcome.terminated) for outcome in outcomes] == [0] * 30 + [1]
    assert not any(outcome.truncated for outcome in outcomes)
    assert sum(outcome.metrics["crashes"] for outcome in outcomes) == 2
    assert outcomes[0].reward == pytest.approx(0.25 * 0.01 - 0.01, abs=1e-4)
    expected = 0.25 * 2.65 - 31 * 0.01 - 2 * 0.1 - 4
    assert sum(outcome.reward for outcome in outcomes) == pytest.approx(expected, abs=0.01)


def test_robots_that_reach_their_goals_win(crossing, drive):
    """0.55 m before the goal's centre, of which 0.06 m are driven in 3 steps, so that the third ends within 0.5 m."""
    state, _ = crossing.reset(KEY)
    ahead = jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta)], axis=-1)
    _, outcomes = drive(state.replace(pos=state.goal - 0.55 * ahead), (DRIVE, DRIVE), 3)
    assert [float(outcome.reward) for outcome in outcomes] == pytest.approx([-0.0075, -0.005, 3.99], abs=1e-4)
    assert [int(outcome.metrics["goals_reached"]) for outcome in outcomes] == [0, 0, 2]
    assert [bool(outcome.metrics["win_rate"]) for outcome in outcomes] == [False, False, True]
    assert outcomes[-1].terminated


def test_robots_that_stand_are_truncated_at_the_limit(crossing, drive):
    _, outcomes = drive(crossing.reset(KEY)[0], (STAND, STAND), 40)
    assert [bool(outcome.truncated) for outcome in outcomes] == [False] * 39 + [True]
    assert sum(outcome.reward for outcome in outcomes) == pytest.approx(-0.4)


def test_the_layout_puts_a_name_to_the_right_number_of_jaxnav(crossing):
    _, observation = crossing.reset(KEY)
    layout = layout_of(crossing)
    names = [f"{about} {feature.name}" for about, kind in layout.state for feature in layout.kinds[kind]]
    found = dict(zip(names, observation.state.tolist(), strict=True))
    assert found["agent_1 x"] == pytest.approx(5.5 / 7 - 0.5) and found["agent_1 goal_x"] == pytest.approx(
        1.5 / 7 - 0.5
    )
    assert found["agent_0 heading"] == pytest.approx(0.78 / math.pi) and found["clock time_over_limit"] == -0.5
    own = dict(zip([feature.name for feature in layout.features(0)], observation.agents[0].tolist(), strict=True))
    assert own["distance"] == pytest.approx(4 * math.sqrt(2) / 6 - 0.5) and own["speed"] == -0.5
    assert layout.agents[0].actions[DRIVE] == "drive at 1 m/s, turn left at 0 rad/s"
    assert crossing.spec.state_size == 25 + 2 * 9 + 1


def test_every_number_is_in_the_range_that_the_layout_gives(crossing, drive):
    layout = layout_of(crossing)
    features = layout.features(0)
    world = [feature for _, kind in layout.state for feature in layout.kinds[kind]]
    observations, _ = drive(crossing.reset(KEY)[0], (10, DRIVE), 40)  # one in circles, one into it or the wall
    for seen in observations:
        for each in seen.agents:
            assert all(f.low <= x <= f.high for f, x in zip(features, each, strict=True))
        assert all(f.low <= x <= f.high for f, x in zip(world, seen.state, strict=True))


def test_a_random_map_is_drawn_for_each_episode():
    env = Navigation(JaxNavConfig(num_agents=3, size=9, fill=0.5, beams=2))
    states, _ = jax.vmap(env.reset)(jax.random.split(KEY, 8))
    walls = np.asarray(states.map_data)
    assert walls.shape == (8, 9, 9) and walls[:, 0].all() and len(np.unique(walls, axis=0)) > 1
    assert walls[:, 1:-1, 1:-1].sum((1, 2)).max() < 0.5 * 49
    assert len(np.unique(np.asarray(states.pos).round(3), axis=0)) == 8 and states.pos.shape == (8, 3, 2)


def test_more_robots_than_a_map_has_room_for_are_refused():
    with pytest.raises(ConfigError, match=r"env\.num_agents=4 must be 3 at most with env\.size=5 and env\.fill=0\.3"):
        Navigation(JaxNavConfig(num_agents=4, size=5, fill=0.3))
