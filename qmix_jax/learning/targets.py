"""Temporal-difference targets, as functions of arrays with time first."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def lambda_targets(
    reward_t: Float[Array, "T *batch"],
    terminated_t: Bool[Array, "T *batch"],
    cut_t: Bool[Array, "T *batch"],
    next_value: Float[Array, "T *batch"],
    gamma: float,
    td_lambda: float,
) -> Float[Array, "T *batch"]:
    """TD(lambda) targets of greedy values, also called Peng's Q(lambda) (Hu et al. 2021 found them best for QMIX).

        G_t = r_t + gamma * (1 - terminated_t) * ((1 - lambda_t) * V_{t+1} + lambda_t * G_{t+1})

    V_{t+1} (`next_value` at t) is the target network's value of the greedy joint action after step t. lambda_t is
    `td_lambda`, and 0 where step t is the last one and where `cut_t`: the target of step t+1 is not valid there,
    so step t bootstraps from V_{t+1} alone. `bootstrap_cuts` says where a time limit cuts.

    These are the targets of PyMARL2's `build_td_lambda_targets`, its default (`q_lambda: False`). The off-policy
    correction of its `build_q_lambda_targets`, which adds V_t minus the target network's value of the action taken to
    every reward, is not implemented.
    """
    trace_t = jnp.where(cut_t, 0.0, td_lambda).at[-1].set(0.0)

    def step(g_next, inputs):
        r, terminated, v_next, trace = inputs
        future = (1 - trace) * v_next + trace * g_next
        g = r + gamma * jnp.where(terminated, 0.0, future)
        return g, g

    inputs = (reward_t, terminated_t, next_value, trace_t)
    return lax.scan(step, jnp.zeros_like(next_value[-1]), inputs, reverse=True, unroll=8)[1]


def bootstrap_cuts(truncated_t: Bool[Array, "T *batch"]) -> tuple[Bool[Array, "T *batch"], Bool[Array, "T *batch"]]:
    """Where a time limit cuts traces, and which steps it drops from the loss: (cut_t, dropped_t).

    A truncated step inside the sequence has no successor there (the next observation is another episode's), so it
    is dropped from the loss, and the step before it must not use its target: its trace is cut. A truncated step
    at the sequence's end is neither: the sequence's last observation is its true successor.
    """
    last = jnp.arange(truncated_t.shape[0]) == truncated_t.shape[0] - 1
    dropped = truncated_t & ~jnp.expand_dims(last, tuple(range(1, truncated_t.ndim)))
    cut = jnp.concatenate([dropped[1:], jnp.zeros_like(dropped[:1])])
    return cut, dropped


def first_episode(ended_t: Bool[Array, "T *batch"]) -> Bool[Array, "T *batch"]:
    """True up to and including the first step that ends an episode (whole-episode mode learns only from these)."""
    ends_before = jnp.cumsum(ended_t, axis=0) - ended_t
    return ends_before == 0
