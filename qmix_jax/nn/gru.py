"""A gated recurrent unit over time, with a backward pass written for speed.

    r = sigmoid(e V_r + v_r + h U_r)
    z = sigmoid(e V_z + v_z + h U_z)
    n = tanh(e V_n + v_n + r * (h U_n + u))
    h' = (1 - z) * n + z * h

(Cho et al. 2014, in the form of cuDNN and PyTorch.) Where `first` is true, h is set to zero before the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from qmix_jax.nn.linear import multiply, weight_gradient


class GruWeights(NamedTuple):
    """The columns (or entries) of r, z and n side by side."""

    input: Float[Array, "E 3*H"]
    """V"""
    bias: Float[Array, "3*H"]
    """v"""
    recurrent: Float[Array, "H 3*H"]
    """U"""
    recurrent_bias: Float[Array, "H"]
    """u, the bias inside n"""


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5  # one transcendental, vectorised on CPU


def _reset(hidden: Array, first: Bool[Array, "..."]) -> Array:
    return jnp.where(first[..., None], 0.0, hidden)


def _step(
    weights: GruWeights, hidden: Float[Array, "*R H"], x: Sequence[Array], first: Bool[Array, "*R"]
) -> tuple[Array, tuple[Array, ...]]:
    """The next hidden state, and the gates, which the backward pass needs. `x`: e V of r, z and n."""
    hidden = _reset(hidden, first)
    h_r, h_z, h_n = jnp.split(multiply(hidden, weights.recurrent), 3, axis=-1)
    v_r, v_z, v_n = jnp.split(weights.bias, 3)
    r, z, h_n = _sigmoid(x[0] + h_r + v_r), _sigmoid(x[1] + h_z + v_z), h_n + weights.recurrent_bias
    n = jnp.tanh(x[2] + v_n + r * h_n)
    return (1 - z) * n + z * hidden, (r, z, n, h_n)


def gru_step(
    weights: GruWeights, hidden: Float[Array, "*R H"], inputs: Float[Array, "*R E"], first: Bool[Array, "*R"]
) -> Float[Array, "*R H"]:
    """The next hidden state."""
    return _step(weights, hidden, jnp.split(multiply(inputs, weights.input), 3, axis=-1), first)[0]


@jax.custom_vjp
def gru_unroll(
    weights: GruWeights, hidden: Float[Array, "*R H"], inputs: Float[Array, "T *R E"], first: Bool[Array, "T *R"]
) -> Float[Array, "T *R H"]:
    """The hidden state after each of T steps, from the one before the first: `gru_step` in a scan.

    What does not depend on the hidden state is done for all steps at once: the inputs' contributions before the loop,
    and after the backward loop the gradients of the weights, as one matrix product each instead of a sum inside it.
    On a CPU memory access limits the speed, on an accelerator the number of operations, so each has its own loop.
    """
    return lax.platform_dependent(weights, hidden, inputs, first, cpu=_states_on_cpu, default=_states)


def _forward(weights, hidden, inputs, first):
    after, gates = lax.platform_dependent(
        weights, hidden, inputs, first, cpu=_states_and_gates_on_cpu, default=_states_and_gates
    )
    return after, (weights, inputs, _before(hidden, after, first), gates, first)


def _backward(saved, d_after):
    weights, inputs, before, gates, first = saved
    transposed = weights.recurrent.T
    d_hidden, d_recurrent, d_n = lax.platform_dependent(
        transposed, d_after, before, gates, first, cpu=_gradients_on_cpu, default=_gradients
    )
    size = d_n.shape[-1]
    d_x = jnp.concatenate([d_recurrent[..., : 2 * size], d_n], axis=-1)
    d_weights = GruWeights(
        input=weight_gradient(inputs, d_x),
        bias=_sum_rows(d_x),
        recurrent=weight_gradient(before, d_recurrent),
        recurrent_bias=_sum_rows(d_recurrent[..., 2 * size :]),
    )
    return d_weights, d_hidden, multiply(d_x, weights.input.T), None


gru_unroll.defvjp(_forward, _backward)


def _before(hidden: Array, after: Array, first: Array) -> Array:
    """The state before each step, after its reset."""
    return _reset(jnp.concatenate([hidden[None], after[:-1]]), first)


def _sum_rows(x: Array) -> Array:
    return jnp.sum(x.reshape(-1, x.shape[-1]), axis=0)


# On an accelerator: as few operations in a loop as possible, and all others for all steps at once.


def _states(weights, hidden, inputs, first):
    def step(hidden, now):
        x, first = now
        hidden, _ = _step(weights, hidden, jnp.split(x, 3, axis=-1), first)
        return hidden, hidden

    return lax.scan(step, hidden, (multiply(inputs, weights.input), first))[1]


def _states_and_gates(weights, hidden, inputs, first):
    """The gates are recomputed from the states: fewer operations than storing them step by step."""
    after = _states(weights, hidden, inputs, first)
    x = jnp.split(multiply(inputs, weights.input), 3, axis=-1)
    return after, _step(weights, _before(hidden, after, first), x, first)[1]


def _gradients(transposed, d_after, before, gates, first):
    """The gradients of the first state, of the recurrent product (3*H) and of n's argument. Each is the
    gradient of the step's state times a factor that is computed for all steps before the loop.
    """
    r, z, n, h_n = gates
    to_n = (1 - z) * (1 - n * n)
    to_recurrent = jnp.concatenate([to_n * h_n * r * (1 - r), (before - n) * z * (1 - z), to_n * r], axis=-1)

    def step(d_hidden, now):
        d_after, to_recurrent, z, first = now
        d_hidden = d_hidden + d_after
        d_before = d_hidden * z + multiply(_thrice(d_hidden) * to_recurrent, transposed)
        return _reset(d_before, first), d_hidden

    d_first, d_hidden = lax.scan(step, jnp.zeros_like(d_after[0]), (d_after, to_recurrent, z, first), reverse=True)
    return d_first, _thrice(d_hidden) * to_recurrent, d_hidden * to_n


def _thrice(x: Array) -> Array:
    return jnp.concatenate([x, x, x], axis=-1)


# On a CPU: the results of a step are used while they are in the cache, and arrays are written once.


def _states_on_cpu(weights, hidden, inputs, first):
    def step(hidden, now):
        x, first = lax.optimization_barrier(now)
        hidden, _ = _step(weights, hidden, x, first)
        return hidden, hidden

    return lax.scan(step, hidden, (_gate_inputs(weights, inputs), first))[1]


def _gate_inputs(weights: GruWeights, inputs: Float[Array, "*R E"]) -> tuple[Array, ...]:
    """e V of all steps for r, z and n: three arrays, since a loop that slices them out of one is three times slower on
    a CPU. Each step slices them behind an optimization_barrier: without it XLA fuses the slices with the gates'
    arithmetic, which is then not vectorised.
    """
    return tuple(multiply(inputs, matrix) for matrix in jnp.split(weights.input, 3, axis=-1))


def _states_and_gates_on_cpu(weights, hidden, inputs, first):
    """The gates overwrite the inputs that were used, so that no new arrays need be filled first."""

    def step(t, carry):
        before, arrays = carry
        x, now = lax.optimization_barrier(([_at(t, array) for array in arrays[:3]], _at(t, first)))
        after, gates = _step(weights, before, x, now)
        rows = [*gates, after]
        return after, [lax.dynamic_update_index_in_dim(a, row, t, 0) for a, row in zip(arrays, rows, strict=True)]

    x = _gate_inputs(weights, inputs)
    empty = jnp.zeros_like(x[0])
    _, (*gates, after) = lax.fori_loop(0, len(first), step, (hidden, [*x, empty, empty]))
    return after, tuple(gates)


def _at(t: Array, array: Array) -> Array:
    return lax.dynamic_index_in_dim(array, t, 0, keepdims=False)


def _gradients_on_cpu(transposed, d_after, before, gates, first):
    """As `_gradients`."""

    def step(d_hidden, now):
        d_after, before, (r, z, n, h_n), first = now
        d_hidden = d_hidden + d_after
        d_n = d_hidden * (1 - z) * (1 - n * n)
        d_z = d_hidden * (before - n) * z * (1 - z)
        d_r = d_n * h_n * r * (1 - r)
        d_recurrent = jnp.concatenate([d_r, d_z, d_n * r], axis=-1)
        d_hidden = _reset(d_hidden * z + multiply(d_recurrent, transposed), first)
        return d_hidden, (d_recurrent, d_n)

    d_first, (d_recurrent, d_n) = lax.scan(
        step, jnp.zeros_like(d_after[0]), (d_after, before, gates, first), reverse=True
    )
    return d_first, d_recurrent, d_n
