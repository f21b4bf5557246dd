"""Every environment keeps the contract; the known games have their known payoffs."""

import importlib
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.actions import random_action
from qmix_jax.build import make_env
from qmix_jax.config import EnvConfig
from qmix_jax.envs import ENVIRONMENTS
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.connector.settings import ConnectorConfig
from qmix_jax.envs.foraging.settings import ForagingConfig
from qmix_jax.envs.layout import layout_of
from qmix_jax.envs.matrix import ClimbingConfig, MatrixConfig, PenaltyConfig, QplexGameConfig
from qmix_jax.envs.mpe.env import CLASSES
from qmix_jax.envs.mpe.settings import MpeConfig
from qmix_jax.envs.predator_prey import PredatorPreyConfig
from qmix_jax.envs.probe import ProbeConfig
from qmix_jax.envs.smax.env import MAP_NAME_TO_SCENARIO
from qmix_jax.envs.smax.settings import MAPS, SmaxConfig
from qmix_jax.envs.two_step import TwoStepConfig
from qmix_jax.envs.warehouse.settings import WarehouseConfig
from qmix_jax.envs.wrappers.joint import JointTeam
from qmix_jax.settings import ConfigError, convert
from qmix_jax.types import Observation, Outcome, action_dtype

SETTINGS = {
    "smax": SmaxConfig(map="3m"),
    "smax with random types": SmaxConfig(map="smacv2_5_units"),
    "simple_spread": MpeConfig("simple_spread"),
    "simple_reference": MpeConfig("simple_reference"),
    "simple_speaker_listener": MpeConfig("simple_speaker_listener"),
    "two_step": TwoStepConfig(),
    "matrix": MatrixConfig(),
    "predator_prey": PredatorPreyConfig(-2.0),
    "foraging": ForagingConfig("2s-6x6-2p-2f", time_limit=20),
    "warehouse": WarehouseConfig("1x3-2ag", column_height=2, time_limit=20),
    "probe": ProbeConfig(),
    "connector": ConnectorConfig(grid_size=3, num_agents=2, generator="uniform", time_limit=10),
}
EPISODES = 4
TASKS = ENVIRONMENTS["mpe"].variants


def env_of(settings):
    (name, *_) = (name for name, known in ENVIRONMENTS.items() if known.settings is type(settings))
    return make_env(EnvConfig(name, settings))


@pytest.fixture(scope="module", params=[*SETTINGS, "joint probe", "joint simple_spread"])
def played(request):
    """Random legal play past the step limit, from one compiled scan."""
    name = request.param.removeprefix("joint ")
    env = env_of(SETTINGS[name]) if name == request.param else JointTeam(env_of(SETTINGS[name]))

    def step(carry, key):
        state, observation = carry
        uniform = jax.random.uniform(key, (EPISODES, env.spec.num_agents))
        action = random_action(uniform, observation.available)
        state, after, outcome = jax.vmap(env.step)(jax.random.split(key, EPISODES), state, action)
        restored = jax.vmap(env.decompress)(jax.vmap(env.compress)(state, after))
        return (state, after), (observation, outcome, jax.vmap(env.scene)(state), after, restored)

    @jax.jit
    def play(key):
        start = jax.vmap(env.reset)(jax.random.split(key, EPISODES))
        return jax.lax.scan(step, start, jax.random.split(key, env.spec.episode_limit))[1]

    observation, outcome, scene, *both = jax.device_get(play(jax.random.key(0)))
    return Played(env, observation, outcome, scene, both)


class Played(NamedTuple):
    env: TeamEnv
    observation: Observation
    outcome: Outcome
    scene: dict
    after_and_restored: list


