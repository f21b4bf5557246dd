"""What every mixer is: a flax module from one joint action's `Joint` record to K value streams.

    mixer.apply(params, joint) -> (*batch, K)

K = 1 for a factored Q_tot; K = N for independent learners, where every stream learns the team's reward by itself.
Options are the module's fields; the docstring below each is what `qmix-jax train --help settings` prints.
"""

from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Bool, Float

from qmix_jax.envs.base import TeamEnv
from qmix_jax.nn.linear import Dense
from qmix_jax.types import Joint

StateNorm = Literal["layer_norm", "none"]


class Mixer(nn.Module):
    """The base of all mixers: what one promises (the tests hold it to that), and what it may add to the learner."""

    is_monotonic: ClassVar[bool] = False
    """No stream falls when one agent exchanges its action for one that it values more."""
    promises_igm: ClassVar[bool] = False
    """Individual-global-max: where every agent takes its best action, Q_tot is at its largest."""
    acts_jointly: ClassVar[bool] = False
    """The team is to be one agent that chooses among all joint actions (see `qmix_jax.envs.wrappers.joint`)."""

    def in_env(self, env: TeamEnv) -> "Mixer":
        """The mixer with what it needs to know of the environment; nothing for most."""
        del env
        return self

    @property
    def central(self) -> "Mixer | None":
        """The mixer of a second, unrestricted value Q* that makes the targets; none but for weighted QMIX."""
        return None

    def importance(
        self,
        chosen: Float[Array, "*batch 1"],
        targets: Float[Array, "*batch 1"],
        best: Float[Array, "*batch 1"],
        is_best: Bool[Array, "*batch 1"],
    ) -> Float[Array, "*batch 1"]:
        """How much each squared error of Q_tot counts where there is a central Q*.

        Args:
            chosen: Q_tot of the joint action that was taken.
            targets: what it should be.
            best: Q* of the greedy joint action, by the target network.
            is_best: whether that action was taken.
        """
        raise NotImplementedError

    def penalty(self, chosen: Joint, best: Joint) -> Float[Array, "*batch"]:
        """What the loss adds to the squared error at each time, given the joint action that was taken and the greedy
        one of the online network (both with the online network's values); nothing for most.
        """
        del best
        return jnp.zeros(chosen.chosen_q.shape[:-1])


def normalise_state(state: Float[Array, "*batch Z"], how: StateNorm) -> Float[Array, "*batch Z"]:
    """The state as the hypernetworks should see it.

    `layer_norm` shifts and scales it to mean 0 and variance 1 over its features (nothing learnt), which bounds the
    weights that the hypernetworks make of it: without, Q grows out of all bounds on SMAX. `none` is what PyMARL and
    JaxMARL do. The features' ranges should be similar (see the setting `env.scale_state`), or the largest dominate.
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

    Every output starts near `start`; `scale` says how much it depends on the input at first.
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
    """`num_heads` networks of the same shape (see `MLP`), side by side: (*batch, X) -> (*batch, heads, output_size)."""

    num_heads: int
    hidden_size: int
    output_size: int
    scale: float
    start: float = 0.0
    num_layers: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "*batch X"]) -> Float[Array, "*batch heads W"]:
        """Every head's answer."""
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
