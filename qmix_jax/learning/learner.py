"""The loss and the update. Knows sequences, not environments."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.agents import AgentInput, Agents
from qmix_jax.config import LearnerConfig, TargetConfig
from qmix_jax.learning.exploration import greedy, legal_values
from qmix_jax.learning.targets import bootstrap_cuts, first_episode, lambda_targets
from qmix_jax.mixers.base import Mixer
from qmix_jax.types import Joint, Observation, Params, Sequence, TeamSpec, global_state

NOW, NEXT, ALWAYS = slice(None, -1), slice(1, None), slice(None)
"""Of T+1 times: where a step begins, where it leads, and all."""


class LearnerState(NamedTuple):
    """What learning changes. All networks are one tree in each: {"agent": ..., "mixer": ...}, and with weighted QMIX
    "central", which holds the same two again.
    """

    params: Params
    target_params: Params
    """None without a target network."""
    opt_state: Any
    """The optimiser's; all parameters are one vector to it."""


class LossMetrics(NamedTuple):
    """What an update tells of itself, averaged over the batch."""

    loss: Float[Array, ""]
    td_error: Float[Array, ""]
    """Mean absolute error."""
    q_mean: Float[Array, ""]
    target_mean: Float[Array, ""]
    grad_norm: Float[Array, ""]
    """Before clipping, over agent and mixer together."""


class LossSums(NamedTuple):
    """Sums over the errors of a batch, or of a device's share of it."""

    metrics: LossMetrics
    """Not yet averaged."""
    num_errors: Float[Array, ""]
    """How many errors there are."""


class Values(NamedTuple):
    """What the networks say of T steps."""

    chosen: Float[Array, "T B K"]
    """The online network, of the joint action that was taken."""
    best: Float[Array, "T+1 B K"]
    """The target network, of the greedy joint action; held fixed. With a central Q*, that one's target network."""
    is_best: Bool[Array, "T B 1"]
    """Whether the greedy joint action was taken."""
    penalty: Float[Array, "T B 1"]
    central: Float[Array, "T B 1"] | None
    """The online Q* of weighted QMIX, of the joint action that was taken."""


def sum_over_devices(tree: Any, axis: str | None) -> Any:
    """The sum of every leaf over the devices along `axis` (of this one alone where there is none), all in one vector:
    each array by itself would be another meeting of the devices, and it is meetings that cost.
    """
    if axis is None:
        return tree
    vector, unravel = ravel_pytree(tree)
    return unravel(lax.psum(vector, axis))


def make_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Clip by the norm, then scale as the named optimiser does; the learning rate is applied by `update`. It is given
    all parameters as one vector, which compiles a second faster than array by array.
    """
    scale = {
        "adam": optax.scale_by_adam(eps=config.adam_epsilon),
        "radam": optax.scale_by_radam(eps=config.adam_epsilon),
        "rmsprop": optax.scale_by_rms(decay=0.99, eps=config.adam_epsilon, eps_in_sqrt=False),
    }
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), scale[config.optimizer])


def pick(values: Float[Array, "*batch A"], action: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The value of each action. A masked sum: its gradient is no scatter."""
    index = jnp.arange(values.shape[-1], dtype=action.dtype)
    return jnp.sum(jnp.where(action[..., None] == index, values, 0.0), axis=-1)


def joint_of(
    q: Float[Array, "*batch N A"],
    hidden: Float[Array, "*batch N H"],
    action: Int[Array, "*batch N"],
    best: Int[Array, "*batch N"],
    seen: Observation,
) -> Joint:
    """The mixer's record of a joint action beside the greedy one, of agents with these values and recurrent states."""
    return Joint(
        chosen_q=pick(q, action),
        greedy_q=jnp.max(legal_values(q, seen.available), axis=-1),
        action=jax.nn.one_hot(action, q.shape[-1], dtype=q.dtype),
        is_greedy=action == best,
        hidden=hidden,
        state=global_state(seen),
    )


