"""Where a NaN came from: the environment, and then in which step, or the learner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qmix_jax.config import to_mapping
from qmix_jax.envs.probe import Probe
from qmix_jax.learning.rollout import EpisodeSums
from qmix_jax.records import read_metrics
from qmix_jax.run import exits, experiment
from qmix_jax.run.nan_source import NanSource, find_sources
from qmix_jax.run.program import ChunkMetrics, Program
from qmix_jax.run.snapshot import to_host

EPISODES = {"ends": "terminated", "starts_per_rollout": None}
"""Every episode takes five steps."""


class Broken(Probe):
    """The probe world, whose step 3 gives `value` as reward, as the whole state and in agent 1's observation."""

    def __init__(self, settings, value):
        super().__init__(settings)
        self.value = value

    def step(self, key, state, action):
        state, observation, outcome = super().step(key, state, action)

        def spoil(x):
            return jnp.where(state.time == 3, self.value, x)

        agents = observation.agents.at[1].set(spoil(observation.agents[1]))
        observation = observation._replace(agents=agents, state=spoil(observation.state))
        return state, observation, outcome._replace(reward=spoil(outcome.reward))


def metrics_of(returns):
    """The metrics of a chunk with these sums of returns."""
    return ChunkMetrics(EpisodeSums(None, np.array(returns), None, {}), None, None, None)


# --- in replay ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def search(probe):
    """Finds the sources for two seeds on four devices, in a replay of four slots that iterations 4, 5, 2 and 3 filled,
    after numbers were written over it: {(seed, row, time): value}, by field.
    """
    program = Program.make(tiny(num_seeds=2, devices=4, env=EPISODES), probe)
    state = program.init()
    replay = to_host(state.seeds.replay)
    clock = state.clock._replace(iteration=jnp.array(6))

    def write(leaf, numbers):
        leaf = leaf.copy()
        for place, value in numbers.items():
            leaf[place] = value
        return leaf

    def search(returns=(0.0, 0.0), reward=None, agents=None, state_vector=None, first=None):
        observation = replay.observation._replace(
            agents=write(replay.observation.agents, agents or {}),
            state=write(replay.observation.state, state_vector or {}),
        )
        spoilt = replay._replace(
            observation=observation, reward=write(replay.reward, reward or {}), first=write(replay.first, first or {})
        )
        after = state._replace(clock=clock, seeds=state.seeds._replace(replay=spoilt))
        return find_sources(program, after, None, metrics_of(returns), [0, 1])

    return search


LEARNER = NanSource(None, "observations and rewards in replay are finite, so the learner diverged")


def test_without_a_trace_in_replay_the_learner_diverged(search):
    assert search() == {0: LEARNER, 1: LEARNER}


def test_the_first_number_in_time_counts_wherever_replay_keeps_it(search):
    """Of 16 rows the first device has 0 to 7 and the second 8 to 15; slot j of a device are its rows 2j and 2j + 1.

    Iteration 3 stands in slot 3: row 14 is environment 2 there. An iteration takes 32 environment steps, a step 4.
    """
    sources = search(
        reward={(1, 2, 0): np.inf},  # iteration 5
        state_vector={(1, 14, 4, 2): np.nan},  # iteration 3, before step 4
        first={(1, 14, 1): True},
    )
    text = "the environment gave NaN in the state at environment step 112 (step 3 of an episode)"
    assert sources == {0: LEARNER, 1: NanSource(3 * 32 + 4 * 4, text)}


def test_a_reward_arrives_with_the_observations_after_its_step(search):
    """The reward of step 3 of iteration 4, which slot 0 holds, and the observations before step 4: of an episode that
    began in the iteration before, in step 7 of slot 3.
    """
    sources = search(
        reward={(0, 0, 3): -np.inf, (0, 0, 4): np.nan},
        agents={(0, 0, 4, 1, 2): np.inf},
        first={(0, 6, 7): True, (0, 0, 4): True},  # the reward's episode ended with it
    )
    text = (
        "the environment gave infinity in the observation of agent_1 and the reward at environment step 144 (step 5 of "
        "an episode)"
    )
    assert sources == {0: NanSource(4 * 32 + 4 * 4, text), 1: LEARNER}


def test_a_return_that_is_not_finite_is_the_environments_too(search):
    text = "the environment gave returns that are not finite"
    assert search(returns=(np.nan, 1.0)) == {0: NanSource(6 * 32, text), 1: LEARNER}


# --- without replay ----------------------------------------------------------------------------------------------


AGAIN = "observations and rewards in rollouts that were played again with the parameters before it are finite"
GAVE = "the environment gave infinity in the observation of agent_1 and the state and the reward at environment step 76"


@pytest.mark.parametrize(
    ("value", "source"),
    [
        (-np.inf, NanSource(2 * 32 + 3 * 4, f"{GAVE} (step 3 of an episode)")),
        (0.0, NanSource(None, f"{AGAIN}, so the learner diverged")),
    ],
)
def test_without_replay_the_rollouts_of_the_chunk_are_played_again(value, source):
    """Four environments reach step 3 of their first episode at environment step 12 of the chunk, the second one."""
    config = tiny(devices=1, env=EPISODES, replay={"capacity": 0}, learner={"batch_size": 4})
    program = Program.make(config, Broken(config.env.settings, value))
    state = program.init()
    params = to_host(state.seeds.learner.params)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, state.seeds.learner)
    clock = state.clock._replace(iteration=jnp.array(4))
    state = state._replace(clock=clock, seeds=state.seeds._replace(learner=broken))
    assert find_sources(program, state, params, metrics_of([0.0]), [0]) == {0: source}


# --- a run -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_names_the_environment_and_does_not_train_again_with_another_learning_rate(tmp_path, capsys):
    def train(resumes=False, **changes):
        config = tiny(devices=1, env=EPISODES, logging={"display": "plain"}, **changes)
        program = Program.make(config, Broken(config.env.settings, np.inf))
        return experiment.train(config, tmp_path, to_mapping(config), resumes, program).status

    assert train() == exits.FAILED
    said = capsys.readouterr().out
    assert (
        "the loss of seed 0 became NaN between steps 0 and 64: the environment gave infinity in the observation of "
        "agent_1 and the state and the reward at environment step 12 (step 3 of an episode). Look at the rewards and "
        "observations of env=probe; no setting of the learner cures them.\n"
    ) in said
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert (last["train/frozen_since"], last["train/environment_nan_at"]) == ([64], [12])
    assert train(resumes=True, learner={"learning_rate": 1e-5}) == exits.FAILED
    said = capsys.readouterr().err
    assert "met NaN at step 64, which its environment caused: correct the environment and start a new run\n" in said
