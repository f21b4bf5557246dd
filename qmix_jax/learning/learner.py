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

from qmix_jax.actions import greedy
from qmix_jax.agents.base import Agents
from qmix_jax.config import LearnerConfig, TargetConfig
from qmix_jax.learning.exploration import linear
from qmix_jax.learning.losses import LOSSES
from qmix_jax.learning.targets import bootstrap_cuts, first_episode, lambda_targets
from qmix_jax.mixers.base import Mixer, mixer_input
from qmix_jax.types import AgentInput, AgentOutput, MixerInput, Params, Sequence, TeamSpec

NOW, NEXT, ALWAYS = slice(None, -1), slice(1, None), slice(None)
"""Of T+1 times: before each step, after each step, and all."""


class LearnerState(NamedTuple):
    """What updates change. Each field is one tree of all networks: {"agent": ..., "mixer": ...}, and with weighted QMIX
    "central", which holds the same two for Q*.
    """

    params: Params
    target_params: Params
    """None without a target network."""
    opt_state: Any
    """The optimiser's, for all parameters as one vector."""


class LossMetrics(NamedTuple):
    """The metrics of an update: means over the errors of the batch."""

    loss: Float[Array, ""]
    td_error: Float[Array, ""]
    """Mean absolute error."""
    q_mean: Float[Array, ""]
    target_mean: Float[Array, ""]
    grad_norm: Float[Array, ""]
    """Before clipping, over agent and mixer together."""

    @classmethod
    def zeros(cls) -> "LossMetrics":
        """The metrics of no update."""
        return cls(*[jnp.zeros(())] * len(cls._fields))


class LossSums(NamedTuple):
    """Sums over the errors of a batch, or of a device's share of it."""

    metrics: LossMetrics
    """Not yet averaged."""
    num_errors: Float[Array, ""]
    """How many errors there are."""


class Estimates(NamedTuple):
    """The networks' values of T steps."""

    chosen: Float[Array, "T B K"]
    """The online network's, of the joint action that was taken."""
    best: Float[Array, "T+1 B K"]
    """The target network's, of the greedy joint action, without gradient. Of Q*, where there is one."""
    is_best: Bool[Array, "T B 1"]
    """Whether the greedy joint action was taken."""
    penalty: Float[Array, "T B 1"]
    """The mixer's."""
    central: Float[Array, "T B 1"] | None
    """The online Q* of weighted QMIX, of the joint action that was taken."""


def sum_over_devices(tree: Any, axis: str | None) -> Any:
    """The sum of every leaf over the devices along `axis`; None: this device alone.

    All leaves travel as one vector, in one all-reduce: the number of all-reduces is what costs time.
    """
    if axis is None:
        return tree
    vector, unravel = ravel_pytree(tree)
    return unravel(lax.psum(vector, axis))


