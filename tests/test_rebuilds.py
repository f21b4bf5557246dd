"""Mixers equal NumPy rebuilds of the public PyTorch modules that carry the same weights.

Each rebuild follows the public module's own order of layers and concatenations; weights are named as there, kept as
(in, out) matrices. Where this package starts weights elsewhere or normalises the state, the options turn that off.
"""

import dataclasses
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import input_of, random_params

from qmix_jax.build import from_mapping
from qmix_jax.cli.compose import compose
from qmix_jax.learning.learner import make_optimizer
from qmix_jax.mixers.qatten import Qatten
from qmix_jax.mixers.qmix import QMIX
from qmix_jax.mixers.qplex import QPLEX, QPLEXQatten
from qmix_jax.mixers.qtran import QTRAN
from qmix_jax.mixers.shaq import SHAQ, coalitions

B, N, A, H, Z = 16, 3, 4, 5, 7


def weights_and_situations(mixer):
    """The mixer's parameters, away from their start, and a joint record; all in NumPy too."""
    keys = jax.random.split(jax.random.key(1), 5)
    q, state = 5 * jax.random.normal(keys[0], (B, N, A)), jax.random.normal(keys[1], (B, Z))
    action, hidden = jax.random.randint(keys[2], (B, N), 0, A), jax.random.normal(keys[3], (B, N, H))
    joint = input_of(q, action, state, hidden)
    params = random_params(0, jax.eval_shape(mixer.init, keys[4], joint))
    return params, jax.tree.map(np.asarray, params["params"]), joint, jax.tree.map(np.asarray, joint)


def linear(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0)


def sequential(layers, x):
    """Linear layers with ReLU between them, as `nn.Sequential` has them: {"Dense_0": ..., "Dense_1": ...}."""
    for i in range(len(layers)):
        x = linear(layers[f"Dense_{i}"], np.maximum(x, 0) if i else x)
    return x


def head(heads, k):
    """The k-th head's layers."""
    return jax.tree.map(lambda leaf: leaf[k], heads["head"])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def pymarl_qmix(weights, q, state, embed):
    """PyMARL's QMixer.forward with hypernet_layers=2."""
    w1 = np.abs(sequential(weights["w1"], state)).reshape(len(q), N, embed)
    b1 = linear(weights["b1"], state).reshape(len(q), 1, embed)
    hidden = q.reshape(len(q), 1, N) @ w1 + b1
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    w_final = np.abs(sequential(weights["w2"], state)).reshape(len(q), embed, 1)
    v = sequential(weights["value"], state).reshape(len(q), 1, 1)
    return (hidden @ w_final + v).reshape(len(q))


def test_qmix():
    mixer = QMIX(embed_size=8, hypernet_size=16, state_norm="none")
    params, weights, joint, seen = weights_and_situations(mixer)
    expected = pymarl_qmix(weights, seen.chosen_q, seen.state, 8)
    np.testing.assert_allclose(jax.jit(mixer.apply)(params, joint)[:, 0], expected, rtol=1e-5, atol=1e-5)


def qplex_dmaqer(weights, q, max_q, state, action, num_heads):
    """QPLEX's DMAQer with weighted_head and is_minus_one, called twice as its learner does: V plus advantages."""
    w = np.abs(sequential(weights["weight"], state)) + 1e-10
    v = sequential(weights["value"], state)
    q, max_q = w * q + v, w * max_q + v
    data = np.concatenate([state, action.reshape(len(q), -1)], axis=1)
    attend = np.zeros((len(q), N))
    for k in range(num_heads):
        key = np.tile(np.abs(sequential(head(weights["key"], k), state)), (1, N)) + 1e-10
        agents = sigmoid(sequential(head(weights["agents"], k), state))
        attend += key * agents * sigmoid(sequential(head(weights["actions"], k), data))
    return q.sum(-1) + ((q - max_q) * (attend - 1)).sum(-1)


