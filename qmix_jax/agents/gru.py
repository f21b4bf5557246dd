"""A gated recurrent unit over time, with a backward pass written for speed.

    r = sigmoid(x_r + h U_r)
    z = sigmoid(x_z + h U_z)
    n = tanh(x_n + r * (h U_n + b))
    h' = (1 - z) * n + z * h

(Cho et al. 2014, in the form of cuDNN and PyTorch.) The input contributions x_r, x_z and x_n are computed for every
step at once before the loop, and stay three arrays: a loop that slices them out of one is three times slower on a
CPU. Where `first` is true, h is set to zero before the step.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Weights = tuple[Float[Array, "H 3*H"], Float[Array, "H"]]
"""U, the recurrent matrix with the columns of r, z and n side by side, and b, the bias inside n."""
GateInputs = tuple[Array, Array, Array]
"""x_r, x_z and x_n, (..., H) each."""


def _sigmoid(x: Array) -> Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5  # one transcendental, vectorised on CPU


def _reset(hidden: Array, first: Bool[Array, "..."]) -> Array:
    return jnp.where(first[..., None], 0.0, hidden)


def _step(weights: Weights, hidden: Array, x: GateInputs) -> tuple[Array, tuple[Array, ...]]:
    """The next hidden state, and what the backward pass needs of this step."""
    matrix, bias = weights
    h_r, h_z, h_n = jnp.split(hidden @ matrix, 3, axis=-1)
    r, z, h_n = _sigmoid(x[0] + h_r), _sigmoid(x[1] + h_z), h_n + bias
    n = jnp.tanh(x[2] + r * h_n)
    return (1 - z) * n + z * hidden, (hidden, r, z, n, h_n)


def gru_step(
    weights: Weights, hidden: Float[Array, "*R H"], x: GateInputs, first: Bool[Array, "*R"]
) -> Float[Array, "*R H"]:
    """The next hidden state."""
    return _step(weights, _reset(hidden, first), x)[0]


@jax.custom_vjp
def gru_unroll(
    weights: Weights, hidden: Float[Array, "*R H"], x: GateInputs, first: Bool[Array, "T *R"]
) -> Float[Array, "T *R H"]:
    """The hidden state after each of T steps, from the one before the first: `gru_step` in a scan.

    For the gradient the gates are kept, and the gradient of U is one matrix product after the backward loop instead
    of a sum inside it. The barriers keep XLA from fusing the slices of the inputs into the gates' arithmetic, which
    would cost the CPU its vector instructions.
    """

    def step(hidden, inputs):
        x, first = lax.optimization_barrier(inputs)
        hidden = gru_step(weights, hidden, x, first)
        return hidden, hidden

    return lax.scan(step, hidden, (x, first))[1]


def _forward(weights, hidden, x, first):
    def step(hidden, inputs):
        x, first = lax.optimization_barrier(inputs)
        after, kept = _step(weights, _reset(hidden, first), x)
        return after, (after, kept)

    _, (after, kept) = lax.scan(step, hidden, (x, first))
    return after, (weights, kept, first)


def _backward(saved, d_after):
    (matrix, bias), kept, first = saved
    transposed = matrix.T

    def step(d_hidden, inputs):
        d_after, (before, r, z, n, h_n), first = lax.optimization_barrier(inputs)
        d_hidden = d_hidden + d_after
        d_n = d_hidden * (1 - z) * (1 - n * n)
        d_z = d_hidden * (before - n) * z * (1 - z)
        d_r = d_n * h_n * r * (1 - r)
        d_recurrent = jnp.concatenate([d_r, d_z, d_n * r], axis=-1)
        d_hidden = _reset(d_hidden * z + d_recurrent @ transposed, first)
        return d_hidden, (d_recurrent, d_n)

    d_last = jnp.zeros_like(d_after[0])
    d_hidden, (d_recurrent, d_n) = lax.scan(step, d_last, (d_after, kept, first), reverse=True)
    size = bias.shape[0]
    rows, d_rows = kept[0].reshape(-1, size), d_recurrent.reshape(-1, 3 * size)
    d_r, d_z, _ = jnp.split(d_recurrent, 3, axis=-1)
    d_weights = (rows.T @ d_rows, jnp.sum(d_rows[:, 2 * size :], axis=0))
    return d_weights, d_hidden, (d_r, d_z, d_n), None


gru_unroll.defvjp(_forward, _backward)