def make_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Clip by the norm, then scale as the named optimiser does; `update` applies the learning rate. All parameters are
    one vector, which compiles a second faster than array by array.
    """
    scale = {
        "adam": optax.scale_by_adam(eps=config.adam_epsilon),
        "radam": optax.scale_by_radam(eps=config.adam_epsilon),
        "rmsprop": optax.scale_by_rms(decay=0.99, eps=config.adam_epsilon, eps_in_sqrt=False),
    }
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), scale[config.optimizer])


@dataclass(frozen=True)
class Learner:
    """Double Q-learning on lambda targets, for the value streams of any mixer."""

    agents: Agents
    mixer: Mixer
    config: LearnerConfig
    target: TargetConfig
    total_env_steps: int
    """Where the decay of the learning rate ends."""
    whole_episodes: bool = False
    """Learn only from the first episode of every sequence."""
    axis: str | None = None
    """The device axis over which a batch is split: the update is the one of the whole batch."""

    @property
    def spec(self) -> TeamSpec:
        """The team's sizes."""
        return self.agents.spec

    @property
    def central(self) -> "Learner | None":
        """The unrestricted Q* of weighted QMIX as a learner of its own, whose parameters are `params["central"]`."""
        mixer = self.mixer.central
        return None if mixer is None else dataclasses.replace(self, mixer=mixer)

    # --- parameters ----------------------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> LearnerState:
        """Fresh parameters; the target starts as a copy."""
        params = self._init_params(key)
        target_params = None if self.target.mode == "none" else jax.tree.map(jnp.copy, params)
        return LearnerState(params, target_params, make_optimizer(self.config).init(ravel_pytree(params)[0]))

    def _init_params(self, key: jax.Array) -> dict[str, Params]:
        agent_key, mixer_key = jax.random.split(key)
        agent_params = self.agents.init(agent_key)
        params = {"agent": agent_params, "mixer": self.mixer.init(mixer_key, self._zero_input(agent_params))}
        if self.central:
            params["central"] = self.central._init_params(jax.random.fold_in(key, 0))
        return params

    def _zero_input(self, agent_params: Params) -> MixerInput:
        """A mixer's input of the right shapes, for one time."""
        spec, one = self.spec, (1, self.spec.num_agents)
        inputs = AgentInput(jnp.zeros((*one, spec.obs_size)), jnp.zeros(one, int), jnp.zeros(1, bool))
        step = jax.eval_shape(lambda: self.agents.step(agent_params, self.agents.initial_state(1), inputs))
        return MixerInput(
            chosen_q=jnp.zeros(one),
            greedy_q=jnp.zeros(one),
            action=jnp.zeros((*one, spec.num_actions)),
            is_greedy=jnp.zeros(one, bool),
            hidden=jnp.zeros(step[1].features.shape),
            state=jnp.zeros((1, spec.state_size)),
        )

    # --- the update ----------------------------------------------------------------------------------------------

    def update(
        self, state: LearnerState, batch: Sequence, env_steps: Int[Array, ""]
    ) -> tuple[LearnerState, LossMetrics]:
        """One gradient step on a batch of sequences (T, B, ...)."""
        grads_and_sums = jax.grad(self.loss, has_aux=True)(state.params, state.target_params, batch)
        vector, unravel_sums = ravel_pytree(grads_and_sums)  # the gradient stays a vector until the last step
        vector = sum_over_devices(vector, self.axis)
        sums: LossSums = unravel_sums(vector)[1]
        flat, unravel = ravel_pytree(state.params)
        count = jnp.maximum(sums.num_errors, 1.0)
        gradient, metrics = jax.tree.map(lambda total: total / count, (vector[: flat.size], sums.metrics))
        updates, opt_state = make_optimizer(self.config).update(gradient, state.opt_state)
        rate = self.learning_rate(env_steps)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, unravel(updates))  # pyright: ignore[reportArgumentType]
        target_params = state.target_params
        if self.target.mode == "soft":
            tau, kept = self.target.tau, self.target.kept
            target_params = jax.tree.map(lambda new, old: tau * new + kept * old, params, target_params)
        metrics = metrics._replace(grad_norm=optax.global_norm(gradient))
        return LearnerState(params, target_params, opt_state), metrics

    def learning_rate(self, env_steps: Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate after so many environment steps."""
        config = self.config
        return linear(config.learning_rate, config.learning_rate_change, env_steps, self.total_env_steps)

    def loss(self, params: Params, target_params: Params, batch: Sequence) -> tuple[Float[Array, ""], LossSums]:
        """The loss, summed over this device's share of the batch, and the other sums over it.

            L = sum over valid t, b and streams k of loss(Q_k(s_t, u_t) - G_k,t) + the mixer's penalty

        with `learner.loss` (the square by default) and the lambda targets G of the target network's value of the greedy
        joint action. With double Q-learning the greedy action is the online network's, among the next step's legal
        ones. Weighted QMIX weights each error's loss, and learns Q*, which makes the targets, with the loss
        loss(Q* - G) beside it (see `qmix_jax.mixers.weighted`).
        """
        estimates = self._estimates(params, target_params, batch)
        targets, weight = self._targets(batch, estimates.best[NEXT])
        error = estimates.chosen - targets
        cost = LOSSES[self.config.loss](error)
        if estimates.central is not None:
            importance = self.mixer.importance(estimates.chosen, targets, estimates.best[NOW], estimates.is_best)
            central_cost = LOSSES[self.config.loss](estimates.central - targets)
            cost = lax.stop_gradient(importance) * cost + central_cost
        cost = cost + estimates.penalty

        def total(x):
            return jnp.sum(weight[..., None] * x)

        loss = total(cost)
        metrics = LossMetrics(loss, total(jnp.abs(error)), total(estimates.chosen), total(targets), jnp.zeros(()))
        return loss, lax.stop_gradient(LossSums(metrics, total(jnp.ones_like(error))))

    # --- values --------------------------------------------------------------------------------------------------

    def _estimates(self, params: Params, target_params: Params, batch: Sequence) -> Estimates:
        """The values of the steps behind the burn-in, by the online and the target networks."""
        if self.target.mode == "none":
            target_params = params
        online, target = self._unroll_both(params, target_params, batch)
        kept = _skip(batch, self.config.burn_in)
        best = greedy(lax.stop_gradient(online.q), kept.observation.available)
        successor = best if self.config.double_q else greedy(target.q, kept.observation.available)
        chosen_input = _mixer_input(online, kept, NOW, kept.action, best)
        best_input = _mixer_input(online, kept, NOW, best[NOW], best)
        if self.central is None:
            target_input = _mixer_input(target, kept, ALWAYS, successor, successor)
            central, best_value = None, self._mix(target_params, target_input)
        else:
            central, best_value = self.central._central(params["central"], target_params["central"], batch, successor)
        return Estimates(
            chosen=self._mix(params, chosen_input),
            best=lax.stop_gradient(best_value),
            is_best=jnp.all(kept.action == best[NOW], axis=-1, keepdims=True),
            penalty=self._mix(params, chosen_input, best_input, method="penalty")[..., None],
            central=central,
        )

    def _central(
        self, params: Params, target_params: Params, batch: Sequence, best: Int[Array, "times B N"]
    ) -> tuple[Float[Array, "T B 1"], Float[Array, "times B 1"]]:
        """As Q*: the online value of the joint action that was taken, and the target network's value of `best`, the one
        that is greedy by the acting agents, at all T+1 times.
        """
        fresh = batch._replace(hidden=self.agents.initial_state(batch.reward.shape[1]))
        online, target = self._unroll_both(params, target_params, fresh)
        kept = _skip(batch, self.config.burn_in)
        chosen = self._mix(params, _mixer_input(online, kept, NOW, kept.action, best))
        return chosen, self._mix(target_params, _mixer_input(target, kept, ALWAYS, best, best))

    def _unroll_both(self, params: Params, target_params: Params, batch: Sequence) -> tuple[AgentOutput, AgentOutput]:
        """The online network's outputs, and without gradient the target network's (or the online one's again)."""
        online = self._unroll(params, batch)
        target = online if self.target.mode == "none" else self._unroll(target_params, batch, is_target=True)
        return online, lax.stop_gradient(target)

    @jax.named_scope("agents")
    def _unroll(self, params: Params, batch: Sequence, is_target: bool = False) -> AgentOutput:
        """The agents' outputs (T+1, B, ...) at the observations behind the burn-in, which passes no gradient. The last
        observation, which is a successor only, passes none either: the online network takes it in a step of its own.
        """
        no = jnp.zeros_like(batch.first[:1])
        inputs = AgentInput(
            obs=batch.observation.agents,
            last_action=jnp.concatenate([batch.last_action[None], batch.action]),
            first=jnp.concatenate([batch.first, no]),  # the last observation is the true successor
        )
        agent, state, burn_in = params["agent"], batch.hidden, self.config.burn_in
        fixed = lax.stop_gradient(agent)
        if burn_in:
            state, _ = self.agents.unroll(fixed, state, _times(inputs, slice(burn_in)))
        if is_target:
            return self.agents.unroll(fixed, state, _times(inputs, slice(burn_in, None)))[1]
        state, steps = self.agents.unroll(agent, state, _times(inputs, slice(burn_in, -1)))
        _, last = self.agents.step(fixed, lax.stop_gradient(state), _times(inputs, -1))
        return jax.tree.map(lambda before, after: jnp.concatenate([before, after[None]]), steps, last)

    def _mix(self, params: Params, *inputs: MixerInput, method: str = "__call__") -> Array:
        """The mixer's value streams (T, B, K), or the result of another of its methods."""
        return self.mixer.apply(params["mixer"], *inputs, method=method)  # pyright: ignore[reportReturnType]

    # --- targets -------------------------------------------------------------------------------------------------

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


def _mixer_input(output: AgentOutput, batch: Sequence, times: slice, action: Array, best: Array) -> MixerInput:
    """Of a joint action (T, B, N) at `times`, where `best` is the greedy one at all T+1 times."""
    at = _times(output, times)
    return mixer_input(at.q, at.features, action, best[times], _times(batch.observation, times))


def _times(tree: Any, times: slice | int) -> Any:
    """Every leaf at those times."""
    return jax.tree.map(lambda leaf: leaf[times], tree)


def _skip(batch: Sequence, steps: int) -> Sequence:
    """The batch without its first steps; `last_action` and `hidden` stay those before its first step."""
    timed = batch._replace(last_action=None, hidden=None)
    return _times(timed, slice(steps, None))._replace(last_action=batch.last_action, hidden=batch.hidden)
