"""The schedule of a run, checked before it starts: updates, evaluations, and events that the run is too short for."""

import math
from typing import NamedTuple

from qmix_jax.config import Config
from qmix_jax.settings import require


class Learning(NamedTuple):
    """When a run updates, in environment steps."""

    start: int
    """The start of the first iteration that may update; the end of the run where none may."""
    updates: int
    """The number of updates."""
    first: int
    """The start of the iteration with the first update."""


def learning(config: Config) -> Learning:
    """When the run updates, counted as `Trainer` counts (for a resumed run as if its replay was saved)."""
    every, iteration, end = config.learner.env_steps_per_update, config.iteration_env_steps, config.trained_env_steps
    start = min(max(math.ceil(config.learner.start_env_steps / iteration) - 1, 0) * iteration, end)
    first_due = (start // every + 1) * every
    first = (math.ceil(first_due / iteration) - 1) * iteration
    return Learning(start, int(end // every - start // every), int(first))


def check(config: Config) -> None:
    """Raise ConfigError where training would end without an update, or the replay is smaller than a batch."""
    learner, end, total = config.learner, config.trained_env_steps, config.total_env_steps
    start, updates, _ = learning(config)
    enough = math.ceil(learner.start_env_steps + learner.env_steps_per_update)
    require(
        start < end,
        f"nothing would be learnt: total_env_steps={total} ends before learner.start_env_steps="
        f"{learner.start_env_steps}; set total_env_steps={enough} or more, or learner.start_env_steps={total // 10}",
    )
    require(
        updates > 0,
        f"nothing would be learnt: total_env_steps={total} and learner.start_env_steps={learner.start_env_steps} leave "
        f"no update, with learner.env_steps_per_update={learner.env_steps_per_update:g}; set total_env_steps={enough} "
        f"or more, or learner.env_steps_per_update={end - start} or less",
    )
    kept, batch = config.replay_sequences, learner.batch_size
    require(
        kept >= batch or not config.has_replay,
        f"replay.capacity={config.replay.capacity} keeps {kept} sequences of {config.rollout.num_steps} steps, fewer "
        f"than learner.batch_size={batch}; set learner.batch_size={kept} or less, or replay.capacity="
        f"{math.ceil(batch / config.rollout.num_envs) * config.iteration_env_steps} or more",
    )


def rounding(config: Config) -> list[str]:
    """A line with the environment steps that the run trains, where they are more than `total_env_steps`."""
    total, end = config.total_env_steps, config.trained_env_steps
    chunks = f"{config.num_chunks} x {config.chunk_env_steps:,}, in whole rollouts of {config.iteration_env_steps:,}"
    return [f"total_env_steps={total:,} becomes {end:,}: {chunks}"] if total != end else []


def warnings(config: Config) -> list[str]:
    """What the settings schedule after the end of the run, a line each."""
    end, every = config.trained_env_steps, config.evaluation.every_env_steps
    exploration, target, batch_size = config.exploration, config.target, config.learner.batch_size
    start, finish, decay = exploration.start, exploration.finish, exploration.decay_env_steps
    first, gathered = learning(config).first, end // config.rollout.num_steps
    reached = start + (finish - start) * end / max(decay, 1)
    found = {
        f"epsilon ends at {reached:.2g} instead of exploration.finish={finish:g}: "
        f"exploration.decay_env_steps={decay} is longer than the run of {end:,} environment steps": (
            start != finish and decay > end
        ),
        f"one evaluation only, at the end: evaluation.every_env_steps={every} is longer than the run of {end:,} "
        "environment steps": every > end,
        f"the target network is never updated: learning starts at step {first:,} and the run ends at {end:,}, with no "
        f"multiple of target.every_env_steps={target.every_env_steps} between": (
            target.mode == "hard" and end // target.every_env_steps <= first // target.every_env_steps
        ),
        f"every batch repeats sequences: the run of {end:,} environment steps has {gathered}, fewer than "
        f"learner.batch_size={batch_size}": config.has_replay and gathered < batch_size,
    }
    return [line for line, applies in found.items() if applies]
