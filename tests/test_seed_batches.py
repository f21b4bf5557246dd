"""Seeds that do not train at once: batches of them, which make the run that all at once would make, and the memory by
which they are chosen.
"""

import os
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import QUICK_COMPILE, WITHOUT_FUSION, merge
from resuming import LONG, compiled_once_each, numbers, train

from qmix_jax.analysis.runs import find_runs, read_run
from qmix_jax.build import from_mapping, make_env
from qmix_jax.records import read_manifest
from qmix_jax.reporters.base import Callback
from qmix_jax.run import compiled_memory, exits, experiment, memory, seed_batches
from qmix_jax.run import program as parallel
from qmix_jax.run.checkpoint import checkpoints
from qmix_jax.run.program import Program
from qmix_jax.run.saver import Saver
from qmix_jax.run.trained import load_run
from qmix_jax.settings import ConfigError
from qmix_jax.sweep.ledger import read_sweep, state_of

SETTINGS = merge(LONG, {"num_seeds": 3, "seed": 5, "total_env_steps": 128, "exploration": {"decay_env_steps": 100}})
SETTINGS["algorithm"] = {"name": "vdn"}
BATCHES = ["5-5", "6-6", "7-7"]


@pytest.fixture(scope="module", autouse=True)
def in_turn():
    """A device trains one seed after the other, fused as where users train, so that bits do not depend on the loop."""
    fused = {"xla_cpu_use_fusion_emitters": True} if WITHOUT_FUSION in QUICK_COMPILE else {}
    with pytest.MonkeyPatch.context() as patch, compiled_once_each():
        patch.setattr(parallel, "FEW_ACTIVATIONS", 0)
        patch.setattr(parallel, "FOR_CPU_CORES", {**parallel.FOR_CPU_CORES, **fused})
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path):
    """Nothing is known of compiled programs."""
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """The folder of a run that trained its three seeds at once; not to be changed."""
    folder = tmp_path_factory.mktemp("at_once") / "run"
    assert train(folder, SETTINGS) == exits.DONE
    return folder


def make(**changes) -> Program:
    config = from_mapping(merge(SETTINGS, changes))
    return Program.make(config, make_env(config.env))


def room_for_seeds(monkeypatch, seeds: float) -> None:
    """So much memory is at hand as that many times what one seed needs."""
    free = int(seeds * memory.needed(make(num_seeds=1)) / 0.9)
    monkeypatch.setattr(memory, "memory_at_hand", lambda: free)


def assert_same_run(folder, other):
    """The same rows, and the same parameters of all seeds."""
    assert numbers(folder) == numbers(other)
    jax.tree.map(np.testing.assert_array_equal, load_run(folder).all_params, load_run(other).all_params)


# --- which batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "largest", "sizes"),
    [(100, 36, [34, 33, 33]), (5, 2, [2, 2, 1]), (6, 3, [3, 3]), (4, 4, [4]), (3, 1, [1, 1, 1]), (2, 0, [1, 1])],
)
def test_batches_are_as_few_as_fit_and_differ_by_one(count, largest, sizes):
    assert memory.even_sizes(count, lambda size: size <= largest) == sizes


@pytest.mark.parametrize(
    ("devices", "num_seeds", "fit", "sizes", "shares"),
    [
        (1, 100, 36, [34, 33, 33], {1}),
        (2, 100, 36, [34, 34, 32], {2}),  # both devices train as many
        (4, 8, 3, [3, 3, 2], {3, 2}),  # not even one for each device fits
        (4, 8, 8, [8], {4}),
    ],
)
def test_devices_share_the_seeds_of_a_batch_as_they_share_all(
    monkeypatch, tmp_path, devices, num_seeds, fit, sizes, shares
):
    monkeypatch.setattr(seed_batches, "fits", lambda program: program.config.num_seeds <= fit)
    program = make(devices=devices, num_seeds=num_seeds)
    batches = seed_batches.plan(program, tmp_path)
    assert [seed for batch in batches for seed in batch] == list(range(5, 5 + num_seeds))
    assert [len(batch) for batch in batches] == sizes
    meshes = [program.of_seeds(batch).mesh.shape for batch in batches]
    assert {mesh["seed"] for mesh in meshes} == shares and {mesh["data"] for mesh in meshes} == {1}


