"""A shield narrows the legal actions and can do nothing else."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

import qmix_jax
from qmix_jax.build import make_env
from qmix_jax.cli import main as cli
from qmix_jax.config import EnvConfig
from qmix_jax.deployed_agent import narrow
from qmix_jax.envs.smax.settings import SmaxConfig
from qmix_jax.run import experiment, startup
from qmix_jax.settings import ConfigError

OBSERVATION = np.arange(6.0).reshape(3, 2)
AVAILABLE = np.array([[True, True, False], [False, True, True], [True, False, False]])


def tampering(observation, state, available):
    observation[:], available[:] = 0, True
    return available


SHIELDS = {
    "leaves everything": (lambda observation, state, available: available, AVAILABLE),
    "forbids the first": (
        lambda observation, state, available: available & (np.arange(3) > 0),
        [[False, True, False], [False, True, True], [True, False, False]],
    ),
    "looks at the observation": (
        lambda observation, state, available: available & (observation[..., :1] < 3),
        [[True, True, False], [False, True, True], [True, False, False]],
    ),
    "looks at the state": (lambda observation, state, available: available & (state[0] < 0), AVAILABLE),
    "widens": (lambda observation, state, available: available | True, AVAILABLE),
    "widens elsewhere only": (lambda observation, state, available: ~available, AVAILABLE),
    "leaves none": (lambda observation, state, available: available & False, AVAILABLE),
}


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("name", SHIELDS)
def test_only_legal_actions_are_taken_away_and_never_all(name, xp):
    shield, expected = SHIELDS[name]
    found = narrow(shield, xp.asarray(OBSERVATION), xp.ones(4), xp.asarray(AVAILABLE))
    np.testing.assert_array_equal(found, expected)


def test_a_shield_works_on_copies():
    observation, available = OBSERVATION.copy(), AVAILABLE.copy()
    np.testing.assert_array_equal(narrow(tampering, observation, None, available), AVAILABLE)
    np.testing.assert_array_equal(observation, OBSERVATION)
    np.testing.assert_array_equal(available, AVAILABLE)


@pytest.mark.parametrize("wrong", [AVAILABLE[0], AVAILABLE.astype(int), None])
def test_a_shield_must_return_one_truth_value_for_each_action(wrong):
    with pytest.raises(ValueError, match="the shield returned shape"):
        narrow(lambda *_: wrong, OBSERVATION, None, AVAILABLE)


RULES = """
def agent_1_stays(observation, state, available):
    assert observation.shape == (2, 3) and state.shape == (3,), "all agents, and the global state"
    return available & (observation[:, 2:] != 1)

def half(observation, state, available):
    return available[:, :2]

LIMIT = 3

