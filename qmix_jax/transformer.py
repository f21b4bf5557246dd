"""Attention over a set, as TransfQMix uses it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Transformer(nn.Module):
    """`num_layers` blocks of attention and a feed-forward layer (Vaswani et al. 2017; Gallici et al. 2023).

        y = norm(x + unify(attention(x, tokens))),    x' = norm(y + W2 relu(W1 y))

    No place among the tokens means anything. Every head is as wide as a token, every block attends to the tokens as
    they came in, and normalisation comes last: all as in TransfQMix's authors' code.
    """

    num_heads: int
    num_layers: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "*batch K E"]) -> Float[Array, "*batch K E"]:
        """As many tokens, each with what it made of the others."""
        x = tokens
        for layer in range(self.num_layers):
            x = Block(self.num_heads, name=f"block_{layer}")(x, tokens)
        return x


class Block(nn.Module):
    """One layer of a transformer."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch Q E"], tokens: Float[Array, "*batch K E"]) -> Float[Array, "*batch Q E"]:
        """`x` with what it found in `tokens`."""
        size = x.shape[-1]
        heads = (self.num_heads, size)
        query = nn.DenseGeneral(heads, use_bias=False, name="query")(x)
        key = nn.DenseGeneral(heads, use_bias=False, name="key")(tokens)
        value = nn.DenseGeneral(heads, use_bias=False, name="value")(tokens)
        attention = jax.nn.softmax(jnp.einsum("...qhe,...khe->...hqk", query, key) / math.sqrt(size), axis=-1)
        found = jnp.einsum("...hqk,...khe->...qhe", attention, value)
        x = _norm("norm_1")(x + nn.DenseGeneral(size, axis=(-2, -1), name="unify")(found))
        thought = nn.relu(nn.Dense(4 * size, name="forward_1")(x))
        return _norm("norm_2")(x + nn.Dense(size, name="forward_2")(thought))


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)
