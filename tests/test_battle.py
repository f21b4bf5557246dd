"""Battle against JaxMARL's simulator: the same actions and the same random numbers must give the same battle."""

import contextlib
import io
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.envs.smax.battle import Battle, RandomNumbers
from qmix_jax.envs.smax.enemy import pick_one
from qmix_jax.envs.smax.env import Smax
from qmix_jax.envs.smax.rules import STOP
from qmix_jax.envs.smax.settings import SmaxConfig
from qmix_jax.envs.smax.view import View, compress, view

with contextlib.redirect_stdout(io.StringIO()):
    from jaxmarl.environments import smax

BATTLES, STEPS, LIMIT = 24, 60, 50
CASES = {
    "3m": {"walls_cause_death": False},
    "2s3z": {},
    "3s_vs_5z": {"attack_mode": "random", "see_enemy_actions": False},
    "smacv2_5_units": {"attack_mode": "random"},
}


def make(name, **options):
    env = smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario(name), max_steps=LIMIT, **options)
    return env, Battle(env)


def jaxmarl_numbers(env, key):
    """The numbers that JaxMARL draws in step_env(key), drawn the way it does."""
    key, enemy_key = jax.random.split(key)
    enemies = jax.vmap(jax.random.split)(jax.random.split(enemy_key, env.num_enemies))

    def jitter(key, _):
        key, world_key = jax.random.split(key)
        keys = jax.random.split(world_key, env._env.num_agents)
        dt = env.time_per_step
        return key, jax.vmap(lambda k: jax.random.uniform(k, minval=-dt, maxval=2 * dt))(keys)

    _, jitters = jax.lax.scan(jitter, key, None, env.world_steps_per_env_step)
    follow, shoot = (jax.vmap(jax.random.uniform)(enemies[:, i]) for i in range(2))
    return RandomNumbers(jitters, follow, shoot)


def play(env, battle, key):
    """One battle in JaxMARL over STEPS steps and past its end, and the result of ours for each of its steps."""
    key, reset_key, boldness_key = jax.random.split(key, 3)
    obs, begin = env.reset(reset_key)
    boldness = jax.random.choice(boldness_key, jnp.array([-30.0, 0.0, 2.0]))  # timid teams reach the step limit

    def stack(named):
        return jnp.stack([named[name] for name in env.agents])

    def legal(state):
        return stack(env.get_avail_actions(state)).astype(bool)

    def step(carry, key):
        state, available = carry
        step_key, action_key = jax.random.split(key)
        logits = jnp.full(available.shape[1], boldness).at[:STOP].set(0.0).at[STOP].set(-boldness)
        action = jax.random.categorical(action_key, jnp.where(available, logits, -jnp.inf))
        ours = battle.advance(battle.convert(state), action, jaxmarl_numbers(env, step_key))
        actions = {name: action[i] for i, name in enumerate(env.agents)}
        obs, state, reward, done, _ = env.step_env(step_key, state, actions)
        seen = View(stack(obs), legal(state), obs["world_state"])
        theirs = (battle.convert(state), seen, reward[env.agents[0]], done["__all__"], state.state.unit_alive)
        return (state, seen.available), (ours, theirs)

    begin_view = View(stack(obs), legal(begin), obs["world_state"])
    _, (ours, theirs) = jax.lax.scan(step, (begin, begin_view.available), jax.random.split(key, STEPS))
    return our_begin(env, battle, reset_key), (battle.convert(begin), *begin_view), ours, theirs


def our_begin(env, battle, key):
    """Our start of the battle that JaxMARL's reset(key) begins, and its observations."""
    if env.smacv2_unit_type_generation:
        state = battle.reset(key)
        return state, *view(battle.rules, state)
    _, ally_key, enemy_key = jax.random.split(jax.random.split(key)[1], 3)  # what JaxMARL draws the places from
    keys = [(ally_key, env.num_allies), (enemy_key, env.num_enemies)]
    noise = [jax.random.uniform(key, (size, 2), minval=-2, maxval=2) for key, size in keys]
    state = battle.begin(jnp.concatenate(noise).T)
    return state, *view(battle.rules, state)


@cache
def battles(name):
    env, battle = make(name, **CASES[name])
    keys = jax.random.split(jax.random.key(3), BATTLES)
    return jax.device_get(jax.jit(jax.vmap(lambda key: play(env, battle, key)))(keys))


