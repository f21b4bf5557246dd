"""The recurrent network: against plain loops, and reset exactly where an episode begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qmix_jax.agents.base import num_features
from qmix_jax.agents.gru import GruConfig, RecurrentAgents
from qmix_jax.nn import gru
from qmix_jax.nn.gru import GruWeights, gru_step, gru_unroll
from qmix_jax.nn.linear import linear, matmul_dtype
from qmix_jax.types import AgentInput, TeamSpec

T, B, N, OBS, A, H = 6, 3, 2, 5, 4, 8
SPEC = TeamSpec("test", ("a", "b"), OBS, A, 3, 10)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def gru_inputs():
    keys = iter(jax.random.split(jax.random.key(0), 8))
    weights = GruWeights(
        input=jax.random.normal(next(keys), (OBS, 3 * H)),
        bias=jax.random.normal(next(keys), (3 * H,)),
        recurrent=jax.random.normal(next(keys), (H, 3 * H)),
        recurrent_bias=jax.random.normal(next(keys), (H,)),
    )
    hidden = jax.random.normal(next(keys), (B, N, H))
    inputs = jax.random.normal(next(keys), (T, B, N, OBS))
    first = jax.random.bernoulli(next(keys), 0.3, (T, B, N))
    return weights, hidden, inputs, first


def test_gru_equals_pytorchs_equations_in_numpy(gru_inputs):
    weights, hidden, inputs, first = jax.tree.map(np.asarray, gru_inputs)
    for t in range(T):
        hidden = np.where(first[t][..., None], 0, hidden)
        x_r, x_z, x_n = np.split(inputs[t] @ weights.input + weights.bias, 3, axis=-1)
        h_r, h_z, h_n = np.split(hidden @ weights.recurrent, 3, axis=-1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = np.tanh(x_n + r * (h_n + weights.recurrent_bias))
        hidden = (1 - z) * n + z * hidden
    np.testing.assert_allclose(gru_unroll(*gru_inputs)[-1], hidden, atol=1e-5)


@pytest.mark.parametrize("outputs", [H, 2], ids=["widening", "narrowing"])
def test_the_written_gradient_of_a_linear_layer_equals_the_automatic_one(outputs):
    keys = jax.random.split(jax.random.key(0))
    x, matrix = jax.random.normal(keys[0], (T, B, N, OBS)), jax.random.normal(keys[1], (OBS, outputs))
    written = jax.grad(lambda *args: jnp.sum(jnp.sin(linear(*args))), argnums=(0, 1))(x, matrix)
    automatic = jax.grad(lambda *args: jnp.sum(jnp.sin(jnp.matmul(*args))), argnums=(0, 1))(x, matrix)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), written, automatic)


def test_bfloat16_products_round_what_they_multiply_and_not_what_they_add():
    def rounded(x):
        return np.asarray(jnp.asarray(x).astype(jnp.bfloat16), np.float64)

    keys = jax.random.split(jax.random.key(0), 3)
    x, matrix, scale = map(jax.random.normal, keys, [(99, 40), (40, 7), (99, 7)])
    with matmul_dtype("bfloat16"):
        y = linear(x, matrix)
        d_x, d_matrix = jax.grad(lambda *args: jnp.sum(scale * linear(*args)), argnums=(0, 1))(x, matrix)
    np.testing.assert_allclose(y, rounded(x) @ rounded(matrix), atol=1e-5)
    np.testing.assert_allclose(d_x, rounded(scale) @ rounded(matrix).T, atol=1e-5)
    np.testing.assert_allclose(d_matrix, x.T @ scale, atol=0.2)  # rounded or not, as the machine likes
    assert {leaf.dtype for leaf in (y, d_x, d_matrix)} == {np.dtype("float32")}


def test_the_written_gradient_equals_the_automatic_one(gru_inputs):
    weights, hidden, inputs, first = gru_inputs
    scale = jax.random.normal(jax.random.key(1), (T, B, N, H))

    def plain_unroll(weights, hidden, inputs, first):
        def step(hidden, now):
            hidden = gru_step(weights, hidden, *now)
            return hidden, hidden

        return lax.scan(step, hidden, (inputs, first))[1]

    def gradient(unroll):
        def loss(*args):
            return jnp.sum(scale * unroll(*args, first) ** 2)

        return jax.grad(loss, argnums=(0, 1, 2))(weights, hidden, inputs)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradient(gru_unroll),
        gradient(plain_unroll),
    )


def test_an_accelerators_way_through_the_loop_gives_what_a_cpus_does(gru_inputs):
    def equal(ours, theirs):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)

    weights, hidden, _, first = gru_inputs
    after, gates = gru._states_and_gates(*gru_inputs)
    equal((after, gates), gru._states_and_gates_on_cpu(*gru_inputs))
    equal(gru._states(*gru_inputs), gru._states_on_cpu(*gru_inputs))
    d_after = jax.random.normal(jax.random.key(1), after.shape)
    saved = weights.recurrent.T, d_after, gru._before(hidden, after, first), gates, first
    equal(gru._gradients(*saved), gru._gradients_on_cpu(*saved))


@pytest.fixture(scope="module", params=["shared", "separate", "layer_norm", "bare"])
def agents(request):
    config = {
        "shared": GruConfig(hidden_size=H),
        "separate": GruConfig(hidden_size=H, share_parameters=False),
        "layer_norm": GruConfig(hidden_size=H, layer_norm=True),
        "bare": GruConfig(hidden_size=H, use_agent_id=False, use_last_action=False),
    }[request.param]
    return RecurrentAgents(config, SPEC)


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(2), 2)
    first = jnp.zeros((T, B), bool).at[3, 1].set(True)
    return AgentInput(
        obs=jax.random.normal(keys[0], (T, B, N, OBS)),
        last_action=jax.random.randint(keys[1], (T, B, N), 0, A),
        first=first,
    )


def step_by_step(agents, params, inputs, hidden):
    step, outputs = jax.jit(agents.step), []
    for t in range(inputs.first.shape[0]):
        hidden, output = step(params, hidden, jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
        outputs.append(output)
    return hidden, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def q_of(agents, params, inputs, hidden=None):
    """Q at every time, from a recurrent state or from the start of an episode."""
    return jax.jit(agents.unroll)(params, agents.initial_state(B) if hidden is None else hidden, inputs)[1].q


def test_unrolling_equals_stepping(agents, inputs):
    params = agents.init(jax.random.key(3))
    hidden = jax.random.normal(jax.random.key(4), (B, N, H))
    whole = jax.jit(agents.unroll)(params, hidden, inputs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, step_by_step(agents, params, inputs, hidden)
    )


def test_an_episodes_start_forgets_everything_before_it(agents, inputs):
    params = agents.init(jax.random.key(3))
    since = jax.tree.map(lambda leaf: leaf[3:], inputs)
    since = since._replace(last_action=since.last_action.at[0].set(A), first=since.first.at[0].set(True))
    hidden = jax.random.normal(jax.random.key(4), (B, N, H))
    q = q_of(agents, params, inputs, hidden)
    fresh_q = q_of(agents, params, since)
    np.testing.assert_allclose(q[3:, 1], fresh_q[:, 1], atol=1e-5)
    assert not np.allclose(q[3:, 0], fresh_q[:, 0], atol=1e-3)  # no start there: what came before still counts


def test_agents_differ_by_id_and_by_last_action_only_if_asked(inputs):
    same_obs = inputs._replace(obs=jnp.broadcast_to(inputs.obs[:, :, :1], inputs.obs.shape))
    for config in (GruConfig(H), GruConfig(H, use_agent_id=False), GruConfig(H, use_last_action=False)):
        agents = RecurrentAgents(config, SPEC)
        q = q_of(agents, agents.init(jax.random.key(5)), same_obs)
        assert not np.allclose(q[:, :, 0], q[:, :, 1])
    bare = RecurrentAgents(GruConfig(H, use_agent_id=False, use_last_action=False), SPEC)
    q = q_of(bare, bare.init(jax.random.key(5)), same_obs)
    np.testing.assert_allclose(q[:, :, 0], q[:, :, 1], atol=1e-6)


def test_layer_normalisation_takes_the_scale_out_of_the_first_layer_and_of_the_recurrent_state(inputs):
    agents = RecurrentAgents(GruConfig(hidden_size=H, layer_norm=True), SPEC)
    params = agents.init(jax.random.key(5))
    q = q_of(agents, params, inputs)
    first_layer = {name: 10 * params[name] for name in ("obs", "bias", "agent_id", "last_action")}
    np.testing.assert_allclose(q_of(agents, params | first_layer, inputs), q, atol=1e-3)
    assert jnp.abs(q).max() <= jnp.sqrt(H) * jnp.linalg.norm(params["q"], axis=0).max() + 1e-5


def test_separate_parameters_are_independent(inputs):
    agents = RecurrentAgents(GruConfig(H, share_parameters=False), SPEC)
    params = agents.init(jax.random.key(6))
    changed = jax.tree.map(lambda leaf: leaf.at[1].add(1.0), params)
    before = q_of(agents, params, inputs)
    after = q_of(agents, changed, inputs)
    np.testing.assert_array_equal(before[:, :, 0], after[:, :, 0])
    assert not np.allclose(before[:, :, 1], after[:, :, 1])


@pytest.mark.filterwarnings("error")
def test_the_width_of_the_features_is_known_without_running_the_network():
    assert num_features(RecurrentAgents(GruConfig(hidden_size=H), SPEC)) == H
