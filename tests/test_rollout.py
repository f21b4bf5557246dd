"""Boundaries of sequences and episodes, and recurrent states: the probe world names episode and time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qmix_jax.build import make_env
from qmix_jax.learning.rollout import fresh_episodes_needed
from qmix_jax.learning.trainer import Trainer
from qmix_jax.types import AgentInput, Clock

T, B, ROLLOUTS = 8, 4, 3


class Played:
    """Three rollouts one after the other with the same parameters, joined in time."""

    def __init__(self, config):
        trainer = Trainer(config, make_env(config.env))
        state = trainer.init(jnp.array(0))
        self.agents, self.params = trainer.agents, state.learner.params["agent"]
        play = jax.jit(lambda i, s, k: trainer.play(Clock(i), state.learner.params, s, k))
        rollout, self.sequences, self.sums = state.rollout, [], []
        for i in range(ROLLOUTS):
            rollout, sequence, sums = play(jnp.array(i), rollout, jax.random.key(i))
            self.sequences.append(jax.tree.map(np.asarray, sequence))
            self.sums.append(sums)
        self.num_actions = trainer.env.spec.num_actions

    def joined(self, read):
        return np.concatenate([read(sequence) for sequence in self.sequences])

    @property
    def ended(self):
        return self.joined(lambda s: s.terminated | s.truncated)

    @property
    def first(self):
        return self.joined(lambda s: s.first)

    @property
    def episode(self):
        return self.joined(lambda s: s.observation.agents[:-1, :, 0, 0])

    @property
    def time(self):
        return self.joined(lambda s: s.observation.agents[:-1, :, 0, 1])


@pytest.fixture(scope="module")
def played():
    return Played(tiny())


def test_an_episode_begins_exactly_after_one_ends(played):
    assert played.first[0].all()
    np.testing.assert_array_equal(played.first[1:], played.ended[:-1])
    assert played.ended.any() and not played.ended.all()


def test_first_marks_time_zero_and_nothing_else(played):
    np.testing.assert_array_equal(played.first, played.time == 0)


def test_time_runs_on_within_an_episode_and_its_name_changes_only_at_its_end(played):
    goes_on = ~played.ended[:-1]
    assert (np.diff(played.time, axis=0)[goes_on] == 1).all()
    assert (np.diff(played.episode, axis=0)[goes_on] == 0).all()
    assert (np.diff(played.episode, axis=0)[~goes_on] != 0).all()


def test_every_reward_is_kept_once(played):
    np.testing.assert_array_equal(played.joined(lambda s: s.reward), played.time + 1)


def test_termination_and_truncation_stand_at_the_last_step_and_never_together(played):
    terminated, truncated = played.joined(lambda s: s.terminated), played.joined(lambda s: s.truncated)
    length = played.joined(lambda s: s.observation.state[:-1, :, 2])
    np.testing.assert_array_equal(terminated | truncated, played.time + 1 == length)
    assert not (terminated & truncated).any() and terminated.any() and truncated.any()


def test_the_last_observation_is_the_true_successor_also_after_an_end(played):
    for sequence in played.sequences:
        obs = sequence.observation.agents
        np.testing.assert_array_equal(obs[-1, :, 0, 0], obs[-2, :, 0, 0])
        np.testing.assert_array_equal(obs[-1, :, 0, 1], obs[-2, :, 0, 1] + 1)


def test_no_two_episodes_share_their_start(played):
    names = played.episode[played.first]
    assert len(np.unique(names)) == len(names)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 9])
@pytest.mark.parametrize("ends", ["terminated", "random"])
def test_by_default_every_environment_gets_the_starts_that_it_can_need_and_no_more(length, ends):
    env = make_env(tiny(env={"episode_length": length, "ends": ends}).env)
    shortest = 1 if ends == "random" else length
    assert env.spec.shortest_episode == shortest
    most = max(len(range(first, T, shortest)) for first in range(shortest))  # ends in T steps, the first at any of them
    assert fresh_episodes_needed(shortest, T) == most
    for setting, expected in [(None, most), (1, 1), (1000, most)]:
        config = tiny(env={"episode_length": length, "ends": ends, "starts_per_rollout": setting})
        assert Trainer(config, env).fresh_episodes == expected


def test_no_start_is_repeated_by_default_even_where_every_step_ends_an_episode():
    played = Played(tiny(env={"episode_length": 1, "starts_per_rollout": None}))
    assert len(np.unique(played.episode)) == played.episode.size == ROLLOUTS * T * B


def test_only_available_actions_are_taken(played):
    for s in played.sequences:
        taken = np.take_along_axis(s.observation.available[:-1], s.action[..., None].astype(int), -1)
        assert taken.all()


def test_the_last_action_is_the_one_before_the_sequence(played):
    assert (played.sequences[0].last_action == played.num_actions).all()
    for before, after in zip(played.sequences, played.sequences[1:], strict=False):
        np.testing.assert_array_equal(after.last_action, before.action[-1])


def test_the_stored_recurrent_state_equals_the_one_recomputed_from_the_episodes_start(played):
    last_action = np.concatenate([played.sequences[0].last_action[None], played.joined(lambda s: s.action)[:-1]])
    inputs = AgentInput(played.joined(lambda s: s.observation.agents[:-1]), last_action, played.first)
    inputs = jax.tree.map(jnp.asarray, inputs)
    _, output = played.agents.unroll(played.params, played.agents.initial_state(B), inputs)
    for i in range(1, ROLLOUTS):
        np.testing.assert_allclose(played.sequences[i].hidden, output.features[i * T - 1], atol=1e-5)
    assert np.abs(played.sequences[1].hidden).max() > 0.01


def test_episode_sums_count_each_finished_episode_once(played):
    lengths = played.time[played.ended] + 1
    assert sum(s.episodes for s in played.sums) == len(lengths)
    assert sum(s.total_length for s in played.sums) == lengths.sum()
    assert sum(s.total_return for s in played.sums) == (lengths * (lengths + 1) / 2).sum()
    first_agents_action = played.joined(lambda s: s.action[:, :, 0])[played.ended]
    assert sum(s.metrics["win_rate"] for s in played.sums) == (first_agents_action == 0).sum()


def test_whole_episodes_start_afresh_and_count_their_first_only():
    played = Played(tiny(rollout={"whole_episodes": True}))
    for sequence, sums in zip(played.sequences, played.sums, strict=True):
        assert sequence.first[0].all() and (sequence.hidden == 0).all()
        assert (sequence.last_action == played.num_actions).all()
        assert sums.episodes == B  # every episode is shorter than the rollout, and the later ones do not count
