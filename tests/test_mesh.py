"""The mesh (seed, data) on eight simulated devices, in a process of its own (`eight_devices.py`)."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))

import scaling

pytestmark = pytest.mark.slow
SEEDS, SHARING = 2, 4
"""Of the mesh with both axes: its seeds, and the devices that share each."""
PROGRAM = Path(__file__).with_name("eight_devices.py")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What the process has computed."""
    path = tmp_path_factory.mktemp("mesh") / "facts"
    subprocess.run(
        [sys.executable, PROGRAM, path],
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])},
        check=True,
        timeout=600,
    )
    return pickle.loads(path.read_bytes())


def whole(shape, shards):
    """An array joined from the devices' shares."""
    joined = np.empty(shape, shards[0][1].dtype)
    for index, share in shards:
        joined[index] = share
    return joined


def test_eight_seeds_on_eight_devices_are_the_same_bits_as_on_one(facts):
    state, metrics = facts["alone"]
    shared_state, shared_metrics, _ = facts["over seeds"]
    assert len(state) == len(shared_state) > 30
    for (shape, shards), (shared_shape, shared) in zip(state, shared_state, strict=True):
        assert shape == shared_shape and (len(shards), len(shared)) == (1, 8)
        np.testing.assert_array_equal(whole(shape, shards), whole(shape, shared))
    jax.tree.map(np.testing.assert_array_equal, metrics, shared_metrics)
    assert len(np.unique(metrics[-1].losses.loss)) == 8  # the seeds differ


def test_a_batch_split_over_eight_devices_gives_the_updates_of_the_whole_batch(facts):
    (params, metrics), (split_params, split_metrics) = facts["updates"]
    np.testing.assert_allclose(split_metrics.loss, metrics.loss, rtol=1e-5)
    np.testing.assert_allclose(split_metrics.grad_norm, metrics.grad_norm, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), split_params, params)


def test_every_device_holds_only_its_share(facts):
    """Of replay and environments its part of one seed; of the learner one seed's, equal on all that share it."""
    learner, split = facts["over both"]
    for shape, shards in split:
        sizes = {share.shape for _, share in shards}
        assert sizes == {(shape[0] // SEEDS, shape[1] // SHARING, *shape[2:])}
        assert len({str(index) for index, _ in shards}) == SEEDS * SHARING
    for shape, shards in learner:
        for seed in range(SEEDS):
            first, *others = (share for index, share in shards if index[0] == slice(seed, seed + 1))
            assert first.shape == (1, *shape[1:]) and len(others) == SHARING - 1
            assert all(np.array_equal(first, other) for other in others)


def test_every_device_plays_environments_of_its_own(facts):
    assert np.unique(facts["environments"]).size == SEEDS * 8


def test_counts_are_global_numbers(facts):
    """A chunk is 2 iterations of 64 steps with 2 updates each; learning begins in the first, when 60 are stored."""
    for metrics in facts["metrics"]:
        assert (metrics.evaluation.episodes == 8).all() and (metrics.updates == 4).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics))


def test_devices_exchange_the_gradients_of_their_seed_and_sums_of_episodes_and_nothing_of_replay(facts):
    """One all-reduce in the loop of updates and one at the end of a chunk; seeds exchange nothing."""
    assert scaling.collectives(facts["over seeds"][2]) == []
    update, chunk = scaling.collectives(facts["text"])
    assert (update.name, chunk.name) == ("all-reduce", "all-reduce")
    assert update.groups == chunk.groups == "{{0,1,2,3},{4,5,6,7}}"
    sums = len(facts["metrics"][0].losses) + 1  # and the number of errors
    assert update.bytes == 4 * (facts["parameters"] + sums) and "learn" in update.origin
    assert chunk.bytes == 4 * 8 and "learn" not in chunk.origin  # 4 sums of training, 4 of the evaluation


def test_a_gather_is_found_in_a_programs_text():
    text = """
      %x.1 = (f32[3,4]{1,0}, bf16[2]{0}) all-gather-start(%a, %b), channel_id=1, replica_groups={{0,1}}, dimensions={0}
      %y = (f32[3,4]{1,0}, bf16[2]{0}) all-gather-done(%x.1)
      ROOT %z = pred[5]{0} all-to-all(%c), replica_groups=[2,4]<=[8], metadata={op_name="jit(f)/all_to_all"}
      %u = f32[2]{0} all-reduce(%c), channel_id=1, replica_groups=mesh['a'=2,'b'=2] {'b'}, use_global_device_ids=true
      %v = f32[2]{0} all-reduce(%c), channel_id=1, replica_groups=mesh['a'=2,'b'=2] {'a'}, use_global_device_ids=true
    """
    assert scaling.collectives(text) == [
        ("all-gather", 4 * 12 + 2 * 2, "{{0,1}}", ""),
        ("all-to-all", 5, "[2,4]<=[8]", "jit(f)/all_to_all"),
        ("all-reduce", 8, "{{0,1},{2,3}}", ""),
        ("all-reduce", 8, "{{0,2},{1,3}}", ""),
    ]


# --- experiments/scaling.py ------------------------------------------------------------------------------------------


def test_learning_curves_agree_where_the_intervals_of_their_means_overlap_at_every_evaluation():
    """Three seeds of 1, 2 and 3: Student's interval is 2 +- 4.303 / sqrt(3) = 2 +- 2.48."""
    seeds = np.array([[1.0], [2.0], [3.0]])
    assert scaling.agree(seeds, seeds + 4.9) and not scaling.agree(seeds, seeds + 5)
    assert not scaling.agree(np.hstack([seeds, seeds]), np.hstack([seeds, seeds + 5]))


def test_what_an_all_reduce_takes():
    """A tree over 2 hosts of 8 GPUs has 7 steps inside and 1 between, there and back; a ring of 3 hosts 4 messages."""
    assert scaling.nccl_seconds(0, 8) == pytest.approx((6.8 + 2 * 7 * 0.6) * 1e-6)
    assert scaling.nccl_seconds(10_200, 16) == pytest.approx((6.8 + 2 * (7 * 0.6 + 5) + 1) * 1e-6)
    assert scaling.ring_seconds(30_000, 3, latency=1e-6, bandwidth=1e10) == pytest.approx(4 * (1e-6 + 1e-6))
    assert scaling.hosts_until(0, 300e-6) == 3  # 2 hosts: 100 us of 150; 3 hosts: 200 us of 100