def test_the_spec_tells_the_shapes(played):
    env, observation, outcome, *_ = played
    spec, lead = env.spec, (env.spec.episode_limit, EPISODES)
    assert observation.agents.shape == (*lead, spec.num_agents, spec.obs_size)
    assert observation.available.shape == (*lead, spec.num_agents, spec.num_actions)
    assert observation.available.dtype == bool
    if observation.state is None:
        assert spec.state_size == spec.num_agents * spec.obs_size
    else:
        assert observation.state.shape == (*lead, spec.state_size)
    assert all(leaf.shape == lead for leaf in jax.tree.leaves(outcome))


def test_every_agent_always_has_a_legal_action(played):
    observation = played.observation
    assert observation.available.any(-1).all()


def test_a_compressed_observation_is_restored(played):
    after, restored = played.after_and_restored
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), after, restored)


def test_everything_is_finite(played):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(played[1:]))


def test_an_episode_ends_by_the_limit_at_the_latest_and_for_one_reason(played):
    env, outcome = played.env, played.outcome
    ended = outcome.terminated | outcome.truncated
    assert ended.any(0).all()
    first_end = ended.argmax(0)
    one = np.arange(EPISODES)
    assert not (outcome.terminated & outcome.truncated)[first_end, one].any()
    assert not outcome.metrics.get("win_rate", np.zeros_like(ended))[~ended].any()
    assert first_end.max() < env.spec.episode_limit
    assert first_end.min() >= env.spec.shortest_episode - 1


def test_the_layout_names_every_number_and_its_range(played):
    env, observation = played.env, played.observation
    layout = layout_of(env)
    assert len(layout.agents) == env.spec.num_agents
    for i, agent in enumerate(layout.agents):
        features, seen = layout.features(i), observation.agents[:, :, i]
        assert (seen[..., len(features) :] == 0).all() and len(features) <= env.spec.obs_size
        assert not observation.available[:, :, i, len(agent.actions) :].any()
        assert observation.available[:, :, i, : len(agent.actions)].any((0, 1)).mean() > 0.5, "these can be legal"
        for j, feature in enumerate(features):
            assert feature.low is None or seen[..., j].min() >= feature.low - 1e-4, feature
            assert feature.high is None or seen[..., j].max() <= feature.high + 1e-4, feature


def test_the_layout_puts_a_name_to_the_right_number():
    env = env_of(SmaxConfig(map="2s3z"))
    state, observation = jax.jit(env.reset)(jax.random.key(0))
    state, observation, _ = jax.jit(env.step)(jax.random.key(1), state, jnp.array([0, 1, 2, 3, 4]))
    layout = layout_of(env)
    for i in range(5):
        place, found = 0, {}
        for about, kind in layout.agents[i].blocks:
            for feature in layout.kinds[kind]:
                found[about, feature.name] = float(observation.agents[i, place])
                place += 1
        assert found[f"ally_{i}", "x_over_map_width"] == pytest.approx(float(state.x[i]) / 32)
        assert found[f"ally_{i}", "is_stalker"] == (i < 2)
        other = (i + 1) % 5
        if found[f"ally_{other}", "health"] > 0:
            sight = env._rules.traits.sight_range[int(state.unit_type[i])]
            away = float(state.x[other] - state.x[i]) / sight
            assert found[f"ally_{other}", "dx_in_sight_ranges"] == pytest.approx(away, abs=1e-5)
            assert found[f"ally_{other}", "last_movement_y"] == pytest.approx(float(state.movement_y[other]))
    assert layout.agents[0].actions[:2] == ("move north (y grows)", "move east (x grows)")
    assert state.movement_y[0] > 0.9 and state.movement_x[1] > 0.9


def test_the_scene_is_one_moment_of_every_episode(played):
    env, scene = played.env, played.scene
    assert scene and all(value.shape[:2] == (env.spec.episode_limit, EPISODES) for value in scene.values())


@pytest.mark.parametrize("task", TASKS)
def test_mpe_episodes_are_truncated_after_26_steps_as_jaxmarls_are(task):
    env = env_of(MpeConfig(task))
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    for t in range(26):
        state, _, outcome = step(jax.random.key(t), state, jnp.zeros(env.spec.num_agents, int))
        assert bool(outcome.truncated) == (t == 25)
        assert not outcome.terminated


