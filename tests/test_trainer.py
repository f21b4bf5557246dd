"""When things happen: epsilon, learning, target sync and replay follow the one clock, to the environment step."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qmix_jax.learning.replay import minibatch
from qmix_jax.learning.trainer import Trainer, multiples_passed
from qmix_jax.settings import ConfigError
from qmix_jax.types import AgentInput, Clock

STEPS = 32  # environment steps an iteration: 4 environments x 8


class Stepped:
    """A few iterations of one seed, every state kept."""

    def __init__(self, config, env, iterations):
        trainer = Trainer(config, env)
        step = jax.jit(trainer.step)
        self.states, self.metrics = [trainer.init(jnp.array(config.seed))], []
        for i in range(iterations):
            state, metrics = step(Clock(jnp.array(i)), self.states[-1])
            self.states.append(state)
            self.metrics.append(metrics)

    def params(self, i):
        return jax.tree.leaves(self.states[i].learner.params)

    def target(self, i):
        return jax.tree.leaves(self.states[i].learner.target_params)


def same(a, b):
    return all(bool((x == y).all()) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def stepped(probe):
    """Learning starts at step 60, an update for every 16 steps, target sync every 96; replay holds 4 iterations."""
    return Stepped(tiny(), probe, 7)


def test_learning_starts_with_the_iteration_that_reaches_its_step(stepped):
    assert [int(m.updates) for m in stepped.metrics] == [0, 2, 2, 2, 2, 2, 2]
    assert same(stepped.params(0), stepped.params(1))
    assert not same(stepped.params(1), stepped.params(2))


def test_the_target_is_synced_at_its_multiples_and_at_no_other_time(stepped):
    for i in range(1, 8):
        reached_a_multiple = (i * STEPS) // 96 > ((i - 1) * STEPS) // 96
        if reached_a_multiple:
            assert same(stepped.target(i), stepped.params(i))
        else:
            assert same(stepped.target(i), stepped.target(i - 1))
    assert not same(stepped.target(3), stepped.target(6))


def test_replay_is_a_ring_of_whole_rollouts(stepped):
    memory = [state.replay.observation.agents for state in stepped.states]
    assert memory[0].shape[0] == 16  # 128 steps of capacity / 8 a sequence
    for i in range(7):
        rows = slice(i % 4 * 4, i % 4 * 4 + 4)
        changed = np.array([(memory[i + 1][row] != memory[i][row]).any() for row in range(16)])
        assert changed[rows].all() and changed.sum() == 4


def test_what_is_inserted_is_what_was_played(stepped):
    names = stepped.states[2].replay.observation.agents[4:8, 0, 0, 0]
    np.testing.assert_array_equal(names, stepped.states[1].rollout.observation.agents[:, 0, 0])


def test_minibatches_cover_the_rows_once_a_pass_and_are_shuffled_anew_for_each():
    rows = {"number": jnp.arange(12)}
    draw = jax.jit(lambda index: minibatch(jax.random.key(0), rows, index, 4)["number"])
    passes = np.array([[draw(3 * p + i) for i in range(3)] for p in range(4)]).reshape(4, 12)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(12), (4, 1)))
    assert len({tuple(order) for order in passes}) == 4


WITHOUT_REPLAY = {
    "replay": {"capacity": 0},
    "target": {"mode": "none"},
    "learner": {"batch_size": 2, "env_steps_per_update": 8, "start_env_steps": 0},
}


def test_without_replay_the_newest_rollout_alone_is_learnt_from(probe):
    """Two passes of two minibatches an iteration, and nothing is kept."""
    trainer = Trainer(tiny(**WITHOUT_REPLAY), probe)
    step = jax.jit(trainer.step)
    before = trainer.init(jnp.array(0))
    after, metrics = step(Clock(jnp.array(0)), before)
    assert before.replay is None and after.replay is None and after.learner.target_params is None
    assert int(metrics.updates) == 4 and float(metrics.losses.loss) > 0


def test_without_replay_minibatches_divide_the_rollout():
    with pytest.raises(ConfigError, match=r"set learner\.batch_size=1"):
        tiny(**{**WITHOUT_REPLAY, "learner": {"batch_size": 3}})


@pytest.mark.slow
@pytest.mark.parametrize(("num_envs", "expected"), [(4, [1, 1, 1, 2]), (2, [0, 1, 0, 1, 1, 0, 1, 1])])
def test_updates_per_data_mean_the_same_at_any_number_of_environments(probe, num_envs, expected):
    config = tiny(rollout={"num_envs": num_envs}, learner={"start_env_steps": 0, "env_steps_per_update": 25.6})
    played = Stepped(config, probe, len(expected))
    assert [int(m.updates) for m in played.metrics] == expected
    assert sum(expected) == 128 / 25.6


def test_counting_multiples():
    before, after = jnp.array([0, 99, 100, 150]), jnp.array([99, 100, 150, 350])
    np.testing.assert_array_equal(multiples_passed(100, before, after), [0, 1, 0, 2])
    np.testing.assert_array_equal(multiples_passed(12.5, jnp.array([0, 12]), jnp.array([12, 25])), [0, 2])


@pytest.mark.parametrize("every", ["0.7", "1.5", "12.8", "25.6", "7.3", "256.5", "99999.9"])
def test_multiples_of_a_fraction_are_counted_exactly_up_to_the_clocks_end(every):
    ends = 32 * np.concatenate([np.arange(1000), 2**19 + np.arange(1000), 2**26 - 2 - np.arange(1000)])
    exact = [int((n + 32) / Fraction(every)) - int(n / Fraction(every)) for n in ends.tolist()]
    counted = multiples_passed(float(every), jnp.array(ends), jnp.array(ends + 32))
    np.testing.assert_array_equal(counted, exact)
    assert max(exact) <= tiny(learner={"env_steps_per_update": float(every)}).max_updates_per_iteration


def test_the_learning_rate_ends_with_the_run_and_not_before(probe):
    config = tiny(total_env_steps=160, learner={"learning_rate": 1.0, "final_learning_rate_share": 0.5})
    rate = Trainer(config, probe).learner.learning_rate
    assert config.trained_env_steps == 192
    assert [float(rate(jnp.array(steps))) for steps in (0, 96, 192)] == pytest.approx([1.0, 0.75, 0.5])


def play(probe, exploration):
    """16 steps of the first rollout: the actions, the greedy ones (T, B, N), and which are legal (T, B, N, A)."""
    trainer = Trainer(tiny(exploration=exploration, rollout={"num_steps": 16}), probe)

    @jax.jit
    def play(key):
        state = trainer.init(jnp.array(0))
        sequence = trainer.play(Clock(jnp.array(0)), state.learner.params, state.rollout, key)[1]
        _, output = trainer.agents.unroll(state.learner.params["agent"], sequence.hidden, inputs_of(sequence))
        available = sequence.observation.available[:-1]
        return sequence.action, jnp.where(available, output.q, -jnp.inf).argmax(-1), available

    return play(jax.random.key(0))


def test_exploration_uses_the_epsilon_of_each_environment_step(probe):
    """Epsilon falls to 0 after 48 environment steps: only the first 12 of 16 joint steps may differ from greedy."""
    actions, best, _ = play(probe, {"start": 1.0, "finish": 0.0, "decay_env_steps": 48})
    is_greedy = np.asarray(best == actions).all(axis=(1, 2))
    assert is_greedy[12:].all() and not is_greedy[:12].all()


def test_a_team_that_explores_takes_one_action_where_it_is_legal_and_all_else_is_greedy(probe):
    exploration = {"start": 0.0, "finish": 0.0, "team_epsilon": 0.5, "team_steps": 2}
    actions, best, legal = (np.asarray(each) for each in play(probe, exploration))
    is_greedy = (actions == best).all(-1)
    is_of_team = [(actions == np.where(legal[..., a], a, best)).all(-1) for a in range(legal.shape[-1])]
    assert (is_greedy | np.any(is_of_team, axis=0)).all() and 0.2 < np.mean(~is_greedy) < 0.6


def inputs_of(sequence):

    last_action = jnp.concatenate([sequence.last_action[None], sequence.action[:-1]])
    return AgentInput(sequence.observation.agents[:-1], last_action, sequence.first)


def test_the_same_seed_gives_the_same_numbers(probe, stepped):
    again = Stepped(tiny(), probe, 3)
    for a, b in zip(jax.tree.leaves(again.states[3].learner), jax.tree.leaves(stepped.states[3].learner), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_an_accelerators_way_through_an_iteration_gives_the_same_numbers(probe, stepped):
    config = tiny()
    assert config.iteration_env_steps % config.learner.env_steps_per_update == 0
    trainer = Trainer(config, probe, branches=False)
    step, evaluate = jax.jit(trainer.step), jax.jit(trainer.evaluate)
    for i, before in enumerate(stepped.states[:-1]):
        after, metrics = step(Clock(jnp.array(i)), before)
        expected = stepped.states[i + 1], stepped.metrics[i]
        for ours, theirs in zip(flat((after, metrics)), flat(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)  # XLA rounds the two programs differently
    last = Clock(jnp.array(len(stepped.metrics))), stepped.states[-1]
    for ours, theirs in zip(flat(evaluate(*last)), flat(Trainer(config, probe).evaluate(*last)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def flat(tree):
    """Its arrays, without the random keys."""
    return [leaf for leaf in jax.tree.leaves(tree) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
