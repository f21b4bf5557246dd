"""Every mixer of the registry does what it declares: a new one is checked here by its line there alone."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import input_of, random_params
from jaxtyping import Array

from qmix_jax.mixers import MIXERS
from qmix_jax.mixers.base import Mixer
from qmix_jax.mixers.qmix import QMIX
from qmix_jax.mixers.qtran import QTRAN

B, N, A, H, Z = 16, 3, 4, 5, 7
JOINT_ACTIONS = jnp.array(list(itertools.product(range(A), repeat=N)))
VARIANTS = {
    "qmix-softplus": {"positive": "softplus"},
    "qmix-raw-state": {"state_norm": "none"},
    "qplex-deep": {"num_layers": 3, "num_heads": 2},
    "qplex_qatten-weighted": {"weighted_heads": True},
    "qatten-unweighted": {"weighted_heads": False},
}


class Case(NamedTuple):
    """A mixer with parameters away from their start, and a batch of situations."""

    mixer: Mixer
    params: dict
    q: Array
    action: Array
    state: Array
    hidden: Array
    apply: Callable
    """The mixer's streams, or the result of its `method`, compiled."""

    def joint(self, action, q=None):
        return input_of(self.q if q is None else q, action, self.state, self.hidden)

    def everywhere(self, function):
        """`function(joint)` of every joint action: (A^N, B, ...)."""
        every = jax.vmap(lambda action: function(self.joint(jnp.tile(action, (B, 1)))))
        return jax.jit(every)(JOINT_ACTIONS)

    def values(self):
        """The streams of every joint action: (A^N, B, K)."""
        return self.everywhere(lambda joint: self.apply(self.params, joint))


@pytest.fixture(scope="module", params=[*MIXERS, *VARIANTS])
def case(request):
    return case_of(request.param)


def case_of(name):
    mixer = MIXERS[name.partition("-")[0]](**VARIANTS.get(name, {}))
    keys = jax.random.split(jax.random.key(0), 5)
    q, state = 3 * jax.random.normal(keys[0], (B, N, A)), 10 * jax.random.normal(keys[1], (B, Z))
    action, hidden = jax.random.randint(keys[2], (B, N), 0, A), jax.random.normal(keys[3], (B, N, H))
    example = input_of(q, action, state, hidden)
    shapes = jax.eval_shape(mixer.init, keys[4], example)
    params = random_params(2, shapes)  # with seed 0 the relu of TransfQMix's value is never positive
    return Case(mixer, params, q, action, state, hidden, compiled(mixer))


def compiled(mixer):
    return jax.jit(mixer.apply, static_argnames="method")


def test_streams_are_one_or_one_an_agent(case):
    streams = case.apply(case.params, case.joint(case.action))
    assert streams.shape in ((B, 1), (B, N)) and np.isfinite(streams).all()
    assert streams.shape[-1] == 1 or not case.mixer.promises_igm


def falls(case):
    """Whether a stream falls where one agent exchanges its action for one that it values more."""
    values = np.asarray(case.values()).reshape(*[A] * N, B, -1)
    for agent in range(N):
        order = np.argsort(case.q[:, agent], axis=-1)
        rising = np.take_along_axis(np.moveaxis(values, agent, 0), order.T.reshape(A, *[1] * (N - 1), B, 1), axis=0)
        if (np.diff(rising, axis=0) < -1e-4).any():
            return True
    return False


def test_it_is_monotonic_exactly_if_it_says_so(case):
    assert falls(case) != case.mixer.is_monotonic


def test_greedy_agents_find_the_best_joint_action_if_promised(case):
    greedy = case.apply(case.params, case.joint(case.q.argmax(-1)))
    if case.mixer.promises_igm:
        np.testing.assert_allclose(greedy, case.values().max(0), rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_parameter_and_every_agent(case):
    def loss(params, q):
        chosen, best = case.joint(case.action, q), case.joint(case.q.argmax(-1), q)
        streams = case.mixer.apply(params, chosen)
        return jnp.sum(streams**2) + jnp.sum(case.mixer.apply(params, chosen, best, method="penalty"))

    gradient, by_q = jax.device_get(jax.jit(jax.grad(loss, argnums=(0, 1)))(case.params, case.q))
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
    assert (np.abs(by_q).max(axis=(0, 2)) > 0).all()


def test_seeds_side_by_side_equal_seeds_alone(case):
    params = jax.device_get(case.params)
    others = jax.tree.map(lambda leaf: 1.1 * leaf + np.float32(0.01), params)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), params, others)
    joint = case.joint(case.action)
    together = jax.jit(jax.vmap(case.mixer.apply, in_axes=(0, None), axis_size=2))(both, joint)
    for params, streams in zip((case.params, others), together, strict=True):
        np.testing.assert_allclose(case.apply(params, joint), streams, rtol=1e-4, atol=1e-4)