def assert_close(ours, theirs):
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_battle_is_jaxmarls(name):
    our_begin, their_begin, ours, (state, seen, reward, done, alive) = battles(name)
    assert_close(our_begin, their_begin)
    assert_close(ours.state, state)
    assert_close(ours.view, seen)
    assert_close(ours.reward, reward)
    np.testing.assert_array_equal(ours.terminated | ours.truncated, done)
    np.testing.assert_array_equal(ours.state.health > 0, alive)
    assert not alive[:, -1].all()  # or nothing was tested after deaths


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_end_of_a_battle(name):
    _, _, ours, (_, _, reward, _, alive) = battles(name)
    num_allies = ours.view.agents.shape[2]
    allies, enemies = alive[:, :, :num_allies].any(2), alive[:, :, num_allies:].any(2)
    np.testing.assert_array_equal(ours.terminated, ~(allies & enemies))
    np.testing.assert_array_equal(ours.won, allies & ~enemies)
    late = np.arange(1, STEPS + 1) > LIMIT  # JaxMARL tests the limit before it counts the step
    np.testing.assert_array_equal(ours.truncated, allies & enemies & late)
    assert (reward[ours.won] >= 1).all()


def test_battles_end_in_every_way():
    ours = [battles(name)[2] for name in CASES]
    assert any(steps.truncated.any() for steps in ours)
    assert any(steps.won.any() for steps in ours)
    assert any((steps.terminated & ~steps.won).any() for steps in ours)


def test_starts_are_drawn_as_widely_as_jaxmarls():
    env, battle = make("2s3z")
    keys = jax.random.split(jax.random.key(1), 2048)
    ours = jax.jit(jax.vmap(battle.reset))(keys)
    theirs = jax.jit(jax.vmap(lambda key: battle.convert(env.reset(key)[1])))(keys)
    for moment in (np.mean, np.std):
        np.testing.assert_allclose(moment(ours.x, 0), moment(theirs.x, 0), atol=0.1)
        np.testing.assert_allclose(moment(ours.y, 0), moment(theirs.y, 0), atol=0.1)


def test_no_weapon_needs_two_jitters_in_a_step():
    _, battle = make("smacv2_5_units")
    rules = battle.rules
    assert rules.num_jitters == 1
    assert min(rules.traits.cooldown) - rules.dt > (rules.num_substeps - 2) * rules.dt
    numbers = jax.vmap(battle.draw)(jax.random.split(jax.random.key(0), 1000))
    jitter = np.asarray(numbers.jitter) / rules.dt
    assert jitter.shape == (1000, 1, 10)
    assert -1 <= jitter.min() < -0.98 and 1.98 < jitter.max() <= 2
    assert abs(jitter.mean() - 0.5) < 0.05


def test_one_candidate_is_picked_and_each_as_often():
    candidate = jnp.array([[True, False, True, True, False], [False] * 5, [False, True, False, False, False]])
    uniform = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 3000, endpoint=False)[:, None], (3000, 3))
    picked = np.asarray(jax.vmap(pick_one, (None, 0))(candidate, uniform))
    np.testing.assert_array_equal(picked.sum(0), [[1000, 0, 1000, 1000, 0], [0] * 5, [0, 3000, 0, 0, 0]])


def test_refuses_what_it_does_not_serve():
    scenario = smax.map_name_to_scenario("3m")
    for options in ({"use_self_play_reward": True}, {"observation_type": "conic"}, {"attack_mode": "nearest"}):
        with pytest.raises(ValueError, match=r"Battle|attack_mode"):
            Battle(smax.HeuristicEnemySMAX(scenario=scenario, **options))


def test_the_scaled_state_lies_between_0_and_1_and_a_weapon_that_is_ready_is_0():
    """JaxMARL's cooldown falls below 0 while a unit does not shoot, and further in every step."""
    scaled, raw = (Smax(SmaxConfig(map="2s3z", scale_state=each)) for each in (True, False))
    battle = Battle(smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario("2s3z")))
    compact = jax.vmap(lambda state: compress(battle.rules, state))(
        jax.tree.map(lambda x: x[:, -1], battles("2s3z")[2].state)
    )
    ours, theirs = (np.asarray(jax.vmap(env.decompress)(compact).state) for env in (scaled, raw))
    units, their_units = (each[:, :-20].reshape(len(each), 10, -1) for each in (ours, theirs))  # 20: teams and types
    assert ours.min() == 0 and ours.max() == 1
    assert their_units[..., 3].min() < -4  # after two seconds without a shot and more
    np.testing.assert_array_equal(units[..., 3] == 0, their_units[..., 3] <= 0)
    np.testing.assert_allclose(units[..., :3], their_units[..., :3] / [1, 32, 32], rtol=1e-6)
