"""TransfQMix: agents and mixer equal NumPy rebuilds of the public modules, entities are those of the layout, and a
team of one size plays in another.

The rebuilds follow the public modules' own order of operations; weights are named as in this package.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import input_of, merge, random_params

from qmix_jax.agents.transformer import TransformerAgents, TransformerConfig
from qmix_jax.build import from_mapping, make_agents, make_env
from qmix_jax.cli.evaluate import on_map
from qmix_jax.envs.entities import Entities, Team, state_of, team_of
from qmix_jax.envs.layout import AgentLayout, Feature, Layout, layout_of
from qmix_jax.envs.two_step import TwoStep, TwoStepConfig
from qmix_jax.learning.robustness import ParallelEvaluator
from qmix_jax.mixers.transfqmix import TransfQMix
from qmix_jax.run.trained import TrainedRun
from qmix_jax.settings import ConfigError
from qmix_jax.types import AgentInput, TeamSpec

SIZES = {"hidden_size": 6, "num_heads": 3}
B, N, K, F, E, HEADS = 4, 2, 3, 5, 6, 3


def settings_of(env, **changes):
    return merge({"env": env, "algorithm": {"name": "transfqmix"}, "agent": {"name": "transformer", **SIZES}}, changes)


# --- the public modules ------------------------------------------------------------------------------------------


def layer_norm(weights, x):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return normal * weights["scale"] + weights["bias"]


def linear(weights, x):
    return x @ weights["kernel"] + weights["bias"]


def attention(weights, q, k):
    """MultiHeadAttention: heads folded into the batch, queries and keys scaled by the fourth root of their width."""
    b, t_q, e = q.shape

    def fold(name, x):
        heads = (x @ weights[name]).reshape(b, x.shape[1], HEADS, e)
        return heads.transpose(0, 2, 1, 3).reshape(b * HEADS, x.shape[1], e)

    queries, keys, values = fold("query", q) / e**0.25, fold("key", k) / e**0.25, fold("value", k)
    dot = queries @ keys.transpose(0, 2, 1)
    dot = np.exp(dot - dot.max(2, keepdims=True))
    out = ((dot / dot.sum(2, keepdims=True)) @ values).reshape(b, HEADS, t_q, e)
    out = out.transpose(0, 2, 1, 3).reshape(b, t_q, HEADS * e)
    return out @ weights["unify"] + weights["unify_bias"]


def transformer(weights, x):
    """Transformer(x, x): every block gets the same keys."""
    keys = x
    for i in range(len(weights)):
        block = weights[f"block_{i}"]
        x = layer_norm(block["norm_1"], attention(block, x, keys) + x)
        hidden = np.maximum(linear(block["forward_1"], x), 0)
        x = layer_norm(block["norm_2"], linear(block["forward_2"], hidden) + x)
    return x


def public_agent(weights, inputs, hidden, num_aimed):
    """TransformerAgent (num_aimed = 0) and TransformerAgentSmac, whose enemies come first among the entities."""
    b, a, _, _ = inputs.shape
    embs = linear(weights["embed"], inputs.reshape(b * a, K, F))
    embs = transformer(weights["transformer"], np.concatenate([hidden.reshape(-1, 1, E), embs], axis=1))
    q = linear(weights["plain"], embs[:, 0])
    if num_aimed:
        q = np.concatenate([q, linear(weights["aimed"], embs[:, 1 : num_aimed + 1])[..., 0]], axis=-1)
    return q.reshape(b, a, -1), embs[:, 0].reshape(b, a, E)


@pytest.mark.parametrize("num_aimed", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_agents(num_aimed):
    """With entities that are the observation as a matrix, the marks being its last two columns."""
    places = np.arange(N * K * (F - 2)).reshape(N * K, F - 2)
    entities = Entities(tuple(map(tuple, places.tolist())), ((1.0, 1.0), (0.0, 1.0), (0.0, 0.0)) * N)
    num_plain = 4
    team = Team(entities, (tuple(range(num_plain + num_aimed)),) * N, num_plain)
    names = ("agent_0", "agent_1")
    spec = TeamSpec("entities", names, K * (F - 2), num_plain + num_aimed, 1, episode_limit=1)
    agents = TransformerAgents(TransformerConfig(**SIZES), spec, team)
    keys = jax.random.split(jax.random.key(0), 4)
    params = random_params(0, jax.eval_shape(agents.init, keys[0]))
    obs, hidden = jax.random.normal(keys[1], (B, N, spec.obs_size)), jax.random.normal(keys[2], (B, N, E))
    seen = AgentInput(obs, jnp.zeros((B, N), int), jnp.zeros(B, bool))
    marks = np.broadcast_to(np.array(entities.marks).reshape(N, K, 2), (B, N, K, 2))
    inputs = np.concatenate([np.asarray(obs).reshape(B, N, K, F - 2), marks], axis=-1)
    expected = public_agent(jax.tree.map(np.asarray, params["params"]), inputs, np.asarray(hidden), num_aimed)
    after, output = jax.jit(agents.step)(params, hidden, seen)
    np.testing.assert_allclose(output.q, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after, expected[1], rtol=1e-5, atol=1e-5)


def public_mixer(weights, qvals, inputs, hidden_states, hyper_weights):
    """TransformerMixer with qmix_pos_func="abs"."""
    b = len(qvals)
    x = np.concatenate([linear(weights["embed"], inputs), hidden_states, hyper_weights], axis=1)
    embs = transformer(weights["transformer"], x)
    w1, b1 = np.abs(embs[:, -3 - N : -3]), embs[:, -3].reshape(b, 1, E)
    w2 = np.abs(embs[:, -2].reshape(b, E, 1))
    b2 = np.maximum(linear(weights["value"], embs[:, -1]), 0).reshape(b, 1, 1)
    hidden = qvals.reshape(b, 1, N) @ w1 + b1
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    return (hidden @ w2 + b2)[:, 0, 0]


def test_mixer():
    places = tuple(map(tuple, np.arange(K * F).reshape(K, F).tolist()))
    entities = Entities(places, ((0.0, 1.0), (0.0, 1.0), (0.0, 0.0)))
    options = {"embed_size": E, "num_heads": HEADS, "is_scaled": False, "state_norm": "none", "entities": entities}
    mixer = TransfQMix(**options)
    keys = jax.random.split(jax.random.key(1), 4)
    q, state, hidden = (jax.random.normal(k, s) for k, s in zip(keys, ((B, N, 4), (B, K * F), (B, N, E)), strict=False))
    joint = input_of(q, q.argmin(-1), state, hidden)
    params = random_params(0, jax.eval_shape(mixer.init, keys[3], joint))
    weights = jax.tree.map(np.asarray, params["params"])
    marks = np.broadcast_to(np.array(entities.marks), (B, K, 2))
    inputs = np.concatenate([np.asarray(state).reshape(B, K, F), marks], axis=-1)
    tokens = np.tile(weights["tokens"], (B, 1, 1))
    expected = public_mixer(weights, np.asarray(joint.chosen_q), inputs, np.asarray(hidden), tokens)
    np.testing.assert_allclose(jax.jit(mixer.apply)(params, joint)[:, 0], expected, rtol=1e-5, atol=1e-5)


# --- entities ----------------------------------------------------------------------------------------------------


def matrix_of(env, name, agent, observation):
    """The entities of one agent by name: {name: {feature: value}}, read off the layout number by number."""
    seen, start = {}, 0
    layout = layout_of(env)
    for about, kind in layout.agents[agent].blocks:
        for feature in layout.kinds[kind]:
            seen.setdefault(about, {})[feature.name] = float(observation.agents[agent, start])
            start += 1
    return seen[name]


@pytest.mark.parametrize("env", [{"name": "smax", "map": "3m"}, {"name": "mpe", "task": "simple_spread"}])
def test_every_number_of_an_observation_stands_in_the_row_of_its_entity(env):
    env = make_env(from_mapping(settings_of(env)).env)
    _, observation = jax.jit(env.reset)(jax.random.key(0))
    team, agents = team_of(env), layout_of(env).agents
    rows = np.asarray(team.entities.rows(observation.agents.ravel()))
    rows = rows.reshape(env.spec.num_agents, -1, rows.shape[-1])
    for i, agent in enumerate(agents):
        names = list(dict.fromkeys(about for about, _ in agent.blocks))
        for row, name in zip(rows[i], names, strict=True):
            features = matrix_of(env, name, i, observation)
            np.testing.assert_allclose(np.sort(row[:-2][row[:-2] != 0]), np.sort([v for v in features.values() if v]))
            own, friend = row[-2:]
            assert (own, friend) == (name == env.spec.agent_names[i], name in env.spec.agent_names)


def test_numbers_of_one_name_about_one_entity_have_columns_of_their_own():
    kinds = {"position": (Feature("x"),), "velocity": (Feature("x"),), "lidar": (Feature("ray"),) * 2}
    blocks = (("a", "position"), ("b", "position"), ("a", "velocity"), ("a", "lidar"))
    spec = TeamSpec("blocks", ("a",), obs_size=5, num_actions=1, state_size=5, episode_limit=1)
    layout = Layout(kinds, (AgentLayout(blocks, ("stay",)),), "", state=blocks)
    env = TwoStep(TwoStepConfig())
    env.spec, env.layout = spec, lambda: layout
    for entities in (team_of(env).entities, state_of(env)):
        assert entities.places == ((0, 2, 3, 4), (1, -1, -1, -1))


def test_the_value_of_an_attack_comes_from_the_enemy_that_is_attacked():
    env = make_env(from_mapping(settings_of({"name": "smax", "map": "3m"})).env)
    team = team_of(env)
    assert team.num_plain == 5  # four moves and stop
    assert team.values == ((0, 1, 2, 3, 4, 7, 8, 9),) * 3  # two allies, three enemies, oneself


def test_a_states_entities_are_the_units_with_their_places_sides_and_types():
    env = make_env(from_mapping(settings_of({"name": "smax", "map": "2s3z"})).env)
    _, observation = jax.jit(env.reset)(jax.random.key(0))
    rows = np.asarray(state_of(env).rows(observation.state))
    units = np.asarray(observation.state)[: 10 * 10].reshape(10, 10)  # health, x, y, cooldown and six types
    np.testing.assert_array_equal(rows[:, :10], units)
    np.testing.assert_array_equal(rows[:, 10], [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(rows[:, 11], np.asarray(observation.state)[-10:])
    np.testing.assert_array_equal(rows[:, -1], [1] * 5 + [0] * 5)


# --- agents ------------------------------------------------------------------------------------------------------


def test_an_unroll_is_its_steps_and_an_episodes_start_forgets():
    env = make_env(from_mapping(settings_of({"name": "two_step"})).env)
    agents = TransformerAgents.make(TransformerConfig(**SIZES), env)
    params, step = jax.jit(agents.init)(jax.random.key(0)), jax.jit(agents.step)
    obs = jax.random.normal(jax.random.key(1), (3, B, 2, 4))
    first = jnp.zeros((3, B), bool).at[1, 0].set(True)
    inputs, hidden = AgentInput(obs, jnp.zeros((3, B, 2), int), first), jnp.ones((B, 2, E))
    last, (q, features) = jax.jit(agents.unroll)(params, hidden, inputs)
    for t in range(3):
        hidden, now = step(params, hidden, jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
        np.testing.assert_allclose(features[t], hidden, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(q[t], now.q, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(last, features[-1])
    fresh = step(params, agents.initial_state(B), jax.tree.map(lambda leaf: leaf[1], inputs))[1].q
    np.testing.assert_allclose(q[1, 0], fresh[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(q[1, 1], fresh[1], atol=1e-3)


@pytest.mark.slow
def test_a_team_of_three_plays_as_eight():
    """Trained on 3m, tested on 8m: the parameters are the same, and every number of agents acts by them."""
    config = from_mapping(settings_of({"name": "smax", "map": "3m"}))
    env = make_env(config.env)
    params = jax.jit(make_agents(config.agent, env).init)(jax.random.key(0))
    run = TrainedRun(config, env, {"agent": jax.tree.map(lambda leaf: leaf[None], params)})
    larger, agents = on_map(run, "8m")
    assert (larger.spec.num_agents, agents.spec.num_actions) == (8, 13)
    played = ParallelEvaluator(larger, agents, 4).play(run.params()["agent"], jax.random.key(0))
    assert played.is_over.all() and (played.length > 1).all()


def test_what_does_not_suit_transformers_is_refused():
    with pytest.raises(ConfigError, match=r"'agent.use_agent_id'; it belongs to agent=deep_sets\|gru$"):
        from_mapping(settings_of({"name": "probe"}, agent={"use_agent_id": True}))