def test_axes_before_the_agents_are_all_batch(case):
    joint = case.joint(case.action)
    folded = jax.tree.map(lambda leaf: leaf.reshape(4, B // 4, *leaf.shape[1:]), joint)
    flat, streams = case.apply(case.params, joint), case.apply(case.params, folded)
    np.testing.assert_allclose(streams.reshape(flat.shape), flat, rtol=1e-5, atol=1e-5)
    penalty = jax.eval_shape(partial(case.mixer.apply, method="penalty"), case.params, folded, folded)
    assert penalty.shape == (4, B // 4)


@pytest.mark.parametrize("name", ["qatten", "qplex_qatten", "transfqmix", "qtran"])
def test_features_that_make_weights_pass_no_gradient_to_the_agents_and_qtrans_joint_value_does(name):
    case = case_of(name)

    def total(hidden):
        return jnp.sum(case.apply(case.params, case.joint(case.action)._replace(hidden=hidden)))

    assert abs(total(case.hidden) - total(2 * case.hidden)) > 1e-3
    assert bool(jnp.any(jax.grad(total)(case.hidden) != 0)) == (name == "qtran")


@pytest.mark.parametrize(
    ("name", "options"), [("qmix", {}), ("qmix", {"positive": "softplus"}), ("qplex", {}), ("qatten", {}), ("shaq", {})]
)
def test_q_tot_starts_near_the_sum_of_the_agents_values(name, options):
    keys = jax.random.split(jax.random.key(4), 3)
    q, state = 0.2 * jax.random.normal(keys[0], (B, N, A)), jax.random.normal(keys[1], (B, Z))
    joint = input_of(q, q.argmin(-1), state, jnp.zeros((B, N, H)))
    mixer = MIXERS[name](**options)
    total = jax.jit(lambda key: mixer.apply(mixer.init(key, joint), joint))(keys[2])[:, 0]
    np.testing.assert_allclose(total, joint.chosen_q.sum(-1), atol=0.15)
    assert jnp.abs(total).max() > 0.5


def test_where_qtrans_penalties_are_zero_greedy_agents_find_the_best_joint_action():
    """The agents' values are set so that both penalties vanish everywhere; making another action greedy costs."""
    keys = jax.random.split(jax.random.key(5), 4)
    state, hidden = jax.random.normal(keys[0], (B, Z)), jax.random.normal(keys[1], (B, N, H))
    mixer, anything = QTRAN(), jnp.zeros((B, N, A))
    example = input_of(anything, jnp.zeros((B, N), int), state, hidden)
    params = random_params(0, jax.eval_shape(mixer.init, keys[2], example))
    case = Case(mixer, params, anything, anything, state, hidden, compiled(mixer))
    q_jt, v = case.everywhere(lambda joint: mixer.apply(params, joint, method="values"))
    best = JOINT_ACTIONS[q_jt.argmax(0)]
    gap = q_jt.max(0) - jnp.sort(q_jt, axis=0)[-2]
    share = (q_jt.max(0) - v[0]) / N
    is_best = jax.nn.one_hot(best, A, dtype=bool)
    q = share[:, None, None] - jnp.where(is_best, 0.0, gap[:, None, None] / N)
    penalty = case._replace(q=q).everywhere(
        lambda joint: mixer.apply(params, joint, input_of(q, best, state, hidden), method="penalty")
    )
    np.testing.assert_allclose(penalty, 0.0, atol=1e-8)
    np.testing.assert_array_equal(q.argmax(-1), best)
    wrong = jnp.roll(q, 1, axis=-1)
    chosen = input_of(wrong, best, state, hidden)
    raised = case.apply(params, chosen, input_of(wrong, wrong.argmax(-1), state, hidden), method="penalty")
    assert (raised > 1e-6).all()


def test_where_no_value_is_positive_shaqs_greedy_agents_find_the_best_joint_action():
    """Weights of 1 and more make negative values smaller still; elsewhere SHAQ promises nothing."""
    case = case_of("shaq")
    case = case._replace(q=-jnp.abs(case.q))
    greedy = case.apply(case.params, case.joint(case.q.argmax(-1)))
    np.testing.assert_allclose(greedy[:, 0], case.q.max(-1).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(greedy, case.values().max(0), rtol=1e-5)


def test_normalising_the_state_makes_its_scale_and_offset_harmless():
    q, state, hidden = jnp.ones((B, N, A)), jax.random.normal(jax.random.key(2), (B, Z)), jnp.zeros((B, N, H))
    action = jnp.zeros((B, N), int)
    mixer = QMIX()
    params = mixer.init(jax.random.key(3), input_of(q, action, state, hidden))
    small, large = (mixer.apply(params, input_of(q, action, s, hidden)) for s in (state, 32 * state + 16))
    np.testing.assert_allclose(small, large, rtol=1e-3)