@dataclass(frozen=True)
class Learner:
    """Double Q-learning on lambda targets over whatever value streams the mixer makes.

    `axis` names the device axis over which a batch is split: sums meet there, so that the update is the one of the
    whole batch.
    """

    agents: Agents
    mixer: Mixer
    config: LearnerConfig
    target: TargetConfig
    total_env_steps: int
    """Where the decay of the learning rate ends."""
    whole_episodes: bool = False
    axis: str | None = None

    @property
    def spec(self) -> TeamSpec:
        """The team's sizes."""
        return self.agents.spec

    @property
    def central(self) -> "Learner | None":
        """The unrestricted Q* of weighted QMIX as a learner of its own, whose parameters are `params["central"]`."""
        mixer = self.mixer.central
        return None if mixer is None else dataclasses.replace(self, mixer=mixer)

    def init(self, key: jax.Array) -> LearnerState:
        """Fresh parameters; the target starts as a copy."""
        params = self._init_params(key)
        target_params = None if self.target.mode == "none" else jax.tree.map(jnp.copy, params)
        return LearnerState(params, target_params, make_optimizer(self.config).init(ravel_pytree(params)[0]))

    def _init_params(self, key: jax.Array) -> dict[str, Params]:
        agent_key, mixer_key = jax.random.split(key)
        spec, size = self.spec, self.agents.config.hidden_size
        shapes = Joint(
            chosen_q=jnp.zeros((1, spec.num_agents)),
            greedy_q=jnp.zeros((1, spec.num_agents)),
            action=jnp.zeros((1, spec.num_agents, spec.num_actions)),
            is_greedy=jnp.zeros((1, spec.num_agents), bool),
            hidden=jnp.zeros((1, spec.num_agents, size)),
            state=jnp.zeros((1, spec.state_size)),
        )
        params = {"agent": self.agents.init(agent_key), "mixer": self.mixer.init(mixer_key, shapes)}
        if self.central:
            params["central"] = self.central._init_params(jax.random.fold_in(key, 0))
        return params

    def learning_rate(self, env_steps: Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate after so many environment steps."""
        first, last = self.config.learning_rate, self.config.last_learning_rate
        return first + (last - first) * jnp.clip(env_steps / self.total_env_steps, 0.0, 1.0)

    def update(
        self, state: LearnerState, batch: Sequence, env_steps: Int[Array, ""]
    ) -> tuple[LearnerState, LossMetrics]:
        """One gradient step on a batch of sequences (time first)."""
        grads, sums = jax.grad(self.loss, has_aux=True)(state.params, state.target_params, batch)
        told, read = ravel_pytree((grads, sums))  # and a vector it stays until the parameters change
        told = sum_over_devices(told, self.axis)
        sums = read(told)[1]
        flat, unravel = ravel_pytree(state.params)
        count = jnp.maximum(sums.num_errors, 1.0)
        gradient, metrics = jax.tree.map(lambda total: total / count, (told[: flat.size], sums.metrics))
        updates, opt_state = make_optimizer(self.config).update(gradient, state.opt_state)
        rate = self.learning_rate(env_steps)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, unravel(updates))  # pyright: ignore[reportArgumentType]
        target_params = state.target_params
        if self.target.mode == "soft":
            target_params = optax.incremental_update(params, target_params, self.target.tau)
        metrics = metrics._replace(grad_norm=optax.global_norm(gradient))
        return LearnerState(params, target_params, opt_state), metrics

    def loss(self, params: Params, target_params: Params, batch: Sequence) -> tuple[Float[Array, ""], LossSums]:
        """The sum of squared errors over this device's share of the batch, and what else is summed over it.

            L = sum over valid t, b and streams k of (Q_k(s_t, u_t) - G_k,t)^2, plus the mixer's penalty

        with G the lambda targets of the target network's value of the greedy joint action. With double Q-learning the
        greedy action is the online network's, under the next step's availability. Weighted QMIX weighs the squares, and
        its Q* learns beside and makes the targets (see `qmix_jax.mixers.weighted`).
        """
        values = self._values(params, target_params, batch)
        targets, weight = self._targets(batch, values.best[NEXT])
        error = values.chosen - targets
        cost = jnp.square(error) + values.penalty
        if values.central is not None:
            importance = self.mixer.importance(values.chosen, targets, values.best[NOW], values.is_best)
            cost = lax.stop_gradient(importance) * cost + jnp.square(values.central - targets)

        def total(x):
            return jnp.sum(weight[..., None] * x)

        loss = total(cost)
        metrics = LossMetrics(loss, total(jnp.abs(error)), total(values.chosen), total(targets), jnp.zeros(()))
        return loss, lax.stop_gradient(LossSums(metrics, total(jnp.ones_like(error))))

    def _values(self, params: Params, target_params: Params, batch: Sequence) -> Values:
        """What the online and the target networks say of the steps behind the burn-in."""
        if self.target.mode == "none":
            target_params = params
        online, target = self._unroll_both(params, target_params, batch)
        kept = _skip(batch, self.config.burn_in)
        selecting_q = lax.stop_gradient(online[1]) if self.config.double_q else target[1]
        best = greedy(selecting_q, kept.observation.available)
        chosen_joint = self._joint(online, kept, NOW, kept.action, best)
        best_joint = self._joint(online, kept, NOW, best[NOW], best)
        if self.central is None:
            central, best_value = None, self._mix(target_params, self._joint(target, kept, ALWAYS, best, best))
        else:
            central, best_value = self.central._judge(params["central"], target_params["central"], batch, best)
        return Values(
            chosen=self._mix(params, chosen_joint),
            best=lax.stop_gradient(best_value),
            is_best=jnp.all(kept.action == best[NOW], axis=-1, keepdims=True),
            penalty=self._mix(params, chosen_joint, best_joint, method="penalty")[..., None],
            central=central,
        )

    def _judge(
        self, params: Params, target_params: Params, batch: Sequence, best: Int[Array, "times B N"]
    ) -> tuple[Float[Array, "T B 1"], Float[Array, "times B 1"]]:
        """As Q*: the online value of what was done, and the target network's of what the acting agents find best at all
        T+1 times.
        """
        online, target = self._unroll_both(params, target_params, batch._replace(hidden=jnp.zeros_like(batch.hidden)))
        kept = _skip(batch, self.config.burn_in)
        chosen = self._mix(params, self._joint(online, kept, NOW, kept.action, best))
        return chosen, self._mix(target_params, self._joint(target, kept, ALWAYS, best, best))

    def _unroll_both(
        self, params: Params, target_params: Params, batch: Sequence
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """`_unroll` of the online network, and, held fixed, of the target network (the online one where none is)."""
        online = self._unroll(params, batch)
        target = online if self.target.mode == "none" else self._unroll(target_params, batch, is_target=True)
        return online, jax.tree.map(lax.stop_gradient, target)

    @jax.named_scope("agents")
    def _unroll(self, params: Params, batch: Sequence, is_target: bool = False) -> tuple[Array, Array]:
        """Recurrent state and Q at the T+1 observations behind the burn-in, which passes no gradient. Neither does the
        last observation, which is a successor only: so the online network takes it by itself.
        """
        no = jnp.zeros_like(batch.first[:1])
        inputs = AgentInput(
            obs=batch.observation.agents,
            last_action=jnp.concatenate([batch.last_action[None], batch.action]),
            first=jnp.concatenate([batch.first, no]),  # the last observation is the true successor
        )
        agent, hidden, burn_in = params["agent"], batch.hidden, self.config.burn_in
        fixed = lax.stop_gradient(agent)
        if burn_in:
            hidden = self.agents.unroll(fixed, hidden, _times(inputs, slice(burn_in)))[0][-1]
        if is_target:
            return self.agents.unroll(fixed, hidden, _times(inputs, slice(burn_in, None)))
        steps = self.agents.unroll(agent, hidden, _times(inputs, slice(burn_in, -1)))
        last = self.agents.step(fixed, lax.stop_gradient(steps[0][-1]), _times(inputs, -1))
        hiddens, q = (jnp.concatenate([now, after[None]]) for now, after in zip(steps, last, strict=True))
        return hiddens, q

    def _joint(self, unrolled: tuple[Array, Array], batch: Sequence, times: slice, action: Array, best: Array) -> Joint:
        """The record of a joint action (T, B, N) at `times`, from recurrent states, Q and the greedy one at all T+1."""
        hidden, q = (values[times] for values in unrolled)
        return joint_of(q, hidden, action, best[times], _times(batch.observation, times))

    def _mix(self, params: Params, *joints: Joint, method: str = "__call__") -> Array:
        """The mixer's value streams (T, B, K), or what another of its methods makes of joint actions."""
        return self.mixer.apply(params["mixer"], *joints, method=method)  # pyright: ignore[reportReturnType]

    @jax.named_scope("targets")
    def _targets(self, batch: Sequence, next_value: Float[Array, "T B K"]) -> tuple[Array, Float[Array, "T B"]]:
        """Lambda targets of every stream behind the burn-in, and 1 where a step counts in the loss."""
        whole, batch = batch, _skip(batch, self.config.burn_in)
        cut, dropped = bootstrap_cuts(batch.truncated)
        reward = self.config.reward_scale * batch.reward
        streams = jax.vmap(lambda_targets, in_axes=(None, None, None, 2, None, None), out_axes=2)
        targets = streams(reward, batch.terminated, cut, next_value, self.config.gamma, self.config.td_lambda)
        counts = ~dropped
        if self.whole_episodes:
            counts &= first_episode(whole.terminated | whole.truncated)[self.config.burn_in :]
        return targets, counts.astype(reward.dtype)


def _times(tree: Any, times: slice | int) -> Any:
    """What every leaf says of those times."""
    return jax.tree.map(lambda leaf: leaf[times], tree)


def _skip(batch: Sequence, steps: int) -> Sequence:
    """The batch without its first steps (the start's records are left as they are)."""
    timed = batch._replace(last_action=None, hidden=None)
    return _times(timed, slice(steps, None))._replace(last_action=batch.last_action, hidden=batch.hidden)
