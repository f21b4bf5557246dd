"""One program on one and two devices, for one seed and for many; `test_mesh.py` has eight devices."""

import jax
import numpy as np
import pytest
from conftest import Trained, tiny

from qmix_jax.learning.trainer import Trainer
from qmix_jax.run import memory
from qmix_jax.run import program as parallel
from qmix_jax.run.compilation import compile_with
from qmix_jax.run.devices import describe_idle, split_devices
from qmix_jax.run.program import Program, describe_memory
from qmix_jax.settings import ConfigError


def test_the_state_keeps_its_shape_on_any_number_of_devices(trained):
    before, after = jax.tree.leaves(trained.shapes), jax.tree.leaves(trained.state)
    assert [leaf.shape for leaf in before] == [leaf.shape for leaf in after]
    seeds = trained.config.num_seeds
    assert trained.state.seeds.rollout.first.shape == (seeds, 4)
    assert trained.state.seeds.replay.reward.shape == (seeds, 16, 8)


def test_counts_are_global_numbers(trained):
    assert int(trained.state.clock.iteration) == 6
    for i, metrics in enumerate(trained.metrics):
        assert (metrics.evaluation.episodes == 8).all()
        assert (metrics.updates == (2 if i == 0 else 4)).all()
        assert (metrics.training.episodes > 8).all()


def test_training_gives_the_recorded_numbers(train):
    """Recorded with jax 0.10.2 on an x86 CPU. Other versions, with the same random numbers, differ by rounding."""
    losses, values, returns, evaluations = ([], [], [], [])
    for metrics in train(devices=1).metrics:
        losses += metrics.losses.loss.tolist()
        values += metrics.losses.q_mean.tolist()
        returns += metrics.training.total_return.tolist()
        evaluations += metrics.evaluation.total_return.tolist()
    assert (returns, evaluations) == ([112, 149, 146], [67, 41, 40])
    np.testing.assert_allclose(losses, [22.298298, 65.799911, 68.564987], rtol=1e-5)
    np.testing.assert_allclose(values, [0.04918214, 2.29524899, 5.38876820], rtol=1e-4)


def test_every_device_holds_its_own_environments(trained):
    names = np.asarray(trained.state.seeds.rollout.observation.agents[:, :, 0, 0])
    assert len(np.unique(names)) == names.size
    stored = np.asarray(trained.state.seeds.replay.observation.agents[:, :, 0, 0, 0])
    assert len(np.unique(stored)) > stored.size // 2  # neighbouring sequences may share an episode


def test_training_learns_something_finite(trained):
    for metrics in trained.metrics:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics))
    assert (trained.metrics[-1].losses.loss > 0).all()


def test_parameters_stay_equal_on_all_devices_that_share_a_seed(trained):
    for leaf in jax.tree.leaves(trained.state.seeds.learner.params):
        shards = {}
        for shard in leaf.addressable_shards:
            shards.setdefault(str(shard.index), []).append(np.asarray(shard.data))
        for copies in shards.values():
            for copy in copies[1:]:
                np.testing.assert_array_equal(copies[0], copy)


@pytest.mark.slow
def test_vmapped_seeds_equal_seeds_alone(probe, train, monkeypatch):
    """A scan over seeds gives the same bits: see `test_mesh.py`."""
    monkeypatch.setattr(parallel, "FEW_ACTIVATIONS", 10**9)
    together, alone = Trained(probe, 1, num_seeds=2), train(devices=1)
    for i in range(2):
        state, metrics = alone.run([i])
        jax.tree.map(
            lambda ours, theirs, i=i: np.testing.assert_allclose(ours[i], theirs[0], rtol=1e-4, atol=1e-5),
            together.state.seeds.learner.params,
            state.seeds.learner.params,
        )
        np.testing.assert_allclose(together.metrics[-1].training.episodes[i], metrics[-1].training.episodes[0])


@pytest.mark.slow
def test_without_replay_every_device_learns_from_its_own_share_of_the_rollout(probe):
    changes = {"replay": {"capacity": 0}, "target": {"mode": "none"}, "learner": {"batch_size": 2}}
    program = Program.make(tiny(devices=2, **changes), probe)
    state, metrics = program.compile_chunk()(program.init(), program.numbers)
    assert state.seeds.replay is None and describe_memory(program.shapes)["replay"] == 0
    assert (metrics.updates == 2).all() and np.isfinite(metrics.losses.loss).all()
    for leaf in jax.tree.leaves(state.seeds.learner.params):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        np.testing.assert_array_equal(copies[0], copies[1])


@pytest.mark.slow
def test_bfloat16_products_train_float32_parameters(train):
    rough, exact = (train(devices=2, matmul_dtype=dtype) for dtype in ("bfloat16", "float32"))
    dtypes, exact_dtypes = (jax.tree.map(lambda leaf: leaf.dtype, run.state) for run in (rough, exact))
    assert dtypes == exact_dtypes
    ours, theirs = rough.metrics[0].losses.loss, exact.metrics[0].losses.loss
    assert ours != theirs
    np.testing.assert_allclose(ours, theirs, rtol=0.05)


