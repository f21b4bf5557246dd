"""One iteration of training, and a chunk of them: rollout -> insert -> (sample -> learn) x K -> target sync."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from qmix_jax.agents import AgentInput, Agents
from qmix_jax.build import make_agents, make_mixer
from qmix_jax.config import Config
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning import replay
from qmix_jax.learning.evaluate import evaluate
from qmix_jax.learning.exploration import epsilon_at, epsilon_greedy, uniform
from qmix_jax.learning.learner import Learner, LearnerState, LossMetrics
from qmix_jax.learning.rollout import EpisodeSums, RolloutState, restart, rollout, starts_needed
from qmix_jax.learning.rollout import init as init_rollout
from qmix_jax.types import Clock, CompactObservation, Params, Sequence, action_dtype, choose, swap_time_and_batch


class SeedState(NamedTuple):
    """One seed's whole training state; under the mesh its leaves get a leading axis S."""

    key: jax.Array
    learner: LearnerState
    rollout: RolloutState
    replay: Sequence | None
    """Rows of sequences (C, ...); None without replay."""


class StepMetrics(NamedTuple):
    """What one iteration tells."""

    episodes: EpisodeSums
    losses: LossMetrics
    """Sums over the iteration's updates."""
    updates: Int[Array, ""]


def fires(every: int | float, before: Int[Array, "*times"], after: Int[Array, "*times"]) -> Array:
    """How many multiples of `every` lie in (before, after]."""
    if float(every).is_integer():
        return after // int(every) - before // int(every)
    return jnp.floor(after / every).astype(int) - jnp.floor(before / every).astype(int)


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
    """Whether the device itself decides where the program goes on, as a CPU does. An accelerator waits for the host
    at every branch and at every loop of unknown length. So without branches it makes updates that are not due yet, and
    drops them, and plays evaluations to the episode limit.
    """

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
    def starts(self) -> int:
        """Fresh episodes that each environment gets before a rollout: none that it could not use."""
        needed = starts_needed(self.env.spec.shortest_episode, self.config.rollout.num_steps)
        return min(self.config.env.starts_per_rollout or needed, needed)

    def env_steps(self, clock: Clock) -> Int[Array, ""]:
        """Environment steps taken so far, over all devices."""
        return clock.iteration * self.config.iteration_env_steps

    def key(self, state: SeedState, clock: Clock, is_evaluation: bool = False) -> jax.Array:
        """This device's own key for an iteration, or for the evaluation after it."""
        device = 0 if self.axis is None else lax.axis_index(self.axis)
        number = clock.iteration * self.num_data + device
        return jax.random.fold_in(state.key, -1 - number if is_evaluation else number)

    def init(self, seed: Int[Array, ""]) -> SeedState:
        """A seed's training state before the first step."""
        key = jax.random.key(seed)
        network_key, env_key = jax.random.split(jax.random.fold_in(key, 2**31 - 1))
        device = 0 if self.axis is None else lax.axis_index(self.axis)
        device_key = jax.random.fold_in(env_key, device)
        env_state = init_rollout(self.env, device_key, self.agents.initial_hidden(self.num_envs))
        capacity = self.config.replay_sequences // self.num_data
        memory = replay.init(self.row(), capacity) if self.config.has_replay else None
        return SeedState(key, self.learner.init(network_key), env_state, memory)

    def row(self) -> Sequence:
        """The shapes of one sequence in replay."""
        spec, time = self.env.spec, self.config.rollout.num_steps

        def shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
            return jax.ShapeDtypeStruct(sizes, dtype)

        memory = jax.eval_shape(lambda key: self._store(self.env.compress(*self.env.reset(key))), jax.random.key(0))
        return Sequence(
            observation=jax.tree.map(lambda leaf: shape(time + 1, *leaf.shape, dtype=leaf.dtype), memory),
            action=shape(time, spec.num_agents, dtype=action_dtype(spec)),
            reward=shape(time),
            first=shape(time, dtype=bool),
            terminated=shape(time, dtype=bool),
            truncated=shape(time, dtype=bool),
            last_action=shape(spec.num_agents, dtype=action_dtype(spec)),
            hidden=shape(spec.num_agents, self.config.agent.hidden_size),
        )

    def _store(self, memory: CompactObservation) -> CompactObservation:
        """What the environment remembers, in the precision that replay keeps."""
        dtype = jnp.dtype(self.config.replay.dtype)
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == jnp.float32 else leaf, memory)

    def rows(self, sequence: Sequence) -> Sequence:
        """Rows for replay of a rollout's sequences (T, B, ...)."""
        return swap_time_and_batch(sequence._replace(observation=self._store(sequence.observation)))

    def recall(self, batch: Sequence) -> Sequence:
        """A batch (T, B, ...) with the observations that its memories stand for."""
        memory = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf, batch.observation
        )
        return batch._replace(observation=jax.vmap(jax.vmap(self.env.decompress))(memory))

    def step(self, clock: Clock, state: SeedState) -> tuple[SeedState, StepMetrics]:
        """One iteration."""
        rollout_key, sample_key = jax.random.split(self.key(state, clock))
        before, after = self.env_steps(clock), self.env_steps(Clock(clock.iteration + 1))
        rollout_state, sequence, episodes = self.play(clock, state.learner.params, state.rollout, rollout_key)
        newest = self.rows(sequence)
        memory = replay.insert(state.replay, newest, self._cursor(clock)) if self.config.has_replay else None
        learner, losses, updates = self._learn(clock, state.learner, newest if memory is None else memory, sample_key)
        learner = self._sync_target(learner, before, after)
        return SeedState(state.key, learner, rollout_state, memory), StepMetrics(episodes, losses, updates)

    @jax.named_scope("play")
    def play(
        self, clock: Clock, params: Params, state: RolloutState, key: jax.Array
    ) -> tuple[RolloutState, Sequence, EpisodeSums]:
        """T steps of epsilon-greedy play; epsilon moves with every environment step."""
        config, env, agents = self.config, self.env, self.agents
        noise_key, env_key, restart_key = jax.random.split(key, 3)
        num_steps, num_envs = config.rollout.num_steps, self.num_envs
        env_steps = self.env_steps(clock) + jnp.arange(num_steps) * config.rollout.num_envs
        noise = uniform(noise_key, (num_steps, 2, num_envs, env.spec.num_agents))

        def policy(hidden: Array, inputs: AgentInput, available: Array, given: Any) -> tuple[Array, Array]:
            noise, epsilon = given
            hidden, q = agents.step(params["agent"], hidden, inputs)
            return hidden, epsilon_greedy(noise, q, available, epsilon)

        if config.rollout.whole_episodes:
            state = restart(env, restart_key, state)
        given = (noise, epsilon_at(config.exploration, env_steps))
        return rollout(env, policy, env_key, state, given, self.starts, config.rollout.whole_episodes)

    def _cursor(self, clock: Clock) -> Int[Array, ""]:
        """The row of replay that the iteration writes first."""
        rollouts = self.config.replay_sequences // self.config.rollout.num_envs
        return (clock.iteration - clock.replay_start) % rollouts * self.num_envs

    @jax.named_scope("learn")
    def _learn(
        self, clock: Clock, learner: LearnerState, memory: Sequence, key: jax.Array
    ) -> tuple[LearnerState, LossMetrics, Int[Array, ""]]:
        """The updates that fall due with this iteration; the metrics are sums over them.

        None does before replay has taken in `start_env_steps`, also where it began anew with a resumed run. `memory` is
        the replay, or without one the newest rollout.
        """
        config = self.config.learner
        before, after = self.env_steps(clock), self.env_steps(Clock(clock.iteration + 1))
        rollouts = clock.iteration + 1 - clock.replay_start
        is_ready = self.env_steps(Clock(rollouts)) >= config.start_env_steps
        due = jnp.where(is_ready, fires(config.env_steps_per_update, before, after), 0)
        filled = jnp.minimum(rollouts * self.num_envs, self.config.replay_sequences // self.num_data)
        batch_size = config.batch_size // self.num_data

        def update(learner: LearnerState, index: Array, update_key: jax.Array) -> tuple[LearnerState, LossMetrics]:
            if self.config.has_replay:
                rows = replay.sample(update_key, memory, filled, batch_size)
            else:
                rows = replay.minibatch(key, memory, index, batch_size)
            return self.learner.update(learner, self.recall(swap_time_and_batch(rows)), after)

        def skip(learner: LearnerState, index: Array, update_key: jax.Array) -> tuple[LearnerState, LossMetrics]:
            del index, update_key
            return learner, LossMetrics(*[jnp.zeros(())] * len(LossMetrics._fields))

        def turn(learner, inputs):
            return self._when(inputs[0] < due, update, skip, learner, *inputs)

        most = self.config.max_updates_per_iteration
        learner, losses = lax.scan(turn, learner, (jnp.arange(most), jax.random.split(key, most)))
        return learner, jax.tree.map(jnp.sum, losses), due

    def _when(self, condition: Array, yes: Callable, no: Callable, *args: Any) -> Any:
        """What `yes` makes of the arguments where the condition holds, else what `no` does. Both are made instead of
        branching only where every iteration makes equally many updates, so that all but the first are used.
        """
        config = self.config
        if self.branches or config.iteration_env_steps % config.learner.env_steps_per_update:
            return lax.cond(condition, yes, no, *args)
        return choose(condition, yes(*args), no(*args))

    def _sync_target(self, learner: LearnerState, before: Array, after: Array) -> LearnerState:
        """Hard sync of agent and mixer together, with the iteration that passes a multiple of `every_env_steps`."""
        if self.config.target.mode != "hard":
            return learner
        due = fires(self.config.target.every_env_steps, before, after) > 0
        target = choose(due, learner.params, learner.target_params)  # a branch copies more than it saves
        return learner._replace(target_params=target)

    @jax.named_scope("evaluate")
    def evaluate(self, clock: Clock, state: SeedState) -> EpisodeSums:
        """Greedy episodes with the parameters as they are; this device's share of them."""
        key = self.key(state, clock, is_evaluation=True)
        episodes = self.config.evaluation.episodes // self.num_data
        params = state.learner.params["agent"]
        return evaluate(self.env, self.agents, params, key, episodes, fixed_length=not self.branches)
