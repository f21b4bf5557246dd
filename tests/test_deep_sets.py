"""Agents that take entities as sets: equal to loops in NumPy, blind to the entities' order, and GRU agents where there
is nothing to tell apart.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params

from qmix_jax.agents.deep_sets import DeepSetAgents, DeepSetsConfig
from qmix_jax.agents.gru import GruConfig, RecurrentAgents
from qmix_jax.build import from_mapping, make_env
from qmix_jax.cli.evaluate import on_map
from qmix_jax.envs.entities import kinds_of, team_of
from qmix_jax.envs.layout import AgentLayout, Feature, Layout
from qmix_jax.envs.two_step import TwoStep, TwoStepConfig
from qmix_jax.learning.robustness import ParallelEvaluator
from qmix_jax.run.trained import TrainedRun
from qmix_jax.types import AgentInput, TeamSpec

H, E, B, T = 6, 5, 3, 4
CONFIG = DeepSetsConfig(hidden_size=H, entity_size=E)
KINDS = {
    "me": (Feature("health"),),
    "drone": (Feature("x"), Feature("y")),
    "tower": (Feature("x"), Feature("range"), Feature("range")),
}
DRONES = ("a", "b", "c")
ACTIONS = ("stay", "scan", "push", "leave")
AIMS = (None, "tower_0", "tower_0", None)
LAYOUT = Layout(
    KINDS,
    (
        AgentLayout((("b", "drone"), ("tower_0", "tower"), ("c", "drone"), ("a", "me")), ACTIONS, AIMS),
        AgentLayout((("b", "me"), ("a", "drone"), ("c", "drone"), ("tower_0", "tower"), ("tower_1", "tower")), ACTIONS),
        AgentLayout((("tower_1", "tower"), ("c", "me")), (*ACTIONS[:3], "push"), (None, "tower_1", None, "tower_1")),
    ),
    "",
)
"""Three agents who see their entities in different orders, and not all of them."""
SPEC = TeamSpec("drones", DRONES, obs_size=11, num_actions=4, state_size=1, episode_limit=1)


def made(layout=LAYOUT, spec=SPEC):
    env = TwoStep(TwoStepConfig())
    env.spec, env.layout = spec, lambda: layout
    return env


@pytest.fixture(scope="module")
def agents():
    return DeepSetAgents.make(CONFIG, made())


@pytest.fixture(scope="module")
def params(agents):
    return random_params(0, jax.eval_shape(agents.init, jax.random.key(0)))


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(1), 2)
    obs = jax.random.normal(keys[0], (T, B, 3, SPEC.obs_size))
    return AgentInput(
        obs,
        jax.random.randint(keys[1], (T, B, 3), 0, 4),
        first=jnp.zeros((T, B), bool).at[0].set(True).at[2, 1].set(True),
    )


# --- kinds -------------------------------------------------------------------------------------------------------


def test_entities_of_one_kind_are_those_that_stand_alike_to_the_agent_and_are_seen_alike():
    kinds = kinds_of(made())
    assert kinds.sizes == ((2, 2), (2, 3), (1, 1))  # drones of the team, towers, oneself
    assert kinds.places == (
        (0, 1, 5, 6, 2, 3, 4, -1, -1, -1, 7),
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0),
        (-1, -1, -1, -1, 0, 1, 2, -1, -1, -1, 3),
    )


def test_every_action_at_an_entity_has_a_value_of_its_own():
    kinds = kinds_of(made())
    assert (kinds.aimed, kinds.num_plain, kinds.num_aimed) == ((1,), 4, 2)  # b aims none of its four
    assert kinds.values == ((0, 4, 5, 1), (0, 1, 2, 3), (0, 4, 1, 5))  # the first tower that each sees
    team = team_of(made())
    assert (team.num_plain, team.num_aimed) == (4, 2)
    assert team.values == ((0, 6, 7, 1), (0, 1, 2, 3), (0, 4, 1, 5))  # a tower is a's second entity and c's first


def test_on_smax_units_are_allies_enemies_and_the_agent_and_nothing_has_to_be_moved():
    env = make_env(from_mapping({"env": {"name": "smax", "map": "2s3z"}, "algorithm": {"name": "qmix"}}).env)
    kinds = kinds_of(env)
    assert kinds.sizes == ((4, 13), (5, 13), (1, 10))
    assert kinds.values == (tuple(range(10)),) * 5
    assert set(kinds.places) == {tuple(range(env.spec.obs_size))}
    obs = jnp.zeros((1, 5, env.spec.obs_size))
    assert kinds.arrange(obs) is obs


# --- the network -------------------------------------------------------------------------------------------------


def relu(x):
    return np.maximum(x, 0)


def by_hand(w, agent, obs, last_action, hidden):
    """One agent's step: the next recurrent state, and the values of its actions."""
    blocks, at = [], 0
    for about, kind in LAYOUT.agents[agent].blocks:
        size = len(KINDS[kind])
        blocks.append((about, kind, obs[at : at + size]))
        at += size
    x = w["bias"] + w["agent_id"][agent] + w["last_action"][last_action]
    for k, kind, most in ((0, "drone", 2), (1, "tower", 2)):
        seen = [values for _, name, values in blocks if name == kind]
        for entity in [*seen, *[np.zeros(len(KINDS[kind]))] * (most - len(seen))]:
            x = x + relu(entity @ w[f"kind_{k}"] + w[f"kind_{k}_bias"]) @ w[f"kind_{k}_sum"]
    x = relu(x + next(values for _, kind, values in blocks if kind == "me") @ w["kind_2"])
    gates = np.split(x @ w["gru_input"] + w["gru_bias"], 3)
    recurrent = np.split(hidden @ w["gru_recurrent"], 3)
    r, z = (1 / (1 + np.exp(-(a + b))) for a, b in zip(gates[:2], recurrent[:2], strict=True))
    n = np.tanh(gates[2] + r * (recurrent[2] + w["gru_recurrent_bias"]))
    hidden = (1 - z) * n + z * hidden
    plain = iter(hidden @ w["q"] + w["q_bias"])
    nth, q = {}, []
    for aim in LAYOUT.agents[agent].aims or (None,) * 4:
        if aim is None:
            q.append(next(plain))
            continue
        entity = next(values for about, _, values in blocks if about == aim)
        both = (
            relu(hidden @ w["aim_1_hidden"] + entity @ w["aim_1"] + w["aim_1_bias"]) @ w["aim_1_q"] + w["aim_1_q_bias"]
        )
        nth[aim] = nth.get(aim, -1) + 1
        q.append(both[nth[aim]])
    return hidden, np.array(q)


