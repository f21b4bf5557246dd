"""An environment's own metrics: summed over an episode's steps, counted where the episode is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qmix_jax.envs.base import metric_names
from qmix_jax.envs.probe import Probe
from qmix_jax.envs.wrappers.joint import JointTeam
from qmix_jax.learning.trainer import Trainer
from qmix_jax.run.metrics import score_metric
from qmix_jax.run.program import Program
from qmix_jax.run.snapshot import STATE, state_from_host, state_to_host
from qmix_jax.settings import ConfigError
from qmix_jax.types import Clock


class Counted(Probe):
    """The probe world with a metric that is 1 in every step."""

    def step(self, key, state, action):
        state, observation, outcome = super().step(key, state, action)
        return state, observation, outcome._replace(metrics={**outcome.metrics, "steps": jnp.array(1)})


@pytest.fixture(scope="module")
def trained():
    """The sums of two rollouts, and those of an evaluation."""
    trainer = Trainer(tiny(), Counted(tiny().env.settings))
    state, play = trainer.init(jnp.array(0)), jax.jit(trainer.play)
    rollout, sums = state.rollout, []
    for i in range(2):
        rollout, _, added = play(Clock(jnp.array(i)), state.learner.params, rollout, jax.random.key(i))
        sums.append(added)
    return sums, jax.jit(trainer.evaluate)(Clock(jnp.array(2)), state)


def test_the_names_are_those_of_every_step(probe):
    assert metric_names(probe) == ("win_rate",)
    assert metric_names(Counted(tiny().env.settings)) == ("steps", "win_rate")
    assert metric_names(JointTeam(probe)) == ("win_rate",)


def test_a_metric_is_summed_over_the_steps_of_finished_episodes(trained):
    rollouts, evaluation = trained
    for sums in (*rollouts, evaluation):
        assert sums.episodes > 0 and sums.metrics["steps"] == sums.total_length
        assert 0 <= sums.metrics["win_rate"] <= sums.episodes


def test_a_checkpoint_from_before_there_were_metrics_begins_their_sums_at_zero(probe):
    program = Program.make(tiny(devices=1), probe)
    state = program.init()
    items = state_to_host(state, with_replay=True)
    del items[STATE]["seeds/rollout/episode_metrics/win_rate"]
    restored = state_from_host(items, program.shapes)
    np.testing.assert_array_equal(restored.seeds.rollout.episode_metrics["win_rate"], np.zeros((1, 4)))
    del items[STATE]["seeds/rollout/episode_return"]
    with pytest.raises(ConfigError, match="nothing for seeds/rollout/episode_return"):
        state_from_host(items, program.shapes)


def test_any_metric_of_the_environment_can_choose_the_best_checkpoint(probe):
    by_steps = tiny(checkpoint={"metric": "eval/steps"})
    assert score_metric(tiny(), probe) == "eval/win_rate"
    assert score_metric(by_steps, Counted(tiny().env.settings)) == "eval/steps"
    with pytest.raises(ConfigError, match=r"checkpoint\.metric=eval/steps is not known"):
        score_metric(by_steps, probe)