def test_smax_is_truncated_after_101_steps_as_jaxmarls_is():
    env = env_of(SmaxConfig(map="3m"))
    stay = jnp.full(3, 4)

    def healed(state):  # nobody ever dies
        return state._replace(health=jnp.full_like(state.health, 45.0))

    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(lambda key, state: env.step(key, healed(state), stay))
    for t in range(101):
        state, _, outcome = step(jax.random.key(t), state)
        assert bool(outcome.truncated) == (t == 100)
        assert not outcome.terminated and not outcome.metrics["win_rate"]


def test_agents_of_different_sizes_are_padded_and_masked():
    env = env_of(MpeConfig("simple_speaker_listener"))
    _, observation = jax.jit(env.reset)(jax.random.key(0))
    assert env.spec.obs_size == 11 and env.spec.num_actions == 5
    assert (observation.agents[0, 3:] == 0).all()
    np.testing.assert_array_equal(observation.available, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize("task", TASKS)
def test_mpe_plays_as_jaxmarls_does_with_the_agents_rewards_summed(task):
    env, raw = env_of(MpeConfig(task)), getattr(importlib.import_module("jaxmarl.environments.mpe"), CLASSES[task])()
    names, key = env.spec.agent_names, jax.random.key(1)

    def step(states, key):
        ours, theirs = states
        action = jax.random.randint(key, (len(names),), 0, 3)
        ours, observation, outcome = env.step(key, ours, action)
        obs, theirs, rewards, _, _ = raw.step_env(key, theirs, dict(zip(names, action, strict=True)))
        padded = [jnp.pad(obs[name], (0, env.spec.obs_size - obs[name].shape[0])) for name in names]
        both = (observation.agents, outcome.reward), (jnp.stack(padded), sum(rewards[name] for name in names))
        return (ours, theirs), both

    (_, start), (state, _) = raw.reset(key), env.reset(key)
    start, state = (world.replace(p_pos=0.2 * world.p_pos) for world in (start, state))  # so close that they collide
    _, (ours, theirs) = jax.jit(lambda states: jax.lax.scan(step, states, jax.random.split(key, 26)))((state, start))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_all_smax_maps_are_known_and_a_wrong_one_is_answered_with_the_nearest():
    assert tuple(MAP_NAME_TO_SCENARIO) == MAPS and len(MAPS) == 14
    for name in MAPS:
        assert env_of(SmaxConfig(map=name)).spec.name == f"SMAX {name}"
    with pytest.raises(ConfigError, match="did you mean '3s5z'"):
        env_of(SmaxConfig(map="3s5zz"))


def run_python(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_settings_does_not_start_jax_which_devices_would_come_too_late_for():
    read = (
        "import jax, qmix_jax.build; assert all(map(qmix_jax.build.environments().get, qmix_jax.build.environments()))"
    )
    run_python(f"{read}; jax.config.update('jax_num_cpu_devices', 3)")  # raises where JAX has started


def test_importing_the_registry_does_not_import_jax():
    modules = "qmix_jax.build, qmix_jax.envs.smax.settings, qmix_jax.envs.mpe.settings"
    run_python(f"import sys, {modules}; assert 'jax' not in sys.modules")


def test_the_two_step_game_pays_as_the_paper_says():
    env = env_of(TwoStepConfig())
    for first, tables in enumerate([[[7, 7], [7, 7]], [[0, 1], [1, 8]]]):
        for i in (0, 1):
            for j in (0, 1):
                state, _ = env.reset(jax.random.key(0))
                state, _, outcome = env.step(jax.random.key(0), state, jnp.array([first, i]))
                assert float(outcome.reward) == 0 and not outcome.terminated
                _, _, outcome = env.step(jax.random.key(0), state, jnp.array([i, j]))
                assert float(outcome.reward) == tables[i][j] and outcome.terminated


def test_a_matrix_game_pays_its_table_for_any_number_of_agents():
    payoff = np.arange(12.0).reshape(2, 3, 2)
    env = env_of(MatrixConfig(convert(payoff.tolist(), tuple, "")))
    state, observation = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(observation.available.sum(-1), [2, 3, 2])
    for joint in np.ndindex(payoff.shape):
        assert float(env.step(jax.random.key(0), state, jnp.array(joint))[2].reward) == payoff[joint]


PENALTIES = [(PenaltyConfig(k), 10, [(0, 2), (2, 0)]) for k in (0.0, -25.0, -50.0, -75.0, -100.0)]


@pytest.mark.parametrize(
    ("settings", "best", "where"),
    [
        (MatrixConfig(), 8, [(0, 0)]),
        (ClimbingConfig(), 11, [(0, 0)]),
        (QplexGameConfig("harder"), 8, [(0, 0)]),
        (QplexGameConfig("flat"), pytest.approx(10.4), [(0, 0)]),
        *PENALTIES,
    ],
)
def test_known_games_have_their_known_best(settings, best, where):
    env = env_of(settings)
    state, observation = env.reset(jax.random.key(0))
    assert observation.available.all() and observation.available.shape == (2, 3)
    rewards = {
        joint: float(env.step(jax.random.key(0), state, jnp.array(joint))[2].reward) for joint in np.ndindex(3, 3)
    }
    assert max(rewards.values()) == best
    assert [joint for joint, reward in rewards.items() if reward == best] == where


def test_the_penalty_is_for_agents_that_choose_different_best_places():
    env = env_of(PenaltyConfig(-7.0))
    np.testing.assert_array_equal(env.payoff, [[-7, 0, 10], [0, 2, 0], [10, 0, -7]])


def test_a_team_as_one_agent_plays_the_same_game_with_joint_actions():
    payoff = np.arange(12.0).reshape(2, 3, 2)
    env = JointTeam(env_of(MatrixConfig(convert(payoff.tolist(), tuple, ""))))
    state, observation = env.reset(jax.random.key(0))
    assert env.spec.num_agents == 1 and env.spec.num_actions == 27 and env.spec.obs_size == 3 + 1
    legal = np.zeros((3, 3, 3), bool)
    legal[:2, :, :2] = True
    np.testing.assert_array_equal(observation.available[0], legal.ravel())
    for joint in np.ndindex(payoff.shape):
        number = jnp.array([np.ravel_multi_index(joint, (3, 3, 3))])
        assert float(env.step(jax.random.key(0), state, number)[2].reward) == payoff[joint]


def test_a_team_as_one_agent_does_nothing_where_every_agent_does_nothing():
    env = JointTeam(env_of(SmaxConfig(map="3m")))
    assert env.spec.idle_action is not None and env.digits(jnp.array(env.spec.idle_action)).tolist() == [4, 4, 4]


@pytest.mark.parametrize("count", [126, 127, 128])
def test_stored_actions_index_a_row_for_each_and_one_for_none(count):
    dtype = action_dtype(env_of(ProbeConfig()).spec._replace(num_actions=count))
    assert int(jnp.arange(count + 1)[jnp.array([count], dtype)][0]) == count


def test_too_many_joint_actions_are_refused():
    with pytest.raises(ConfigError, match=r"10\^5 = 100,000 joint actions on SMAX 2s3z"):
        JointTeam(env_of(SmaxConfig(map="2s3z")))


@pytest.mark.parametrize("payoff", [(1.0, 2.0), ((1.0,), (2.0, 3.0)), (("a", "b"),), ()])
def test_a_payoff_that_is_no_table_is_refused(payoff):
    with pytest.raises(ConfigError, match=r"env\.payoff"):
        env_of(MatrixConfig(payoff))