def test_the_agents_equal_their_equations(agents, params, inputs):
    hidden = np.zeros((B, 3, H))
    _, output = jax.jit(agents.unroll)(params, agents.initial_state(B), inputs)
    weights, (obs, last_action, first) = jax.tree.map(np.asarray, (params, tuple(inputs)))
    for t in range(T):
        hidden[first[t]] = 0
        for b in range(B):
            for i in range(3):
                last = SPEC.num_actions if first[t, b] else last_action[t, b, i]
                hidden[b, i], q = by_hand(weights, i, obs[t, b, i], last, hidden[b, i])
                np.testing.assert_allclose(output.q[t, b, i], q, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(output.features[t], hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"share_parameters": False}, {"layer_norm": True}])
def test_an_unroll_is_its_steps(options, inputs):
    agents = DeepSetAgents.make(DeepSetsConfig(hidden_size=H, entity_size=E, **options), made())
    params, step = jax.jit(agents.init)(jax.random.key(0)), jax.jit(agents.step)
    hidden = jnp.ones((B, 3, H))
    last, output = jax.jit(agents.unroll)(params, hidden, inputs)
    for t in range(T):
        hidden, now = step(params, hidden, jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
        jax.tree.map(lambda a, b, t=t: np.testing.assert_allclose(a[t], b, rtol=1e-4, atol=1e-5), output, now)
    np.testing.assert_array_equal(last, output.features[-1])


def test_the_order_of_the_others_does_not_matter_and_values_follow_their_targets():
    env = make_env(from_mapping({"env": {"name": "smax", "map": "3m"}, "algorithm": {"name": "qmix"}}).env)
    agents = DeepSetAgents.make(CONFIG, env)
    params, step = jax.jit(agents.init)(jax.random.key(0)), jax.jit(agents.step)
    obs = jax.random.normal(jax.random.key(1), (B, 3, env.spec.obs_size))
    allies, enemies, own = agents.kinds.split(obs)
    turned = [allies[:, :, ::-1], enemies[:, :, jnp.array([1, 2, 0])], own]
    turned = jnp.concatenate([part.reshape(B, 3, -1) for part in turned], axis=-1)
    none = AgentInput(obs, jnp.zeros((B, 3), int), jnp.ones(B, bool))
    q, other = (step(params, agents.initial_state(B), none._replace(obs=x))[1].q for x in (obs, turned))
    np.testing.assert_allclose(other[..., :5], q[..., :5], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(other[..., 5:], q[..., jnp.array([6, 7, 5])], rtol=1e-4, atol=1e-6)
    assert not np.allclose(other[..., 5:], q[..., 5:], atol=1e-3)


def test_where_nothing_can_be_told_apart_they_are_the_gru_agents():
    env = TwoStep(TwoStepConfig())
    ours, theirs = DeepSetAgents.make(CONFIG, env), RecurrentAgents.make(GruConfig(hidden_size=H), env)
    params = ours.init(jax.random.key(0))
    inputs = AgentInput(jax.random.normal(jax.random.key(1), (B, 2, 4)), jnp.zeros((B, 2), int), jnp.zeros(B, bool))
    hidden = jnp.ones((B, 2, H))
    renamed = {"obs" if name == "kind_0" else name: leaf for name, leaf in params.items()}
    np.testing.assert_array_equal(ours.step(params, hidden, inputs)[1].q, theirs.step(renamed, hidden, inputs)[1].q)


def test_a_team_of_three_plays_as_eight():
    """Without numbers of agents and actions the parameters know kinds only: trained on 3m, they play on 8m."""
    agent = {"name": "deep_sets", "hidden_size": H, "use_agent_id": False, "use_last_action": False}
    config = from_mapping({"env": {"name": "smax", "map": "3m"}, "algorithm": {"name": "qmix"}, "agent": agent})
    env = make_env(config.env)
    params = jax.jit(DeepSetAgents.make(config.agent.settings, env).init)(jax.random.key(0))
    run = TrainedRun(config, env, {"agent": jax.tree.map(lambda leaf: leaf[None], params)})
    larger, agents = on_map(run, "8m")
    assert (larger.spec.num_agents, agents.spec.num_actions) == (8, 13)
    played = ParallelEvaluator(larger, agents, 4).play(run.params()["agent"], jax.random.key(0))
    assert played.is_over.all() and (played.length > 1).all()