def not_the_first_legal_one(observation, state, available):
    xp = available.__array_namespace__()
    return available & (xp.cumulative_sum(available * 1, axis=-1) > 1)
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    (tmp_path / "the_rules.py").write_text(RULES)
    (tmp_path / "broken_rules.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "the_rules"


def test_the_environment_says_what_the_shield_leaves(rules, probe):
    env = make_env(tiny(env={"shield": f"{rules}:agent_1_stays"}).env)
    assert env.spec == probe.spec
    state, observation = env.reset(jax.random.key(0))
    bare_state, bare = probe.reset(jax.random.key(0))
    for t in range(3):
        np.testing.assert_array_equal(observation.available, bare.available)  # all of agent 1's would be gone
        np.testing.assert_array_equal(observation.agents, bare.agents)
        action = observation.available.argmax(-1)
        state, observation, _ = env.step(jax.random.key(t), state, action)
        bare_state, bare, _ = probe.step(jax.random.key(t), bare_state, action)


@pytest.mark.parametrize("env", ["probe", "climbing", "predator_prey"])
def test_a_team_learns_with_the_actions_that_were_legal_when_it_acted(rules, env):
    shielded = make_env(qmix_jax.compose(f"env={env}", f"env.shield={rules}:not_the_first_legal_one").env)
    state, observation = shielded.reset(jax.random.key(0))
    kept = shielded.decompress(shielded.compress(state, observation))
    jax.tree.map(np.testing.assert_array_equal, kept, observation)
    assert not np.array_equal(observation.available, shielded.wrapped.reset(jax.random.key(0))[1].available)


@pytest.mark.parametrize(
    ("shield", "message"),
    [
        ("the_rules", "must be written package.module:function"),
        (":half", "must be written package.module:function"),
        ("no_rules:half", "no_rules cannot be imported"),
        ("broken_rules:half", "No module named 'nothing_of_this_name'"),
        ("the_rules:halv", "has no function halv (did you mean 'half'?)"),
        ("the_rules:LIMIT", "has no function LIMIT"),
        ("the_rules:half", "does not work on probe: ValueError: the shield returned shape (2, 2)"),
    ],
)
def test_a_wrong_shield_is_one_line_before_anything_runs(rules, shield, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        experiment.check(tiny(env={"shield": shield}))
    assert "\n" not in str(refused.value) and f"env.shield={shield}" in str(refused.value)


def test_the_command_line_finds_a_module_of_the_current_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "local_rules.py").write_text(RULES)
    monkeypatch.setattr(startup, "start_jax", lambda devices: None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "env=probe", "env.shield=local_rules:nothing"]) == 2
    assert "local_rules has no function nothing" in capsys.readouterr().err


# --- the example of the documentation ----------------------------------------------------------------------------


def example():
    text = (Path(__file__).parents[1] / "docs" / "shield.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)[0]


@pytest.fixture
def my_rules(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(example())
    monkeypatch.syspath_prepend(tmp_path)
    return "my_rules:off_the_wall"


def walk_west(shield, battles=8, steps=24):
    """Everybody walks west wherever that is legal, else anywhere."""
    env = make_env(EnvConfig("smax", SmaxConfig(map="3m"), shield=shield))

    def step(carry, key):
        state, observation = carry
        west = observation.available[..., 3]
        action = jnp.where(west, 3, observation.available.argmax(-1))
        state, after, _ = jax.vmap(env.step)(jax.random.split(key, battles), state, action)
        return (state, after), (observation, jax.vmap(env.scene)(state))

    @jax.jit
    def play(key):
        start = jax.vmap(env.reset)(jax.random.split(key, battles))
        return jax.lax.scan(step, start, jax.random.split(key, steps))[1]

    return jax.device_get(play(jax.random.key(0)))


def killed_by_the_wall(scene):
    place, dead = scene["position"][-1, :, :3], ~scene["alive"][-1, :, :3]
    return (dead & ((place <= 0) | (place >= 32)).any(-1)).mean()


def test_the_example_keeps_units_from_the_deadly_wall(my_rules):
    _, scene = walk_west(None)
    assert killed_by_the_wall(scene) > 0.8
    observation, scene = walk_west(my_rules)
    assert killed_by_the_wall(scene) == 0
    assert not observation.available[..., 3].all(), "it did forbid something"


def test_the_example_works_alike_on_one_deployed_agent(my_rules):
    import my_rules as module

    env = make_env(EnvConfig("smax", SmaxConfig(map="3m")))
    _, observation = jax.jit(env.reset)(jax.random.key(0))
    rows, available = np.array(observation.agents), np.array(observation.available)
    rows[:, -9] = [0.01, 0.5, 0.99]  # x, as a share of the map's width
    team = narrow(module.off_the_wall, jnp.asarray(rows), None, jnp.asarray(available))
    alone = [narrow(module.off_the_wall, row, None, legal) for row, legal in zip(rows, available, strict=True)]
    np.testing.assert_array_equal(team, alone)
    np.testing.assert_array_equal(team[:, [1, 3]], [[True, False], [True, True], [False, True]])
