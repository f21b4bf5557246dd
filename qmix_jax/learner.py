"""The loss and the update. Knows sequences, not environments."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from qmix_jax.agents.recurrent import AgentInput, RecurrentAgents
from qmix_jax.config import LearnerConfig, TargetConfig
from qmix_jax.exploration import greedy
from qmix_jax.mixers.base import Mixer
from qmix_jax.targets import bootstrap_cuts, first_episode, lambda_targets
from qmix_jax.types import Joint, Params, Sequence, TeamSpec, global_state


NOW, NEXT = slice(None, -1), slice(1, None)  # of T+1 times: where a step begins, and where it leads


class LearnerState(NamedTuple):
    """What learning changes. Agent and mixer are one tree in each: {"agent": ..., "mixer": ...}."""

    params: Params
    target_params: Params
    opt_state: Any


class LossMetrics(NamedTuple):
    """What an update tells of itself, averaged over the batch."""

    loss: Float[Array, ""]
    td_error: Float[Array, ""]
    """Mean absolute error."""
    q_mean: Float[Array, ""]
    target_mean: Float[Array, ""]
    grad_norm: Float[Array, ""]
    """Before clipping, over agent and mixer together."""


def make_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Clip by the global norm, then scale as the named optimiser does; the learning rate is applied by `update`."""
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


