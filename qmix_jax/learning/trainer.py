"""One iteration of training: rollout -> replay.insert -> (sample -> learn) x K -> target sync."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from qmix_jax.actions import epsilon_greedy, together, uniform
from qmix_jax.agents.base import Agents
from qmix_jax.build import make_agents, make_mixer
from qmix_jax.config import Config
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning import rollout as rollouts
from qmix_jax.learning.evaluate import evaluate
from qmix_jax.learning.exploration import epsilon_at, team_actions
from qmix_jax.learning.learner import Learner, LearnerState, LossMetrics
from qmix_jax.learning.replay import ReplayBuffer, SequenceFormat, minibatch
from qmix_jax.learning.rollout import EpisodeSums, RolloutState
from qmix_jax.settings import LARGEST_INT
from qmix_jax.traced import numbers_of_env, with_numbers
from qmix_jax.types import AgentInput, Clock, Params, RecurrentState, Sequence, swap_time_and_batch, tree_where


class SeedState(NamedTuple):
    """One seed's whole training state; under the mesh its leaves get a leading axis S."""

    key: jax.Array
    learner: LearnerState
    rollout: RolloutState
    replay: Sequence | None
    """Rows of sequences (C, ...); None without replay."""


class StepMetrics(NamedTuple):
    """The metrics of one iteration."""

    episodes: EpisodeSums
    losses: LossMetrics
    """Sums over the iteration's updates."""
    updates: Int[Array, ""]


def multiples_passed(every: int | float, before: Int[Array, "*times"], after: Int[Array, "*times"]) -> Array:
    """How many multiples of `every` lie in (before, after].

    They are counted in integers, as float32 cannot beyond 2^24; `every` is the nearest fraction with which int32 can.
    """
    fraction = Fraction(every).limit_denominator(max(math.isqrt(int(LARGEST_INT / every)), 1))
    step, parts = fraction.numerator, fraction.denominator

    def passed(env_steps: Array) -> Array:
        return env_steps // step * parts + env_steps % step * parts // step if parts > 1 else env_steps // step

    return passed(after) - passed(before)


