"""Every mixer of the registry: shapes, monotonicity, and what greedy agents make of it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.mixers import MIXERS
from qmix_jax.mixers.qmix import QMIX
from qmix_jax.types import Joint

B, N, A, H, Z = 16, 3, 4, 5, 7
STREAMS = {"iql": N}
FACTORED = ["vdn", "qmix"]  # individual-global-max holds


def joint_of(q, action, state):
    """The record of a joint action (B, N) for Q-values (B, N, A)."""
    return Joint(
        chosen_q=jnp.take_along_axis(q, action[..., None], -1)[..., 0],
        greedy_q=q.max(-1),
        action=jax.nn.one_hot(action, A),
        hidden=jnp.ones((B, N, H)),
        state=state,
    )


def shaken(key, params, size):
    """Parameters away from where they start, biases included."""
    return jax.tree.map(lambda leaf: leaf + size * jax.random.normal(key, leaf.shape), params)


@pytest.fixture(scope="module", params=[*MIXERS, "qmix-softplus", "qmix-raw-state"])
def mixing(request):
    name, _, option = request.param.partition("-")
    options = {"softplus": {"positive": "softplus"}, "raw-state": {"state_norm": "none"}, "": {}}[option]
    keys = jax.random.split(jax.random.key(0), 4)
    q = 3 * jax.random.normal(keys[0], (B, N, A))
    state = 10 * jax.random.normal(keys[1], (B, Z))
    mixer = MIXERS[name](**options)
    action = jax.random.randint(keys[2], (B, N), 0, A)
    params = jax.jit(lambda key: shaken(key, mixer.init(key, joint_of(q, action, state)), 0.3))(keys[3])
    return name, mixer, params, q, action, state


def test_streams(mixing):
    name, mixer, params, q, action, state = mixing
    assert mixer.apply(params, joint_of(q, action, state)).shape == (B, STREAMS.get(name, 1))


def test_every_stream_rises_with_every_agents_value(mixing):
    _, mixer, params, q, action, state = mixing
    joint = joint_of(q, action, state)

    def total(chosen_q):
        return mixer.apply(params, joint._replace(chosen_q=chosen_q)).sum()

    gradient = jax.grad(total)(joint.chosen_q)
    assert (gradient >= 0).all() and (gradient > 0).any()


def test_greedy_agents_find_the_best_joint_action(mixing):
    name, mixer, params, q, _, state = mixing
    if name not in FACTORED:
        pytest.skip("promises nothing about joint actions")
    joint_actions = jnp.array(list(itertools.product(range(A), repeat=N)))
    value_of = jax.jit(jax.vmap(lambda u: mixer.apply(params, joint_of(q, jnp.tile(u, (B, 1)), state))[:, 0]))
    values = value_of(joint_actions)
    greedy_value = mixer.apply(params, joint_of(q, q.argmax(-1), state))[:, 0]
    np.testing.assert_allclose(greedy_value, values.max(0), rtol=1e-5)


def pymarl_qmix(weights, q, state, embed):
    """PyMARL's QMixer.forward in NumPy, with hypernet_layers=2; weights are (in, out) matrices and biases."""

    def linear(name, x):
        return x @ weights[name]["kernel"] + weights[name]["bias"]

    def two_layers(first, last, x):
        return linear(last, np.maximum(linear(first, x), 0))

    w1 = np.abs(two_layers("hyper_w_1.0", "hyper_w_1.2", state)).reshape(len(q), N, embed)
    b1 = linear("hyper_b_1", state).reshape(len(q), 1, embed)
    hidden = q.reshape(len(q), 1, N) @ w1 + b1
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    w_final = np.abs(two_layers("hyper_w_final.0", "hyper_w_final.2", state)).reshape(len(q), embed, 1)
    v = two_layers("V.0", "V.2", state).reshape(len(q), 1, 1)
    return (hidden @ w_final + v).reshape(len(q))


def test_qmix_equals_pymarls_mixer_with_the_same_weights():
    embed = 8
    keys = jax.random.split(jax.random.key(1), 3)
    q, state = 5 * jax.random.normal(keys[0], (B, N, A)), jax.random.normal(keys[1], (B, Z))
    joint = joint_of(q, q.argmin(-1), state)
    mixer = QMIX(embed_size=embed, hypernet_size=16, state_norm="none", init_scale=1.0)
    params = jax.jit(lambda key: shaken(key, mixer.init(key, joint), 0.1))(keys[2])
    ours = jax.tree.map(np.asarray, params["params"])
    theirs = {
        "hyper_w_1.0": ours["w1"]["Dense_0"],
        "hyper_w_1.2": ours["w1"]["Dense_1"],
        "hyper_b_1": ours["b1"],
        "hyper_w_final.0": ours["w2"]["Dense_0"],
        "hyper_w_final.2": ours["w2"]["Dense_1"],
        "V.0": ours["value"]["Dense_0"],
        "V.2": ours["value"]["Dense_1"],
    }
    expected = pymarl_qmix(theirs, np.asarray(joint.chosen_q), np.asarray(state), embed)
    np.testing.assert_allclose(mixer.apply(params, joint)[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_normalising_the_state_makes_its_scale_and_offset_harmless():
    q, state = jnp.ones((B, N, A)), jax.random.normal(jax.random.key(2), (B, Z))
    action = jnp.zeros((B, N), int)
    mixer = QMIX()
    params = mixer.init(jax.random.key(3), joint_of(q, action, state))
    small, large = (mixer.apply(params, joint_of(q, action, s)) for s in (state, 32 * state + 16))
    np.testing.assert_allclose(small, large, rtol=1e-3)