@pytest.mark.parametrize(("num_heads", "num_layers"), [(4, 1), (2, 2), (10, 3)])
def test_qplex(num_heads, num_layers):
    mixer = QPLEX(num_heads=num_heads, num_layers=num_layers, attention_size=6, hypernet_size=8, state_norm="none")
    params, weights, joint, seen = weights_and_situations(mixer)
    assert len(weights["key"]["head"]) == num_layers
    expected = qplex_dmaqer(weights, seen.chosen_q, seen.greedy_q, seen.state, seen.action, num_heads)
    np.testing.assert_allclose(jax.jit(mixer.apply)(params, joint)[:, 0], expected, rtol=1e-5, atol=1e-5)


def qplex_dmaq_qatten(weights, q, max_q, unit_states, state, action, weighted):
    """QPLEX's DMAQ_QattenMixer with is_minus_one, called twice as its learner does, of 2 heads and 2 kernels."""
    logits = [
        np.einsum("be,bne->bn", sequential(head(weights["attention_query"], h), state), unit_states @ keys)
        for h, keys in enumerate(np.moveaxis(weights["attention_key"]["kernel"], 1, 0))
    ]
    attention = np.stack([softmax(each / np.sqrt(6)) for each in logits], axis=1)
    if weighted:
        attention = attention * np.abs(sequential(weights["heads"], state))[:, :, None]
    w, v = attention.sum(1) + 1e-10, np.tile(sequential(weights["value"], state), (1, N)) / N
    q, max_q = w * q + v, w * max_q + v
    data = np.concatenate([state, action.reshape(len(q), -1)], axis=1)
    attend = np.zeros((len(q), N))
    for k in range(2):
        key = np.tile(np.abs(sequential(head(weights["key"], k), state)), (1, N)) + 1e-10
        agents = sigmoid(sequential(head(weights["agents"], k), state))
        attend += key * agents * sigmoid(sequential(head(weights["actions"], k), data))
    cost = sum((each**2).mean(-1) for each in logits)
    return q.sum(-1) + ((q - max_q) * (attend - 1)).sum(-1), cost


@pytest.mark.parametrize("weighted", [True, False])
def test_qplex_with_qattens_attention(weighted):
    mixer = QPLEXQatten(
        num_heads=2, attention_heads=2, embed_size=6, weighted_heads=weighted, attention_penalty=0.1, state_norm="none"
    )
    params, weights, joint, seen = weights_and_situations(mixer)
    expected, cost = qplex_dmaq_qatten(
        weights, seen.chosen_q, seen.greedy_q, seen.hidden, seen.state, seen.action, weighted
    )
    np.testing.assert_allclose(jax.jit(mixer.apply)(params, joint)[:, 0], expected, rtol=1e-5, atol=1e-5)
    penalty = jax.jit(partial(mixer.apply, method="penalty"))(params, joint, joint)
    np.testing.assert_allclose(penalty, 0.1 * cost, rtol=1e-4, atol=1e-5)


def test_qplex_learns_advantages_through_the_first_sum_alone():
    """d Q_tot / d Q_i is w_i(s), whatever lambda is: the advantage's own gradient is stopped."""
    mixer = QPLEX(state_norm="none")
    params, weights, joint, seen = weights_and_situations(mixer)
    by_q = jax.jit(jax.grad(lambda q: mixer.apply(params, joint._replace(chosen_q=q)).sum()))(joint.chosen_q)
    w = np.abs(sequential(weights["weight"], seen.state)) + 1e-10
    np.testing.assert_allclose(by_q, w, rtol=1e-4, atol=1e-5)


def qatten_mixer(weights, q, unit_states, state, num_heads, embed, weighted):
    """Qatten's mixer as in PyMARL2, with its units' own features given."""
    head_q = []
    for h in range(num_heads):
        query = sequential(head(weights["query"], h), state).reshape(len(q), 1, embed)
        keys = (unit_states.reshape(len(q) * N, -1) @ weights["key"]["kernel"][:, h]).reshape(len(q), N, embed)
        attention = softmax(query @ keys.transpose(0, 2, 1) / np.sqrt(embed))
        head_q.append((q.reshape(len(q), 1, N) @ attention.transpose(0, 2, 1)).reshape(len(q)))
    head_q = np.stack(head_q, axis=1)
    if weighted:
        head_q = np.abs(sequential(weights["heads"], state)) * head_q
    return head_q.sum(-1) + sequential(weights["value"], state)[:, 0]


