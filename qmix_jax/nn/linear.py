"""Matrix products with weights: their precision, and gradients that are fast on a CPU."""

import contextlib
import functools
from contextlib import AbstractContextManager
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

BFLOAT16 = lax.DotAlgorithmPreset.BF16_BF16_F32.name


def matmul_dtype(dtype: Literal["float32", "bfloat16"]) -> AbstractContextManager[Any]:
    """Within it, products are traced with operands rounded to `dtype`; sums, and all else, are float32.

    This sets JAX's default precision, which XLA follows everywhere but on a CPU: there `multiply` follows it.
    """
    return jax.default_matmul_precision(BFLOAT16) if dtype == "bfloat16" else contextlib.nullcontext()


def multiply(x: Float[Array, "*R I"], matrix: Float[Array, "I J"]) -> Float[Array, "*R J"]:
    """x @ matrix in the precision of `matmul_dtype`."""
    if jax.config.jax_default_matmul_precision != BFLOAT16:  # pyright: ignore[reportAttributeAccessIssue]
        return x @ matrix
    x, matrix = x.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16)
    return jnp.matmul(x, matrix, precision="default", preferred_element_type=jnp.float32)


@jax.custom_vjp
def linear(x: Float[Array, "*R I"], matrix: Float[Array, "I J"]) -> Float[Array, "*R J"]:
    """`multiply`, with its own gradient, because automatic differentiation's copies long arrays on a CPU."""
    return multiply(x, matrix)


def _linear_forward(x: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
    return multiply(x, matrix), (x, matrix)


def _linear_backward(saved: tuple[Array, Array], d_y: Array) -> tuple[Array, Array]:
    x, matrix = saved
    return multiply(d_y, matrix.T), weight_gradient(x, d_y)


linear.defvjp(_linear_forward, _linear_backward)


def weight_gradient(x: Float[Array, "*R I"], d_y: Float[Array, "*R J"]) -> Float[Array, "I J"]:
    """The sum over all rows of x^T d_y. A CPU is up to six times as fast where the longer side of the result comes
    second; the barrier keeps XLA from undoing the transposition. On a CPU it stays float32 (bfloat16 is slower).
    """
    x, d_y = x.reshape(-1, x.shape[-1]), d_y.reshape(-1, d_y.shape[-1])
    if x.shape[-1] <= d_y.shape[-1]:
        return x.T @ d_y
    return lax.optimization_barrier(d_y.T @ x).T


def _dot_general(x: Array, matrix: Array, *_: Any, **__: Any) -> Array:
    return linear(x, matrix)


Dense = functools.partial(nn.Dense, dot_general=_dot_general)
"""flax's layer with `linear` for its product."""
