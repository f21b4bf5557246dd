"""How actions are chosen from Q-values."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.config import ExplorationConfig


def greedy(q: Float[Array, "*batch A"], available: Bool[Array, "*batch A"]) -> Int[Array, "*batch"]:
    """The legal action with the largest Q; the first one of equals (subnormal numbers may count as 0)."""
    return jnp.argmax(legal_values(q, available), axis=-1)


def legal_values(q: Float[Array, "*batch A"], available: Bool[Array, "*batch A"]) -> Float[Array, "*batch A"]:
    """Q of legal actions, at least the lowest finite number, and -inf for illegal ones, which so are never the largest.

    A legal Q that is NaN or -inf counts as that lowest number: among nothing else, the first legal action is chosen.
    """
    lowest = jnp.finfo(q.dtype).min
    return jnp.where(available, jnp.where(q > lowest, q, lowest), -jnp.inf)


def random_action(uniform: Float[Array, "*batch"], available: Bool[Array, "*batch A"]) -> Int[Array, "*batch"]:
    """A legal action, each as likely as the next, from one uniform number in [0, 1) each."""
    count = jnp.cumsum(available, axis=-1)
    rank = jnp.floor(uniform * count[..., -1]).astype(count.dtype)
    return jnp.sum(count <= jnp.minimum(rank, count[..., -1] - 1)[..., None], axis=-1)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> Array:
    """Numbers in [0, 1), drawn in one row: XLA compiles that seven times faster than the same numbers in many axes."""
    return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)


def epsilon_greedy(
    uniform: Float[Array, "2 *batch"], q: Float[Array, "*batch A"], available: Bool[Array, "*batch A"], epsilon: Array
) -> Int[Array, "*batch"]:
    """With probability epsilon a random legal action, else the greedy one; each agent decides for itself."""
    is_random = uniform[0] < epsilon
    return jnp.where(is_random, random_action(uniform[1], available), greedy(q, available))


def epsilon_at(config: ExplorationConfig, env_steps: Int[Array, "*times"]) -> Float[Array, "*times"]:
    """Epsilon after so many environment steps."""
    share = jnp.clip(env_steps / max(config.decay_env_steps, 1), 0.0, 1.0)
    return config.start + (config.finish - config.start) * share