def test_a_seed_whose_work_devices_share_is_shared_alike_in_every_batch():
    program = make(devices=2, num_seeds=3)
    assert dict(program.mesh.shape) == dict(program.of_seeds(range(5, 7)).mesh.shape) == {"seed": 1, "data": 2}


def test_what_the_user_allows_at_once_is_told_as_the_reason(tmp_path, capsys):
    program = make(num_seeds_at_once=2, num_seeds=5)
    said = "5 seeds in 3 batches of 2, 2 and 1: num_seeds_at_once=2"
    assert experiment.messages.seed_batches(program, seed_batches.plan(program, tmp_path)) == said


# --- the run that they make --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_batches_equal_all_at_once_to_the_last_bit_also_stopped_in_each_of_them_and_made_longer(
    at_once, tmp_path, monkeypatch, capsys
):
    room_for_seeds(monkeypatch, 1.2)
    folder, longer = tmp_path / "run", tmp_path / "longer"
    shown = {"logging": {"display": "plain"}}
    assert train(folder, SETTINGS, stop_after=2, **shown) == exits.TERMINATED
    said = capsys.readouterr().out
    assert "VDN on probe: 3 seeds in 3 batches of 1: all at once need 0.00 GiB of 0.00 GiB\n" in said
    assert f"train --resume {folder}" in said
    with pytest.raises(ConfigError, match="holds a run: add resume=auto"):
        experiment.train(from_mapping(SETTINGS), folder, SETTINGS)
    with pytest.raises(ConfigError, match=r"steps \(0 to 64\).* train it to its end with total_env_steps=128 first"):
        train(folder, SETTINGS, total_env_steps=256)
    assert train(folder, SETTINGS, stop_after=2) == exits.TERMINATED
    assert [read_run(folder / "seeds" / name).rows[-1]["env_steps"] for name in BATCHES[:2]] == [128, 64]
    (plan,) = read_sweep(folder)
    assert state_of(plan).state == "stopped" and state_of(plan).env_steps == (128 + 64) // 3
    assert train(folder, SETTINGS) == exits.DONE
    assert_same_run(folder, at_once)
    assert find_runs([tmp_path]) == [folder] and read_run(folder).seeds == [5, 6, 7]
    assert state_of(plan).state == "done"
    assert len(read_manifest(folder)["resumed"]) == 2

    shutil.copytree(at_once, longer)
    monkeypatch.undo()  # the batches of before stay, whatever the memory
    for each in (folder, longer):
        assert train(each, SETTINGS, total_env_steps=256, logging={"display": "plain"}) == exits.DONE
    assert_same_run(folder, longer)
    assert [each.env_steps for each in checkpoints(folder)] == [128, 256]
    capsys.readouterr()
    assert train(folder, SETTINGS, total_env_steps=256) == exits.DONE
    assert (
        capsys.readouterr().out
        == f"{folder} is complete: 256 environment steps; a larger total_env_steps makes it longer\n"
    )


@pytest.mark.slow
def test_a_signal_after_the_last_chunk_of_a_batch_stops_the_run_before_the_next_batch(at_once, tmp_path, capsys):
    one_each = {"num_seeds_at_once": 1, "logging": {"display": "plain"}}
    assert train(tmp_path, SETTINGS, stop_after=4, **one_each) == exits.TERMINATED
    assert [path.name for path in (tmp_path / "seeds").iterdir()] == BATCHES[:1]
    assert f"train --resume {tmp_path}" in capsys.readouterr().out
    assert train(tmp_path, SETTINGS, **one_each) == exits.DONE
    assert_same_run(tmp_path, at_once)


