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

    No place among the tokens means anything. Every head is as wide as a token, every block attends to the tokens as
    they came in, and normalisation comes last: all as in TransfQMix's authors' code.
    """

    num_heads: int
    num_layers: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "*batch K E"], kept: slice) -> Float[Array, "*batch Q E"]:
        """What the `kept` ones of the tokens made of them all."""
        x = tokens
        for layer in range(self.num_layers):
            if layer == self.num_layers - 1:
                x = x[..., kept, :]  # the others would only be thrown away
            x = Block(self.num_heads, name=f"block_{layer}")(x, tokens)
        return x


class Block(nn.Module):
    """One layer of a transformer."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch Q E"], tokens: Float[Array, "*batch K E"]) -> Float[Array, "*batch Q E"]:
        """`x` with what it found in `tokens`.

        A head's weights come in pairs: a query meets a key as (x W_query W_key^T) token^T, and what was found passes
        W_value W_unify. Each pair is multiplied first, so that the tokens are keys and values as they are, and one
        product asks for all heads.
        """
        size, heads = x.shape[-1], self.num_heads

        def pairs(name: str) -> Array:
            return self.param(name, initializers.lecun_normal(), (size, heads * size)).reshape(size, heads, size)

        unify = self.param("unify", initializers.lecun_normal(), (heads * size, size)).reshape(heads, size, size)
        asking = jnp.einsum("ihe,jhe->ihj", pairs("query"), pairs("key")).reshape(size, -1) / math.sqrt(size)
        telling = jnp.einsum("jhe,hei->hji", pairs("value"), unify).reshape(-1, size)
        asked = linear(x, asking).reshape(*x.shape[:-2], -1, size)
        attention = jax.nn.softmax(jnp.einsum("...qe,...ke->...qk", asked, tokens), axis=-1)
        found = jnp.einsum("...qk,...ke->...qe", attention, tokens).reshape(*x.shape[:-1], -1)
        x = _norm("norm_1")(x + linear(found, telling) + self.param("unify_bias", initializers.zeros, (size,)))
        thought = nn.relu(Dense(4 * size, name="forward_1")(x))
        return _norm("norm_2")(x + Dense(size, name="forward_2")(thought))


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)