@dataclass(frozen=True)
class Trainer:
    """The training program of one seed on one of `num_data` devices, as pure functions.

    `num_envs`, `batch_size` and the replay's capacity are global in the config; each device holds its share.
    """

    config: Config
    env: TeamEnv
    num_data: int = 1
    axis: str | None = None
    branches: bool = True
    """Whether the device itself can branch, as a CPU can. An accelerator waits for the host at every branch and every
    loop of unknown length. Without branches it computes updates that are not due and drops them, and plays every
    evaluation up to the episode limit.
    """

    def with_numbers(self, numbers: Mapping[str, Any]) -> "Trainer":
        """The trainer with these numbers, `traced.numbers` or tracers for them, in place of its settings' own."""
        env = self.env.with_numbers(numbers_of_env(numbers))
        return replace(self, config=with_numbers(self.config, numbers), env=env)

    @property
    def agents(self) -> Agents:
        """The team's networks."""
        return make_agents(self.config.agent, self.env)

    @property
    def learner(self) -> Learner:
        """The loss and the update."""
        config = self.config
        return Learner(
            agents=self.agents,
            mixer=make_mixer(config.algorithm, self.env),
            config=config.learner,
            target=config.target,
            total_env_steps=config.trained_env_steps,
            whole_episodes=config.rollout.whole_episodes,
            axis=self.axis,
        )

    @property
    def num_envs(self) -> int:
        """Environments on this device."""
        return self.config.rollout.num_envs // self.num_data

    @property
    def fresh_episodes(self) -> int:
        """Fresh episodes for each environment before a rollout: no more than it can use."""
        needed = rollouts.fresh_episodes_needed(self.env.spec.shortest_episode, self.config.rollout.num_steps)
        return min(self.config.env.starts_per_rollout or needed, needed)

    @property
    def replay(self) -> ReplayBuffer | None:
        """This device's part of the replay buffer; None: updates use the newest rollout alone."""
        capacity = self.config.replay_sequences // self.num_data
        return ReplayBuffer(capacity, self.num_envs) if self.config.has_replay else None

    @property
    def format(self) -> SequenceFormat:
        """The form in which sequences are kept until an update."""
        return SequenceFormat(self.env, self.config.replay.dtype)

    def row(self) -> Sequence:
        """The shapes of one sequence in replay."""
        state = jax.eval_shape(lambda: self.agents.initial_state(1))
        return self.format.example(self.config.rollout.num_steps, state)

    # --- time and randomness -------------------------------------------------------------------------------------

    def env_steps(self, clock: Clock) -> Int[Array, ""]:
        """Environment steps taken so far, over all devices."""
        return clock.iteration * self.config.iteration_env_steps

    def key(self, state: SeedState, clock: Clock, is_evaluation: bool = False) -> jax.Array:
        """This device's own key for an iteration, or for the evaluation after it."""
        number = clock.iteration * self.num_data + self._device
        return jax.random.fold_in(state.key, -1 - number if is_evaluation else number)

    @property
    def _device(self) -> int | Array:
        """The number of this device among those that share the seed."""
        return 0 if self.axis is None else lax.axis_index(self.axis)

    # --- an iteration --------------------------------------------------------------------------------------------

    def init(self, seed: Int[Array, ""]) -> SeedState:
        """A seed's training state before the first step."""
        key = jax.random.key(seed)
        network_key, env_key = jax.random.split(jax.random.fold_in(key, 2**31 - 1))
        return SeedState(
            key=key,
            learner=self.learner.init(network_key),
            rollout=self.fresh_rollout(jax.random.fold_in(env_key, self._device)),
            replay=self.replay.init(self.row()) if self.replay else None,
        )

    def fresh_rollout(self, key: jax.Array) -> RolloutState:
        """Every environment at the start of an episode."""
        return rollouts.init(self.env, key, self.num_envs, self.agents.initial_state(self.num_envs))

    def step(self, clock: Clock, state: SeedState) -> tuple[SeedState, StepMetrics]:
        """One iteration."""
        rollout_key, sample_key = jax.random.split(self.key(state, clock))
        before, after = self.env_steps(clock), self.env_steps(Clock(clock.iteration + 1))
        rollout_state, sequence, episodes = self.play(clock, state.learner.params, state.rollout, rollout_key)
        sequences, buffer = self.format.to_rows(sequence), None
        if self.replay:
            sequences = buffer = self.replay.insert(state.replay, sequences, clock.iteration - clock.replay_start)
        learner, losses, updates = self._learn(clock, state.learner, sequences, sample_key)
        learner = self._sync_target(learner, before, after)
        return SeedState(state.key, learner, rollout_state, buffer), StepMetrics(episodes, losses, updates)

    @jax.named_scope("play")
    def play(
        self, clock: Clock, params: Params, state: RolloutState, key: jax.Array
    ) -> tuple[RolloutState, Sequence, EpisodeSums]:
        """T steps by the epsilon-greedy policy; epsilon moves with every environment step."""
        config, agents = self.config, self.agents
        noise_key, env_key, restart_key = jax.random.split(key, 3)
        num_steps, num_envs = config.rollout.num_steps, self.num_envs
        env_steps = self.env_steps(clock) + jnp.arange(num_steps) * config.rollout.num_envs
        noise = uniform(noise_key, (num_steps, 2, num_envs, self.env.spec.num_agents))

        def policy(
            state: RecurrentState, inputs: AgentInput, available: Array, per_step: Any
        ) -> tuple[RecurrentState, Array]:
            noise, epsilon, team_action = per_step
            state, output = agents.step(params["agent"], state, inputs)
            action = epsilon_greedy(noise, output.q, available, epsilon)
            return state, action if team_action is None else together(action, team_action, available)

        team_action = None
        if config.exploration.team_epsilon:
            team_key, num_actions = jax.random.fold_in(noise_key, 1), self.env.spec.num_actions
            team_action = team_actions(team_key, config.exploration, num_steps, num_envs, num_actions)
        per_step = (noise, epsilon_at(config.exploration, env_steps), team_action)
        return self.rollout(policy, env_key, restart_key, state, per_step)

    def rollout(
        self, policy: rollouts.Policy, key: jax.Array, restart_key: jax.Array, state: RolloutState, per_step: Any
    ) -> tuple[RolloutState, Sequence, EpisodeSums]:
        """T steps by any policy (see `rollouts.rollout`), with whole episodes from fresh ones."""
        whole_episodes = self.config.rollout.whole_episodes
        if whole_episodes:
            state = self.fresh_rollout(restart_key)
        return rollouts.rollout(self.env, policy, key, state, per_step, self.fresh_episodes, whole_episodes)

    def sample(
        self, sequences: Sequence, inserts: Int[Array, ""], index: Int[Array, ""], key: jax.Array, own_key: jax.Array
    ) -> Sequence:
        """The batch (T, B, ...) of one update, with compact observations: drawn from replay after so many inserts, or
        without replay the `index`-th minibatch of the newest rollout.

        Args:
            sequences: the replay buffer, or the newest rollout as rows.
            inserts: how many rollouts the buffer has taken in.
            index: the number of the update in its iteration.
            key: of all updates of the iteration.
            own_key: of this update.
        """
        batch_size = self.config.learner.batch_size // self.num_data
        if self.replay:
            return swap_time_and_batch(self.replay.sample(own_key, sequences, inserts, batch_size))
        return swap_time_and_batch(minibatch(key, sequences, index, batch_size))

    @jax.named_scope("learn")
    def _learn(
        self, clock: Clock, learner: LearnerState, sequences: Sequence, key: jax.Array
    ) -> tuple[LearnerState, LossMetrics, Int[Array, ""]]:
        """The updates that are due in this iteration, and how many they are; the metrics are sums over them.

        None is due before replay has taken in `start_env_steps`, also where a run was resumed without its replay.
        `sequences` is the replay buffer, or without one the newest rollout.
        """
        config = self.config.learner
        before, after = self.env_steps(clock), self.env_steps(Clock(clock.iteration + 1))
        inserts = clock.iteration + 1 - clock.replay_start
        is_ready = self.env_steps(Clock(inserts)) >= config.start_env_steps
        due = jnp.where(is_ready, multiples_passed(config.env_steps_per_update, before, after), 0)

        def update(learner: LearnerState, index: Array, own_key: jax.Array) -> tuple[LearnerState, LossMetrics]:
            batch = self.sample(sequences, inserts, index, key, own_key)
            return self.learner.update(learner, self.format.decompress(batch), after)

        def skip(learner: LearnerState, index: Array, own_key: jax.Array) -> tuple[LearnerState, LossMetrics]:
            del index, own_key
            return learner, LossMetrics.zeros()

        def update_if_due(learner, inputs):
            return self._when(inputs[0] < due, update, skip, learner, *inputs)

        most = self.config.max_updates_per_iteration
        learner, losses = lax.scan(update_if_due, learner, (jnp.arange(most), jax.random.split(key, most)))
        return learner, jax.tree.map(jnp.sum, losses), due

    def _when(self, condition: Array, yes: Callable, no: Callable, *args: Any) -> Any:
        """`yes(*args)` where the condition holds, else `no(*args)`. Without branches both are computed, but only where
        every iteration makes equally many updates, so that only those before learning starts are wasted.
        """
        config = self.config
        if self.branches or config.iteration_env_steps % config.learner.env_steps_per_update:
            return lax.cond(condition, yes, no, *args)
        return tree_where(condition, yes(*args), no(*args))

    def _sync_target(self, learner: LearnerState, before: Array, after: Array) -> LearnerState:
        """Hard sync of agent and mixer together, in the iteration that passes a multiple of `every_env_steps`."""
        if self.config.target.mode != "hard":
            return learner
        due = multiples_passed(self.config.target.every_env_steps, before, after) > 0
        target = tree_where(due, learner.params, learner.target_params)  # a branch copies more than it saves
        return learner._replace(target_params=target)

    @jax.named_scope("evaluate")
    def evaluate(self, clock: Clock, state: SeedState) -> EpisodeSums:
        """Greedy episodes with the current parameters; this device's share of them."""
        key = self.key(state, clock, is_evaluation=True)
        episodes = self.config.evaluation.episodes // self.num_data
        params = state.learner.params["agent"]
        return evaluate(self.env, self.agents, params, key, episodes, fixed_length=not self.branches)