@pytest.mark.parametrize("weighted", [True, False])
def test_qatten(weighted):
    mixer = Qatten(embed_size=6, hypernet_size=8, num_heads=3, weighted_heads=weighted, state_norm="none")
    params, weights, joint, seen = weights_and_situations(mixer)
    expected = qatten_mixer(weights, seen.chosen_q, seen.hidden, seen.state, 3, 6, weighted)
    np.testing.assert_allclose(jax.jit(mixer.apply)(params, joint)[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_qattens_penalty_is_the_logits_mean_square():
    mixer = Qatten(embed_size=6, num_heads=2, attention_penalty=0.1, state_norm="none")
    params, weights, joint, seen = weights_and_situations(mixer)
    expected = np.zeros(B)
    for h in range(2):
        query = sequential(head(weights["query"], h), seen.state)
        logits = np.einsum("be,bne->bn", query, seen.hidden @ weights["key"]["kernel"][:, h])
        expected += 0.1 * (logits**2).mean(-1)
    penalty = jax.jit(partial(mixer.apply, method="penalty"))(params, joint, joint)
    np.testing.assert_allclose(penalty, expected, rtol=1e-4, atol=1e-5)


def pymarl_qtran(weights, hidden, action, state):
    """PyMARL's QTranBase.forward with qtran_arch="qtran_paper" and network_size="small": Q_jt and V."""
    pairs = np.concatenate([hidden, action], axis=2).reshape(len(state) * N, H + A)
    encoding = sequential(weights["encode"], pairs).reshape(len(state), N, H + A).sum(1)
    q = sequential(weights["q"], np.concatenate([state, encoding], axis=1))
    return q[:, 0], sequential(weights["v"], state)[:, 0]


def test_qtran_and_its_penalties():
    """The two losses of PyMARL's QTRAN learner, time by time."""
    mixer = QTRAN(embed_size=8, opt_loss=0.7, nopt_loss=0.3, state_norm="none")
    params, weights, chosen, seen = weights_and_situations(mixer)
    q, v = pymarl_qtran(weights, seen.hidden, seen.action, seen.state)
    np.testing.assert_allclose(jax.jit(mixer.apply)(params, chosen)[:, 0], q, rtol=1e-5, atol=1e-5)
    best = chosen._replace(action=jnp.roll(chosen.action, 1, axis=-1), chosen_q=chosen.greedy_q)
    best_q, _ = pymarl_qtran(weights, seen.hidden, np.asarray(best.action), seen.state)
    opt = (seen.greedy_q.sum(-1) - best_q + v) ** 2
    nopt = np.minimum(seen.chosen_q.sum(-1) - q + v, 0) ** 2
    penalty = jax.jit(partial(mixer.apply, method="penalty"))(params, chosen, best)
    assert (nopt > 0).any() and (nopt == 0).any()
    np.testing.assert_allclose(penalty, 0.7 * opt + 0.3 * nopt, rtol=1e-4, atol=1e-4)


def test_qtrans_joint_value_learns_from_the_squared_error_alone():
    """The penalties hold Q_jt fixed: no gradient reaches its layers through them."""
    mixer = QTRAN(state_norm="none")
    params, _, joint, _ = weights_and_situations(mixer)
    gradient = jax.jit(jax.grad(lambda p: mixer.apply(p, joint, joint, method="penalty").sum()))(params)["params"]
    for name, part in jax.device_get(gradient).items():
        assert (max(np.abs(leaf).max() for leaf in jax.tree.leaves(part)) > 0) == (name == "v")


def shaq_weights(weights, q, coalition_q, state, embed):
    """SHAQMixer's alpha_i, of coalitions' mean values (B, samples, N)."""
    num_samples, inputs = coalition_q.shape[1], np.stack(np.broadcast_arrays(coalition_q, q[:, None]), axis=-1)

    def each(x, *shape):
        """A hypernetwork's output for every sample and agent."""
        return np.broadcast_to(x.reshape(len(q), 1, 1, *shape), (len(q), num_samples, N, *shape))

    w1 = each(np.abs(sequential(weights["w1"], state)), 2, embed)
    w_final = each(np.abs(sequential(weights["w2"], state)), embed, 1)
    hidden = inputs[..., None, :] @ w1 + each(linear(weights["b1"], state), 1, embed)
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    y = hidden @ w_final + each(sequential(weights["b2"], state), 1, 1)
    return np.abs(y[..., 0, 0]).mean(1) + 1


def sampled_means(q, num_samples):
    """What SHAQMixer.sample_grandcoalitions makes of orders: the mean value of those before each agent."""
    means = np.zeros((len(q), num_samples, N))
    rows = coalitions(N, num_samples) > 0
    for sample in range(num_samples):
        for agent in range(N):
            members = [j for j in range(N) if rows[sample, agent, j]]
            means[:, sample, agent] = q[:, members].mean(1) if members else 0
    return means


@pytest.mark.parametrize("num_orders", [4, 10])
def test_shaq(num_orders):
    """Q_tot of an action that was taken; and of greedy actions and of targets, the plain sum."""
    mixer = SHAQ(embed_size=6, hypernet_size=8, num_orders=num_orders, state_norm="none")
    params, weights, joint, seen = weights_and_situations(mixer)
    num_samples = min(num_orders, math.factorial(N))
    alpha = shaq_weights(weights, seen.chosen_q, sampled_means(seen.chosen_q, num_samples), seen.state, 6)
    max_filter = seen.is_greedy.astype(float)
    assert 0 < max_filter.mean() < 1 and (alpha > 1).all()
    expected = ((alpha * (1 - max_filter) + max_filter) * seen.chosen_q).sum(-1)
    np.testing.assert_allclose(jax.jit(mixer.apply)(params, joint)[:, 0], expected, rtol=1e-5, atol=1e-5)
    target = joint._replace(is_greedy=jnp.ones_like(joint.is_greedy))
    np.testing.assert_allclose(jax.jit(mixer.apply)(params, target)[:, 0], seen.chosen_q.sum(-1), rtol=1e-5)


def test_shaqs_weights_are_shapley_means_where_there_are_orders_enough():
    """The mean over all orders is the sum over coalitions C without i, weighted |C|! (N - |C| - 1)! / N!."""
    mixer = SHAQ(embed_size=6, hypernet_size=8, state_norm="none")
    params, weights, joint, seen = weights_and_situations(mixer)
    alpha = np.zeros((B, N))
    for agent in range(N):
        others = [j for j in range(N) if j != agent]
        for size in range(N):
            share = math.factorial(size) * math.factorial(N - size - 1) / math.factorial(N)
            for members in itertools.combinations(others, size):
                mean = seen.chosen_q[:, list(members)].mean(1) if members else np.zeros(B)
                means = np.tile(mean[:, None, None], (1, 1, N))
                alpha[:, agent] += share * shaq_weights(weights, seen.chosen_q, means, seen.state, 6)[:, agent]
    q_tot = jax.jit(mixer.apply)(params, joint._replace(is_greedy=jnp.zeros_like(joint.is_greedy)))[:, 0]
    np.testing.assert_allclose(q_tot, (alpha * seen.chosen_q).sum(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("num_agents", "num_orders"), [(2, 10), (3, 6), (4, 10), (27, 10)])
def test_coalitions_are_the_agents_before_one_in_an_order(num_agents, num_orders):
    rows = coalitions(num_agents, num_orders)
    sizes = (rows > 0).sum(-1)
    np.testing.assert_array_equal(np.sort(sizes, axis=-1), np.tile(np.arange(num_agents), (len(rows), 1)))
    np.testing.assert_allclose(rows.sum(-1), sizes > 0, rtol=1e-5)
    assert len(rows) == min(num_orders, math.factorial(num_agents))


def test_the_preset_pymarl2_steps_as_pymarl2_does_on_half_the_squared_error():
    settings = from_mapping(compose(["+preset=pymarl2"])).learner
    ours = make_optimizer(settings)
    theirs = make_optimizer(dataclasses.replace(settings, max_grad_norm=10.0, adam_epsilon=1e-8))
    for norm in (1e-6, 9.0, 11.0, 1_000.0):
        gradient = norm * jnp.array([0.6, 0.8, 0.0])  # of half the squared error; of the whole one, twice that
        step = ours.update(2 * gradient, ours.init(gradient))[0]
        np.testing.assert_allclose(step, theirs.update(gradient, theirs.init(gradient))[0], rtol=1e-6)