@dataclass(frozen=True)
class Learner:
    """Double Q-learning on lambda targets over whatever value streams the mixer makes.

    `axis` names the device axis over which a batch is split: sums meet there, so that the update is the one of the
    whole batch.
    """

    agents: RecurrentAgents
    mixer: Mixer
    config: LearnerConfig
    target: TargetConfig
    total_env_steps: int
    whole_episodes: bool = False
    axis: str | None = None

    @property
    def spec(self) -> TeamSpec:
        """The team's sizes."""
        return self.agents.spec

    def init(self, key: jax.Array) -> LearnerState:
        """Fresh parameters; the target starts as a copy."""
        agent_key, mixer_key = jax.random.split(key)
        spec, size = self.spec, self.agents.config.hidden_size
        shapes = Joint(
            chosen_q=jnp.zeros((1, spec.num_agents)),
            greedy_q=jnp.zeros((1, spec.num_agents)),
            action=jnp.zeros((1, spec.num_agents, spec.num_actions)),
            hidden=jnp.zeros((1, spec.num_agents, size)),
            state=jnp.zeros((1, spec.state_size)),
        )
        params = {"agent": self.agents.init(agent_key), "mixer": self.mixer.init(mixer_key, shapes)}
        target_params = jax.tree.map(jnp.copy, params)
        return LearnerState(params, target_params, make_optimizer(self.config).init(params))

    def learning_rate(self, env_steps: Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate after so many environment steps."""
        first, last = self.config.learning_rate, self.config.final_learning_rate
        if last is None:
            return jnp.asarray(first)
        return first + (last - first) * jnp.clip(env_steps / self.total_env_steps, 0.0, 1.0)

    def update(
        self, state: LearnerState, batch: Sequence, env_steps: Int[Array, ""]
    ) -> tuple[LearnerState, LossMetrics]:
        """One gradient step on a batch of sequences (time first)."""
        gradient = jax.grad(self.loss, has_aux=True)
        grads, metrics = gradient(state.params, state.target_params, batch)
        grads, metrics = self._sum_over_devices((grads, metrics))
        updates, opt_state = make_optimizer(self.config).update(grads, state.opt_state, state.params)
        rate = self.learning_rate(env_steps)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        target_params = state.target_params
        if self.target.mode == "soft":
            target_params = optax.incremental_update(params, target_params, self.target.tau)
        metrics = metrics._replace(grad_norm=optax.global_norm(grads))
        return LearnerState(params, target_params, opt_state), metrics

    def _sum_over_devices(self, tree: Any) -> Any:
        return tree if self.axis is None else lax.psum(tree, self.axis)

    def loss(self, params: Params, target_params: Params, batch: Sequence) -> tuple[Float[Array, ""], LossMetrics]:
        """This device's share of the batch's mean squared error, and of its metrics.

            L = mean over valid t, b and streams k of (Q_k(s_t, u_t) - G_k,t)^2, plus the mixer's penalty

        with G the lambda targets of the target network's value of the greedy joint action. With double Q-learning the
        greedy action is the online network's, under the next step's availability.
        """
        online = self._unroll(params, batch)
        target = jax.tree.map(lax.stop_gradient, self._unroll(target_params, batch))
        batch = _skip(batch, self.config.burn_in)
        selecting_q = lax.stop_gradient(online[1]) if self.config.double_q else target[1]
        best = greedy(selecting_q, batch.observation.available)
        chosen_joint = self._joint(online, batch, NOW, batch.action)
        best_joint = self._joint(online, batch, NOW, best[NOW])
        chosen = self._mix(params, chosen_joint)
        next_value = self._mix(target_params, self._joint(target, batch, NEXT, best[NEXT]))
        targets, weight = self._targets(batch, lax.stop_gradient(next_value))
        count = jnp.maximum(self._sum_over_devices(jnp.sum(weight)), 1.0)

        def mean(x):
            return jnp.sum(weight[..., None] * x) / (count * x.shape[-1])

        error = chosen - targets
        penalty = self.mixer.apply(params["mixer"], chosen_joint, best_joint, method="penalty")
        loss = mean(jnp.square(error)) + mean(penalty[..., None])
        metrics = LossMetrics(loss, mean(jnp.abs(error)), mean(chosen), mean(targets), jnp.zeros(()))
        return loss, jax.tree.map(lax.stop_gradient, metrics)

    def _unroll(self, params: Params, batch: Sequence) -> tuple[Array, Array]:
        """Recurrent state and Q at the T+1 observations behind the burn-in, which passes no gradient."""
        no = jnp.zeros_like(batch.first[:1])
        inputs = AgentInput(
            obs=batch.observation.agents,
            last_action=jnp.concatenate([batch.last_action[None], batch.action]),
            first=jnp.concatenate([batch.first, no]),  # the last observation is the true successor
        )
        hidden, burn_in = batch.hidden, self.config.burn_in
        if burn_in:
            warm_up = jax.tree.map(lambda leaf: leaf[:burn_in], inputs)
            hidden = lax.stop_gradient(self.agents.unroll(params["agent"], hidden, warm_up)[0][-1])
            inputs = jax.tree.map(lambda leaf: leaf[burn_in:], inputs)
        return self.agents.unroll(params["agent"], hidden, inputs)

    def _joint(self, unrolled: tuple[Array, Array], batch: Sequence, times: slice, action: Array) -> Joint:
        """The record of a joint action (T, B, N) at `times`, from recurrent states and Q at all T+1."""
        hidden, q = (values[times] for values in unrolled)
        observation = jax.tree.map(lambda leaf: leaf[times], batch.observation)
        return Joint(
            chosen_q=pick(q, action),
            greedy_q=jnp.max(jnp.where(observation.available, q, jnp.finfo(q.dtype).min), axis=-1),
            action=jax.nn.one_hot(action, self.spec.num_actions, dtype=q.dtype),
            hidden=hidden,
            state=global_state(observation),
        )

    def _mix(self, params: Params, joint: Joint) -> Float[Array, "T B K"]:
        """The mixer's value streams."""
        return self.mixer.apply(params["mixer"], joint)  # pyright: ignore[reportReturnType]

    def _targets(self, batch: Sequence, next_value: Float[Array, "T B K"]) -> tuple[Array, Float[Array, "T B"]]:
        """Lambda targets of every stream, and 1 where a step counts in the loss."""
        cut, dropped = bootstrap_cuts(batch.truncated)
        reward = self.config.reward_scale * batch.reward
        streams = jax.vmap(lambda_targets, in_axes=(None, None, None, 2, None, None), out_axes=2)
        targets = streams(reward, batch.terminated, cut, next_value, self.config.gamma, self.config.td_lambda)
        counts = ~dropped
        if self.whole_episodes:
            counts &= first_episode(batch.terminated | batch.truncated)
        return targets, counts.astype(reward.dtype)


def _skip(batch: Sequence, steps: int) -> Sequence:
    """The batch without its first steps (the start's records are left as they are)."""
    timed = batch._replace(last_action=None, hidden=None)
    timed = jax.tree.map(lambda leaf: leaf[steps:], timed)
    return timed._replace(last_action=batch.last_action, hidden=batch.hidden)
