"""The games with a known answer come out as published."""

import jax
import numpy as np
import pytest

from qmix_jax.build import from_mapping, make_team
from qmix_jax.cli.compose import compose
from qmix_jax.run.compilation import compile_with
from qmix_jax.run.program import Program

pytestmark = pytest.mark.slow
SEEDS = 4
FAST = {"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False}  # here training is the cost


def greedy_returns(line):
    """Return of greedy play after training, one a seed, from the settings that the command line would compose."""
    config = from_mapping(compose([*line.split(), f"num_seeds={SEEDS}", "devices=1"]))
    program = Program.make(config, make_team(config))
    state = program.init()
    chunk = compile_with(jax.jit(program.chunk, donate_argnums=0).lower(state, program.numbers), FAST)
    for _ in range(config.num_chunks):
        state, metrics = chunk(state, program.numbers)
    return np.asarray(metrics.evaluation.total_return / metrics.evaluation.episodes)


@pytest.mark.parametrize(("algorithm", "expected"), [("qmix", 8.0), ("vdn", 7.0)])
def test_the_two_step_game_separates_qmix_from_vdn(algorithm, expected):
    np.testing.assert_array_equal(greedy_returns(f"env=two_step algorithm={algorithm}"), expected)


@pytest.mark.parametrize("algorithm", ["qmix", "vdn"])
def test_monotonic_mixers_miss_the_non_monotonic_optimum_under_uniform_data(algorithm):
    assert (greedy_returns(f"env=matrix algorithm={algorithm} total_env_steps=10_000") < 8.0).all()


SMALL = "algorithm.central_size=64 total_env_steps=24_000"


@pytest.mark.parametrize(
    "algorithm",
    ["qtran total_env_steps=48_000", "cw_qmix " + SMALL, "ow_qmix " + SMALL, "joint total_env_steps=24_000"],
)
def test_the_others_find_it(algorithm):
    np.testing.assert_array_equal(greedy_returns(f"+preset=games algorithm={algorithm}"), 8.0)


def test_qplex_finds_it_on_most_seeds():
    qplex = "qplex algorithm.num_heads=10 algorithm.num_layers=2 algorithm.init_scale=1 total_env_steps=48_000"
    assert (greedy_returns(f"+preset=games algorithm={qplex}") == 8.0).mean() >= 0.5


def test_pqn_learns_without_replay_and_target():
    games = "env=two_step rollout.num_steps=2 exploration.finish=1.0"
    one_step = "learner.td_lambda=0 learner.env_steps_per_update=64"  # what follows under uniform play is not optimal
    line = f"+preset=pqn algorithm=qmix {games} {one_step} total_env_steps=160_000"
    np.testing.assert_array_equal(greedy_returns(line), 8.0)
