"""Attention over a set, as TransfQMix uses it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float

from qmix_jax.nn.linear import Dense, linear


class Transformer(nn.Module):
    """`num_layers` blocks of attention and a feed-forward layer (Vaswani et al. 2017; Gallici et al. 2023).

        y = norm(x + unify(attention(x, tokens))),    x' = norm(y + W2 relu(W1 y))

    There is no positional encoding. Every head is as wide as a token, every block attends to the original tokens, and
    normalisation comes last: all as in the code of TransfQMix's authors.
    """

    num_heads: int
    num_layers: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "*batch K E"], kept: slice) -> Float[Array, "*batch Q E"]:
        """The outputs of the `kept` tokens, which attend to all."""
        x = tokens
        for layer in range(self.num_layers):
            if layer == self.num_layers - 1:
                x = x[..., kept, :]  # the others would not be used
            x = Block(self.num_heads, name=f"block_{layer}")(x, tokens)
        return x


class Block(nn.Module):
    """One layer of a transformer."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch Q E"], tokens: Float[Array, "*batch K E"]) -> Float[Array, "*batch Q E"]:
        """`x` after attention to `tokens`, and the feed-forward layer.

        Two pairs of a head's weights only ever act as products: W_query W_key^T and W_value W_unify. They are
        multiplied first, so that the tokens themselves are keys and values, and one product makes the queries of all
        heads.
        """
        size, heads = x.shape[-1], self.num_heads

        def pairs(name: str) -> Array:
            return self.param(name, initializers.lecun_normal(), (size, heads * size)).reshape(size, heads, size)

        unify = self.param("unify", initializers.lecun_normal(), (heads * size, size)).reshape(heads, size, size)
        query_key = jnp.einsum("ihe,jhe->ihj", pairs("query"), pairs("key")).reshape(size, -1) / math.sqrt(size)
        value_unify = jnp.einsum("jhe,hei->hji", pairs("value"), unify).reshape(-1, size)
        query = linear(x, query_key).reshape(*x.shape[:-2], -1, size)
        attention = jax.nn.softmax(jnp.einsum("...qe,...ke->...qk", query, tokens), axis=-1)
        attended = jnp.einsum("...qk,...ke->...qe", attention, tokens).reshape(*x.shape[:-1], -1)
        x = _norm("norm_1")(x + linear(attended, value_unify) + self.param("unify_bias", initializers.zeros, (size,)))
        hidden = nn.relu(Dense(4 * size, name="forward_1")(x))
        return _norm("norm_2")(x + Dense(size, name="forward_2")(hidden))


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)