def test_one_compilation_a_run(probe):
    program = Program.make(tiny(devices=1), probe)
    state = program.init()
    traces = []
    original = Trainer.step

    def counted(self, clock, state):
        traces.append(1)
        return original(self, clock, state)

    Trainer.step = counted
    try:
        chunk = program.compile_chunk()
        for _ in range(3):
            state, _ = chunk(state, program.numbers)
    finally:
        Trainer.step = original
    assert len(traces) <= 2  # scan may trace its body twice; no chunk traces it again


@pytest.mark.parametrize(
    ("available", "changes", "expected"),
    [
        (1, {}, (1, 1)),
        (4, {}, (1, 4)),
        (4, {"num_seeds": 4}, (4, 1)),
        (4, {"num_seeds": 2}, (2, 2)),
        (4, {"num_seeds": 3}, (1, 4)),
        (3, {}, (1, 2)),
        (4, {"learner": {"batch_size": 6}}, (1, 2)),
        (4, {"devices": 2}, (1, 2)),
    ],
)
def test_devices_are_split_to_fit(available, changes, expected):
    assert split_devices(tiny(**changes), available) == expected


EPISODES_33 = {"evaluation": {"episodes": 33}}


@pytest.mark.parametrize(
    ("available", "changes", "says"),
    [
        (2, {}, ""),
        (2, EPISODES_33 | {"devices": 1}, ""),
        (2, EPISODES_33 | {"num_seeds": 2}, ""),
        (
            2,
            EPISODES_33,
            "1 of 2 devices idle, since evaluation.episodes=33 cannot be split over all; evaluation.episodes=34 would "
            "use all",
        ),
        (
            8,
            EPISODES_33 | {"num_seeds": 4, "learner": {"batch_size": 7}},
            "4 of 8 devices idle, since learner.batch_size=7 and evaluation.episodes=33 cannot be split over all; "
            "learner.batch_size=8 evaluation.episodes=34 would use all",
        ),
        (
            3,
            {"num_seeds": 2},
            "1 of 3 devices idle, since rollout.num_envs=4 and learner.batch_size=8 and evaluation.episodes=8 "
            "cannot be split over all; rollout.num_envs=6 learner.batch_size=9 evaluation.episodes=9 would use all",
        ),
    ],
)
def test_devices_that_stay_idle_are_told_with_what_would_use_them(available, changes, says):
    config = tiny(**changes)
    assert describe_idle(config, available) == says
    if says:
        better = dict(word.split("=") for word in says.partition("; ")[2].split() if "=" in word)
        settings = {name.split(".")[0]: {name.split(".")[1]: int(value)} for name, value in better.items()}
        assert describe_idle(tiny(**changes | settings), available) == ""


@pytest.mark.parametrize(
    ("available", "changes", "named"),
    [(2, {"devices": 4}, "only 2"), (4, {"devices": 3}, "rollout.num_envs=4")],
)
def test_devices_that_cannot_share_the_work_are_refused(available, changes, named):
    with pytest.raises(ConfigError, match=named):
        split_devices(tiny(**changes), available)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [({}, "take fewer seeds"), ({"replay": {"capacity": 0}, "learner": {"batch_size": 4}}, "smaller networks")],
)
def test_what_cannot_fit_is_refused_with_a_way_out(probe, monkeypatch, changes, advice):
    program = Program.make(tiny(devices=1, **changes), probe)
    memory.refuse_what_cannot_fit(program)
    monkeypatch.setattr(memory, "memory_at_hand", lambda: 1000)
    with pytest.raises(ConfigError, match=advice):
        memory.refuse_what_cannot_fit(program)


def test_memory_is_known_before_anything_is_made(probe):
    program = Program.make(tiny(devices=1, num_seeds=2), probe)
    needs, state = describe_memory(program.shapes), program.init()
    assert needs["replay"] == sum(leaf.nbytes for leaf in jax.tree.leaves(state.seeds.replay))
    assert needs["parameters"] == sum(leaf.nbytes for leaf in jax.tree.leaves(state.seeds.learner.params))


def test_compiler_options_that_xla_does_not_know_are_left_out_and_named_once(capsys):
    lowered = jax.jit(lambda: 7).lower()
    options = {"xla_of_another_day": 1, "xla_backend_optimization_level": 0, "xla_of_yesterday": True}
    for _ in range(2):
        assert compile_with(lowered, options)() == 7
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" option ")[1] for line in said] == [
        "xla_of_another_day: compiling without it",
        "xla_of_yesterday: compiling without it",
    ]
    with pytest.raises(jax.errors.JaxRuntimeError, match="not a valid"):
        compile_with(lowered, {"xla_backend_optimization_level": "high"})
