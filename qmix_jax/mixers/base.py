"""The contract of a mixer: a flax module from a `MixerInput`, which describes one joint action, to K value streams.

    mixer.apply(params, joint) -> (*batch, K)

K = 1 for a factored Q_tot; K = N for independent learners, where every stream learns the team's reward by itself.
Options are the module's fields; the docstring below each is what `qmix-jax train --help settings` prints.
"""

from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.actions import legal_values
from qmix_jax.envs.base import TeamEnv
from qmix_jax.nn.linear import Dense
from qmix_jax.types import MixerInput, Observation, Params, TeamValues, global_state

StateNorm = Literal["layer_norm", "none"]


class Mixer(nn.Module):
    """The base of all mixers: what a mixer promises (which the tests check), and what it may add to the learner."""

    is_monotonic: ClassVar[bool] = False
    """No stream falls when one agent changes to an action that it values more."""
    promises_igm: ClassVar[bool] = False
    """Individual-global-max: Q_tot is largest where every agent takes its best action."""
    acts_jointly: ClassVar[bool] = False
    """The team is one agent that chooses among all joint actions (see `qmix_jax.envs.wrappers.joint`)."""

    def in_env(self, env: TeamEnv) -> "Mixer":
        """The mixer with what it needs to know of the environment; nothing for most."""
        del env
        return self

    @property
    def central(self) -> "Mixer | None":
        """The mixer of a second, unrestricted value Q* that makes the targets (weighted QMIX); None: there is no Q*."""
        return None

    def importance(
        self,
        chosen: Float[Array, "*batch 1"],
        targets: Float[Array, "*batch 1"],
        best: Float[Array, "*batch 1"],
        is_best: Bool[Array, "*batch 1"],
    ) -> Float[Array, "*batch 1"]:
        """The weight of each error's loss, where there is a central Q*.

        Args:
            chosen: Q_tot of the joint action that was taken.
            targets: what it should be.
            best: Q* of the greedy joint action, by the target network.
            is_best: whether that action was taken.
        """
        raise NotImplementedError

    def penalty(self, chosen: MixerInput, best: MixerInput) -> Float[Array, "*batch"]:
        """What is added to the loss at each time, given the joint action that was taken and the greedy one of the
        online network (both with the online network's values); nothing for most.
        """
        del best
        return jnp.zeros(chosen.chosen_q.shape[:-1])


def normalise_state(state: Float[Array, "*batch Z"], how: StateNorm) -> Float[Array, "*batch Z"]:
    """The state as the hypernetworks should see it.

    `layer_norm` shifts and scales it to mean 0 and variance 1 over its features (nothing learnt), which bounds the
    weights that the hypernetworks make of it: without it, Q diverges in StarCraft-like battles. `none` is what PyMARL
    and JaxMARL do. Features should have similar ranges before, or the largest dominate.
    """
    if how == "none":
        return state
    mean = jnp.mean(state, axis=-1, keepdims=True)
    variance = jnp.var(state, axis=-1, keepdims=True)
    return (state - mean) / jnp.sqrt(variance + 1e-6)


def weigh(q: Float[Array, "*batch N"], weights: Float[Array, "*batch N E"]) -> Float[Array, "*batch E"]:
    """q^T W, in float32 whatever `matmul_dtype` says. (Written as a sum, it is 4 % of an update on a CPU.)"""
    return jnp.einsum("...n,...ne->...e", q, weights, precision="highest")


def elu(x: Array) -> Array:
    """x above 0, else exp(x) - 1. (jax.nn.elu calls expm1, which XLA does not vectorise on a CPU.)"""
    return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1)


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them: state to weights, and other small networks.

    At first every output is near `start`, and depends on the input in proportion to `scale`.
    """

    hidden_size: int
    output_size: int
    scale: float
    start: float = 0.0
    num_layers: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "*batch X"]) -> Float[Array, "*batch W"]:
        """(*batch, X) -> (*batch, output_size)."""
        for _ in range(self.num_layers - 1):
            x = nn.relu(Dense(self.hidden_size)(x))
        start = nn.initializers.constant(self.start)
        return Dense(self.output_size, kernel_init=small(self.scale), bias_init=start)(x)


class Heads(nn.Module):
    """`num_heads` separate networks of one shape (see `MLP`): (*batch, X) -> (*batch, heads, output_size)."""

    num_heads: int
    hidden_size: int
    output_size: int
    scale: float
    start: float = 0.0
    num_layers: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "*batch X"]) -> Float[Array, "*batch heads W"]:
        """The outputs of every head."""
        heads = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # pyright: ignore[reportArgumentType]
            out_axes=-2,
            axis_size=self.num_heads,
        )
        return heads(self.hidden_size, self.output_size, self.scale, self.start, self.num_layers, name="head")(x)


def small(scale: float) -> Initializer:
    """Normal with a standard deviation of scale / sqrt(fan in). (No orthogonal initialiser here or elsewhere: its QR
    decomposition, batched over seeds on several CPU devices, deadlocks XLA's thread pool as of jaxlib 0.10.)
    """
    return nn.initializers.variance_scaling(scale**2, "fan_in", "normal")


# --- the input ---------------------------------------------------------------------------------------------------


def pick(values: Float[Array, "*batch A"], action: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The value of each action. (A masked sum, because the gradient of indexing is a scatter.)"""
    index = jnp.arange(values.shape[-1], dtype=action.dtype)
    return jnp.sum(jnp.where(action[..., None] == index, values, 0.0), axis=-1)


def mixer_input(
    q: Float[Array, "*batch N A"],
    features: Float[Array, "*batch N H"],
    action: Int[Array, "*batch N"],
    best: Int[Array, "*batch N"],
    observation: Observation,
) -> MixerInput:
    """What a mixer sees of the joint action `action`, where `best` is the greedy one."""
    return MixerInput(
        chosen_q=pick(q, action),
        greedy_q=jnp.max(legal_values(q, observation.available), axis=-1),
        action=jax.nn.one_hot(action, q.shape[-1], dtype=q.dtype),
        is_greedy=action == best,
        hidden=features,
        state=global_state(observation),
    )


def credit_assignment(mixer: nn.Module, params: Params, joint: MixerInput) -> TeamValues:
    """Q_tot of a joint action and each agent's credit dQ_tot / dQ_i, the gradient of the mixer in `chosen_q`."""

    def total(chosen_q):
        streams: Array = mixer.apply(params, joint._replace(chosen_q=chosen_q))  # pyright: ignore
        return jnp.sum(streams), streams  # no element of the batch enters another's Q_tot

    credit, streams = jax.grad(total, has_aux=True)(joint.chosen_q)
    if streams.shape[-1] > 1:
        return TeamValues(joint.chosen_q, None, None)
    return TeamValues(joint.chosen_q, streams[..., 0], credit)