@pytest.mark.slow
def test_damaged_parameters_of_a_batch_or_of_the_run_are_not_replaced_by_older_ones(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(Saver, "is_due", lambda self, env_steps: True)
    often = {"num_seeds_at_once": 1, "checkpoint": {"every_env_steps": 32, "keep_last": 2}}
    assert train(tmp_path, SETTINGS, stop_after=4, **often) == exits.TERMINATED
    batch = tmp_path / "seeds" / BATCHES[0]
    assert len(checkpoints(batch)) > 1
    for folder in (batch, tmp_path):
        os.truncate(checkpoints(folder)[-1].path / "params" / "_METADATA", 10)
        assert train(tmp_path, SETTINGS, **often) == exits.DONE
        assert_same_run(tmp_path, at_once)
        assert load_run(tmp_path).env_steps == 128
    os.truncate(checkpoints(batch)[-1].path / "params" / "_METADATA", 10)
    with pytest.raises(ConfigError, match=r"no checkpoint '128' of .*5-5 can be read"):
        seed_batches.read_params(make(num_seeds=1), tmp_path, [range(5, 6)])


@pytest.mark.slow
def test_seeds_vmapped_at_once_equal_batches_in_turn_to_rounding(at_once, monkeypatch):
    monkeypatch.setattr(parallel, "FEW_ACTIVATIONS", 10**9)
    program = make()
    assert program.vmaps_seeds and not program.of_seeds(range(5, 6)).vmaps_seeds
    state, chunk = program.start(program.init)
    for _ in range(4):
        state, metrics = chunk(state, program.numbers)
    np.testing.assert_allclose(metrics.losses.loss / metrics.updates, numbers(at_once)[-1]["train/loss"], rtol=1e-5)


@pytest.mark.slow
def test_runs_that_could_train_together_train_in_batches_of_their_seeds_one_after_the_other(at_once, tmp_path):
    short = merge(SETTINGS, {"num_seeds": 2, "num_seeds_at_once": 1})
    own = [merge(short, {"seed": seed}) for seed in (5, 6)]
    orders = [experiment.Order(from_mapping(each), tmp_path / str(each["seed"]), each) for each in own]
    assert [each.status for each in experiment.train_many(orders)] == [exits.DONE] * 2
    for i, name in enumerate(("5", "6")):
        found, wanted = numbers(tmp_path / name), numbers(at_once)
        assert [row["eval/return"] for row in found] == [row["eval/return"][i : i + 2] for row in wanted]


def test_dashboards_get_the_run_of_all_seeds_beside_that_of_every_batch(tmp_path, monkeypatch):
    class Dashboard(Callback):
        def __init__(self, folder, rows):
            self.folder, self.steps, self.ended = folder.name, [row["env_steps"] for row in rows], []
            made.append(self)

        def on_evaluation(self, row):
            self.steps.append(row["env_steps"])

        def on_end(self, end):
            self.ended.append((end.status, end.curve))

        def close(self):
            self.ended.append("closed")

    made: list[Dashboard] = []
    monkeypatch.setattr(experiment, "make_dashboards", lambda config, settings, folder, rows: [Dashboard(folder, rows)])
    for _ in range(2):  # the second time nothing is left to do
        assert train(tmp_path / "run", SETTINGS, num_seeds_at_once=1) == exits.DONE
    steps = [row["env_steps"] for row in numbers(tmp_path / "run")]
    assert [each.folder for each in made] == [*BATCHES, "run"] and all(each.steps == steps for each in made)
    assert made[-1].ended == [(exits.DONE, tmp_path / "run" / "curve.png"), "closed"]


def test_batches_whose_seeds_meet_nan_equal_all_at_once_too(tmp_path):
    diverges = merge(SETTINGS, {"learner": {"learning_rate": 1e30}})
    for name, most in (("all", 3), ("batches", 1), ("batches", 1)):
        assert train(tmp_path / name, diverges, num_seeds_at_once=most) == exits.FAILED
    assert None not in numbers(tmp_path / "all")[-1]["train/frozen_since"]
    assert_same_run(tmp_path / "batches", tmp_path / "all")


def row(step, seconds, rate, **columns):
    return {"env_steps": step, "wall_seconds": seconds, "train/epsilon": 0.5, "train/steps_per_second": rate, **columns}


def test_rows_of_batches_are_joined_by_their_steps():
    first = [row(32, 1.0, 30.0, **{"eval/return": [1.0, 2.0]}), row(64, 2.0, 30.0, **{"eval/return": [3.0, None]})]
    second = [row(32, 4.0, 10.0, **{"eval/return": [5.0]})]
    # a chunk of x steps a seed takes 2x / 30 and x / 10 seconds
    joined = row(32, 5.0, 18.0, **{"eval/return": [1.0, 2.0, 5.0]})
    assert seed_batches.join_rows([(2, first), (1, second)]) == [joined]


def test_a_batch_that_ended_by_nan_has_no_values_afterwards():
    nan = {"train/frozen_since": [64, 32], "train/environment_nan_at": [None, 30]}
    first = [row(64, 1.0, 10.0, **{"train/loss": [None, 2.0], **nan})]
    second = [row(step, 2.0, 10.0, **{"train/loss": [3.0]}) for step in (64, 128)]
    assert seed_batches.join_rows([(2, first), (1, second)]) == [
        row(
            step,
            3.0,
            10.0,
            **{
                "train/loss": [None, loss, 3.0],
                "train/frozen_since": [64, 32, None],
                "train/environment_nan_at": [None, 30, None],
            },
        )
        for step, loss in ((64, 2.0), (128, None))
    ]


# --- memory that XLA tells ---------------------------------------------------------------------------------------


class Compiled:
    """What XLA says of a program that needs so many bytes besides its arguments."""

    def __init__(self, size: int):
        self.size = size

    def memory_analysis(self):
        return SimpleNamespace(
            temp_size_in_bytes=self.size - 30,
            generated_code_size_in_bytes=10,
            output_size_in_bytes=120,
            alias_size_in_bytes=100,
        )


def test_what_a_compiled_program_needs_is_known_of_other_numbers_of_seeds(monkeypatch):
    assert compiled_memory.temporaries(make()) is None
    compiled_memory.record(make(), Compiled(1000))
    assert compiled_memory.temporaries(make(num_seeds=9, total_env_steps=1000)) == 1000  # one seed at a time
    assert compiled_memory.temporaries(make(num_seeds=1)) is None  # which copies no state
    assert compiled_memory.temporaries(make(devices=2, num_seeds=4)) == 2000
    assert compiled_memory.temporaries(make(learner={"batch_size": 16})) is None
    assert memory.needed(make(num_seeds=9)) < 10**6
    monkeypatch.setattr(parallel, "FEW_ACTIVATIONS", 10**9)
    compiled_memory.record(make(num_seeds=2), Compiled(1000))
    assert compiled_memory.temporaries(make(num_seeds=9)) == 4500  # vmapped


def test_where_xla_tells_nothing_the_estimate_stays():
    before = memory.needed(make())
    for compiled in (object(), Compiled(0)):
        memory.check_compiled(make(), compiled, room=0)
    assert memory.needed(make()) == before


def test_a_program_that_compiling_shows_to_be_too_large_is_split_or_refused(at_once, tmp_path, monkeypatch, capsys):
    sizes = {3: 10**9, 1: 1000}
    room_for_seeds(monkeypatch, 10)
    record = compiled_memory.record
    monkeypatch.setattr(
        compiled_memory, "record", lambda program, _: record(program, Compiled(sizes[program.config.num_seeds]))
    )
    assert train(tmp_path / "run", SETTINGS, logging={"display": "plain"}) == exits.DONE
    assert "3 seeds in 3 batches of 1: all at once need 0.93 GiB of 0.00 GiB" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", at_once)
    sizes[1] = 10**9
    with pytest.raises(ConfigError, match=r"^num_seeds=1 needs 0.93 GiB for an update, but only 0.00 GiB"):
        train(tmp_path / "one", SETTINGS, num_seeds=1)
