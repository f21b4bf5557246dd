"""A gated recurrent unit over time, with a backward pass written for speed.

    r = sigmoid(e V_r + v_r + h U_r)
    z = sigmoid(e V_z + v_z + h U_z)
    n = tanh(e V_n + v_n + r * (h U_n + u))
    h' = (1 - z) * n + z * h

(Cho et al. 2014, in the form of cuDNN and PyTorch.) Where `first` is true, h is set to zero before the step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


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


@jax.custom_vjp
def linear(x: Float[Array, "*R I"], matrix: Float[Array, "I J"]) -> Float[Array, "*R J"]:
    """x @ matrix, whose gradient needs no transposed copy of a long array (automatic differentiation's does on CPU)."""
    return x @ matrix


def _linear_forward(x: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ matrix, (x, matrix)


def _linear_backward(saved: tuple[Array, Array], d_y: Array) -> tuple[Array, Array]:
    x, matrix = saved
    return d_y @ matrix.T, _rows(x).T @ _rows(d_y)


linear.defvjp(_linear_forward, _linear_backward)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5  # one transcendental, vectorised on CPU


def _reset(hidden: Array, first: Bool[Array, "..."]) -> Array:
    return jnp.where(first[..., None], 0.0, hidden)


def _gate_inputs(weights: GruWeights, inputs: Float[Array, "*R E"]) -> tuple[Array, Array, Array]:
    """The contributions of all steps' inputs to r, z and n: three arrays, since a loop that slices them out of one is
    three times slower on a CPU.
    """
    columns = zip(jnp.split(weights.input, 3, axis=-1), jnp.split(weights.bias, 3), strict=True)
    x_r, x_z, x_n = (inputs @ matrix + bias for matrix, bias in columns)
    return x_r, x_z, x_n


def _step(
    weights: GruWeights, hidden: Float[Array, "*R H"], x: tuple[Array, Array, Array], first: Bool[Array, "*R"]
) -> tuple[Array, tuple[Array, ...]]:
    """The next hidden state, and the gates, which the backward pass needs."""
    hidden = _reset(hidden, first)
    h_r, h_z, h_n = jnp.split(hidden @ weights.recurrent, 3, axis=-1)
    r, z, h_n = _sigmoid(x[0] + h_r), _sigmoid(x[1] + h_z), h_n + weights.recurrent_bias
    n = jnp.tanh(x[2] + r * h_n)
    return (1 - z) * n + z * hidden, (r, z, n, h_n)


def gru_step(
    weights: GruWeights, hidden: Float[Array, "*R H"], inputs: Float[Array, "*R E"], first: Bool[Array, "*R"]
) -> Float[Array, "*R H"]:
    """The next hidden state."""
    x_r, x_z, x_n = jnp.split(inputs @ weights.input + weights.bias, 3, axis=-1)
    return _step(weights, hidden, (x_r, x_z, x_n), first)[0]


@jax.custom_vjp
def gru_unroll(
    weights: GruWeights, hidden: Float[Array, "*R H"], inputs: Float[Array, "T *R E"], first: Bool[Array, "T *R"]
) -> Float[Array, "T *R H"]:
    """The hidden state after each of T steps, from the one before the first: `gru_step` in a scan.

    What does not depend on the hidden state is done for all steps at once: the inputs' contributions before the loop,
    and after the backward loop the gradients of the weights, as one matrix product each instead of a sum inside it.
    """
    return _forward(weights, hidden, inputs, first)[0]


def _forward(weights, hidden, inputs, first):
    def step(hidden, now):
        x, first = lax.optimization_barrier(
            now
        )  # else the slices join the gates' arithmetic and cost the CPU its vectors
        after, gates = _step(weights, hidden, x, first)
        return after, (after, gates)

    _, (after, gates) = lax.scan(step, hidden, (_gate_inputs(weights, inputs), first))
    before = _reset(jnp.concatenate([hidden[None], after[:-1]]), first)
    return after, (weights, inputs, before, gates, first)


def _backward(saved, d_after):
    weights, inputs, before, gates, first = saved
    transposed = weights.recurrent.T

    def step(d_hidden, now):
        d_after, before, (r, z, n, h_n), first = now
        d_hidden = d_hidden + d_after
        d_n = d_hidden * (1 - z) * (1 - n * n)
        d_z = d_hidden * (before - n) * z * (1 - z)
        d_r = d_n * h_n * r * (1 - r)
        d_recurrent = jnp.concatenate([d_r, d_z, d_n * r], axis=-1)
        d_hidden = _reset(d_hidden * z + d_recurrent @ transposed, first)
        return d_hidden, (d_recurrent, d_n)

    d_last = jnp.zeros_like(d_after[0])
    d_hidden, (d_recurrent, d_n) = lax.scan(step, d_last, (d_after, before, gates, first), reverse=True)
    size = d_n.shape[-1]
    d_x = jnp.concatenate([d_recurrent[..., : 2 * size], d_n], axis=-1)
    d_weights = GruWeights(
        input=_rows(inputs).T @ _rows(d_x),
        bias=jnp.sum(_rows(d_x), axis=0),
        recurrent=_rows(before).T @ _rows(d_recurrent),
        recurrent_bias=jnp.sum(_rows(d_recurrent[..., 2 * size :]), axis=0),
    )
    return d_weights, d_hidden, d_x @ weights.input.T, None


gru_unroll.defvjp(_forward, _backward)
