"""Choosing actions from Q-values: greedily, at random, or epsilon-greedily."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NO_ACTION = -1
"""In the place of an action: none."""


def greedy(q: Float[Array, "*batch A"], available: Bool[Array, "*batch A"]) -> Int[Array, "*batch"]:
    """The legal action with the largest Q; the first one of equals (subnormal numbers may count as 0)."""
    return jnp.argmax(legal_values(q, available), axis=-1)


def legal_values(q: Float[Array, "*batch A"], available: Bool[Array, "*batch A"]) -> Float[Array, "*batch A"]:
    """Q of legal actions, at least the lowest finite number, and -inf for illegal ones, which are never the largest.

    A legal Q that is NaN or -inf counts as the lowest finite number: where all are, the first legal action is greedy.
    """
    lowest = jnp.finfo(q.dtype).min
    return jnp.where(available, jnp.where(q > lowest, q, lowest), -jnp.inf)


def random_action(uniform: Float[Array, "*batch"], available: Bool[Array, "*batch A"]) -> Int[Array, "*batch"]:
    """A legal action, each equally likely, from one uniform number in [0, 1) for each."""
    count = jnp.cumsum(available, axis=-1)
    rank = jnp.floor(uniform * count[..., -1]).astype(count.dtype)
    return jnp.sum(count <= jnp.minimum(rank, count[..., -1] - 1)[..., None], axis=-1)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> Array:
    """Numbers in [0, 1), drawn as one vector: XLA compiles that seven times faster than a draw with many axes."""
    return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)


def epsilon_greedy(
    uniform: Float[Array, "2 *batch"], q: Float[Array, "*batch A"], available: Bool[Array, "*batch A"], epsilon: Array
) -> Int[Array, "*batch"]:
    """With probability epsilon a random legal action, else the greedy one; independently for each agent."""
    is_random = uniform[0] < epsilon
    return jnp.where(is_random, random_action(uniform[1], available), greedy(q, available))


def together(
    own: Int[Array, "*batch N"], team: Int[Array, "*batch"], available: Bool[Array, "*batch N A"]
) -> Int[Array, "*batch N"]:
    """The team's action for the agents to whom it is legal (NO_ACTION is legal to none), for the others their own."""
    is_taken = jnp.arange(available.shape[-1]) == team[..., None, None]
    return jnp.where(jnp.any(is_taken & available, axis=-1), team[..., None], own)
