"""Which checkpoints are written and kept, and a disk that fails."""

import os
import shutil
import sys
import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from resuming import LONG, a_snapshot, assert_same_end, no_file_larger_than, numbers, train

from qmix_jax.config import CheckpointConfig
from qmix_jax.records import read_metrics
from qmix_jax.reporters.metrics_file import MetricsFile
from qmix_jax.run import exits, host_loop, orbax
from qmix_jax.run import saver as saver_module
from qmix_jax.run.checkpoint import checkpoints, find, retain, write
from qmix_jax.run.metrics import BestScores
from qmix_jax.run.saver import Saver
from qmix_jax.run.trained import load_run
from qmix_jax.settings import ConfigError

pytestmark = pytest.mark.usefixtures("shared_programs")

# --- what is kept ------------------------------------------------------------------------------------------------


def test_the_last_and_the_best_are_kept(tmp_path):
    for step, score in enumerate([0.1, 0.9, 0.9, 0.3, None, 0.2], 1):
        write(tmp_path, a_snapshot(step, score))
    write(tmp_path, a_snapshot(7, items=("params",)))  # what a run that NaN ended leaves
    retain(tmp_path, keep_last=2, keep_best=2)
    assert [each.env_steps for each in checkpoints(tmp_path)] == [2, 3, 5, 6, 7]
    retain(tmp_path, keep_last=1, keep_best=0)
    assert [each.env_steps for each in checkpoints(tmp_path)] == [6, 7]
    assert find(tmp_path).env_steps == 7 and not list(tmp_path.glob("checkpoints/.*"))


def test_parameters_saved_for_their_score_stay_as_long_as_they_are_among_the_best(tmp_path):
    saver = Saver(tmp_path, CheckpointConfig(keep_last=1, keep_best=2), print)
    saver.save(a_snapshot(1, 0.5))
    for step, score in {2: 0.7, 3: 0.6, 4: 0.9}.items():
        saver.save_for_score(a_snapshot(step, score, items=("params",)))
    saver.close()
    assert [each.env_steps for each in checkpoints(tmp_path)] == [1, 2, 4]
    assert [each.is_for_score for each in checkpoints(tmp_path)] == [False, True, True]
    assert find(tmp_path, "best").env_steps == 4


def test_of_parameters_that_wait_to_be_written_only_the_best_are(tmp_path, monkeypatch):
    may_write, written = threading.Event(), []

    def slow(folder, snapshot):
        assert may_write.wait(30)
        written.append(snapshot.env_steps)

    monkeypatch.setattr(saver_module, "write", slow)
    saver = Saver(tmp_path, CheckpointConfig(every_env_steps=100, keep_best=1), print)
    saver.save(a_snapshot(1))
    for step in (2, 3, 4):
        saver.save_for_score(a_snapshot(step, float(step), items=("params",)))
    may_write.set()
    saver.close()
    assert written == [1, 4] and saver.is_saved(1)


@pytest.mark.parametrize("keep_best", [0, 1, 2])
def test_the_parameters_of_the_best_evaluation_are_kept_as_they_come(tmp_path, monkeypatch, keep_best, capsys):
    """Win rates of the eight evaluations as given here; only the end falls due by itself."""
    scores = dict(zip(range(32, 257, 32), (0.1, 0.5, 0.2, 0.5, 0.4, 0.7, 0.6, 0.0), strict=True))
    parameters, make_row, save = {}, host_loop.make_row, host_loop.Run._save

    def with_score(*args):
        row = make_row(*args)
        return {**row, "eval/win_rate": [scores[row["env_steps"]]]}

    def remember(self, state, seeds):
        parameters[self.env_steps] = self.params
        save(self, state, seeds)

    monkeypatch.setattr(host_loop, "make_row", with_score)
    monkeypatch.setattr(host_loop.Run, "_save", remember)
    once = {"checkpoint": {"every_env_steps": None, "keep_best": keep_best}, "logging": {"display": "plain"}}
    assert train(tmp_path, LONG, **once) == exits.DONE
    best_line = "  best: win rate 70.0% at step 192 (--checkpoint best)\n"
    assert (best_line in capsys.readouterr().out) == (keep_best > 0)
    best = [192, 224][:keep_best]
    assert [each.env_steps for each in checkpoints(tmp_path)] == [*best, 256]
    if best:
        run = load_run(tmp_path, "best")
        assert run.env_steps == 192
        jax.tree.map(np.testing.assert_array_equal, run.all_params, parameters[192])


def test_the_best_of_a_resumed_run_is_the_best_that_is_saved(tmp_path, monkeypatch, capsys):
    """The best evaluation of all came before scores were kept, or by another metric."""
    rates = dict(zip(range(32, 257, 32), (0.9, 0.1, 0.2, 0.1, 0.6, 0.1, 0.5, 0.0), strict=True))
    make_row = host_loop.make_row

    def with_scores(*args):
        row = make_row(*args)
        rate = rates[row["env_steps"]]
        return {**row, "eval/win_rate": [rate], "eval/return": [1 - rate]}

    monkeypatch.setattr(host_loop, "make_row", with_scores)
    once = {"every_env_steps": None, "keep_last": 1}
    for name, before in {"kept": {"keep_best": 0}, "metric": {"metric": "eval/return"}}.items():
        folder = tmp_path / name
        assert train(folder, LONG, stop_after=3, checkpoint={**once, **before}) == exits.TERMINATED
        capsys.readouterr()
        now = {"checkpoint": {**once, "keep_best": 1, "metric": "eval/win_rate"}, "logging": {"display": "plain"}}
        assert train(folder, LONG, **now) == exits.DONE
        assert "  best: win rate 60.0% at step 160 (--checkpoint best)\n" in capsys.readouterr().out
        assert load_run(folder, "best").env_steps == 160


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_score_is_among_the_best_while_fewer_earlier_ones_are_as_good(keep):
    scores = [None if i % 7 == 3 else float(x) for i, x in enumerate(np.random.default_rng(0).integers(0, 9, 60))]
    best = BestScores(keep)
    for i, score in enumerate(scores):
        as_good = sum(1 for earlier in scores[:i] if None not in (earlier, score) and earlier >= score)
        assert best.add(score) == (score is not None and as_good < keep)


def test_scores_of_another_metric_rank_below_those_of_the_newest(tmp_path):
    write(tmp_path, a_snapshot(1, 1.9))
    for step, score in {2: 0.99, 3: 0.5}.items():
        write(tmp_path, a_snapshot(step, score, metric="eval/win_rate"))
    assert find(tmp_path, "best").env_steps == 2
    retain(tmp_path, keep_last=1, keep_best=1)
    assert [each.env_steps for each in checkpoints(tmp_path)] == [2, 3]


def test_a_checkpoint_is_due_at_every_multiple_but_never_while_one_is_written(tmp_path, monkeypatch):
    may_write = threading.Event()
    monkeypatch.setattr(saver_module, "write", lambda folder, snapshot: may_write.wait(30))
    saver = Saver(tmp_path, CheckpointConfig(every_env_steps=100), print)
    assert [saver.is_due(steps) for steps in (64, 99, 100, 128)] == [False, False, True, True]
    saver.save(a_snapshot(128))
    assert not saver.is_due(256)
    may_write.set()
    saver.wait()
    assert saver.is_due(256) and not saver.is_due(192)
    assert saver.is_saved(128) and not saver.is_saved(256)


def test_a_draft_that_vanishes_while_its_files_are_counted_does_no_harm(tmp_path, monkeypatch):
    saver = Saver(tmp_path, CheckpointConfig(), print)
    draft, scandir = tmp_path / "checkpoints" / ".1.draft" / "params", os.scandir
    draft.mkdir(parents=True)

    def vanish(path):
        if os.fspath(path) == str(draft):
            draft.rename(tmp_path / "params")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert saver._progress()[0] == 2 and (tmp_path / "params").is_dir()  # the folder of checkpoints, and the draft
    saver.close()


def test_any_checkpoint_can_be_used_without_its_replay_and_state(copy):
    for checkpoint in checkpoints(copy):
        for item in ("replay", "state"):
            shutil.rmtree(checkpoint.path / item)
    assert [load_run(copy, which).env_steps for which in ("last", 160, "128")] == [192, 160, 128]
    scores = {each.env_steps: each.score for each in checkpoints(copy)}
    assert scores[load_run(copy, "best").env_steps] == max(scores.values())
    for which in ("worst", "1__0x", "²", "_", "9" * 5000):
        with pytest.raises(ConfigError, match="must be last, best or environment steps"):
            load_run(copy, which)
    for which, said in {
        "7": "no checkpoint '7'; it has 128, 160, 192",
        7: "no checkpoint '7'; it has 128, 160, 192",
    }.items():
        with pytest.raises(ConfigError, match=said):
            load_run(copy, which)


@pytest.mark.slow
def test_a_checkpoint_of_several_seeds_opens_for_one_of_them(tmp_path):
    train(tmp_path, LONG, num_seeds=2, stop_after=4)
    run = load_run(tmp_path)
    assert run.config.num_seeds == 2
    saved = find(tmp_path).read("params")
    jax.tree.map(lambda one, all_: np.testing.assert_array_equal(one, all_[1]), run.params(seed=1), saved)


def test_only_drafts_of_checkpoints_are_removed_before_the_first_is_written(tmp_path):
    for name in (".1.draft.host.7", ".32.removed.host.7", ".git", ".notes.draft.x"):
        (tmp_path / "checkpoints" / name / "inside").mkdir(parents=True)
    Saver(tmp_path, CheckpointConfig(), print).close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [".git", ".notes.draft.x"]


@pytest.mark.parametrize("name", ["team_actions=[0,1]", "what?", "a*", "back\\slash"])
def test_a_folder_may_have_the_characters_of_a_pattern_in_its_name(tmp_path, name):
    write(tmp_path / name, a_snapshot(1))
    assert find(tmp_path / name).read("params")["x"].tolist() == [0, 1, 2]


# --- a disk that fails -------------------------------------------------------------------------------------------


def test_rows_wait_in_memory_while_the_disk_is_full_and_none_is_lost(tmp_path):
    said = []
    file = MetricsFile(tmp_path, say=said.append)
    rows = [{"env_steps": step, "text": "x" * 30} for step in range(4)]
    file.on_evaluation(rows[0])
    with no_file_larger_than(file.path.stat().st_size + 10):
        file.on_evaluation(rows[1])
        file.on_evaluation(rows[2])
        assert len(file.path.read_bytes().splitlines()) == 2  # the second is cut short
        assert read_metrics(file.path) == rows[:1] and file.failure
    file.on_evaluation(rows[3])
    assert read_metrics(file.path) == rows and file.failure == ""
    assert len(said) == 1 and "wait in memory" in said[0]


def test_a_failed_checkpoint_is_reported_once_and_leaves_the_older_ones(tmp_path):
    said = []
    saver = Saver(tmp_path, CheckpointConfig(), said.append)
    saver.save(a_snapshot(1))
    saver.wait()
    with no_file_larger_than(20):
        for step in (2, 3):
            saver.save(a_snapshot(step))
            assert not saver.is_saved(step)
    assert len(said) == 1 and "no checkpoint at step 2" in said[0] and saver.failure
    assert find(tmp_path).env_steps == 1 and not list(tmp_path.glob("checkpoints/.*"))
    told = []
    saver.listeners.append(told.append)
    saver.save(a_snapshot(4))
    assert saver.is_saved(4) and saver.failure == "" and find(tmp_path).env_steps == 4
    assert told == [tmp_path / "checkpoints" / "4"]


def test_a_checkpoint_that_cannot_be_read_back_is_a_failed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax, "_without_patterns", nullcontext)  # then Orbax leaves arrays that it does not find again
    said = []
    saver = Saver(tmp_path / "[0]", CheckpointConfig(), said.append)
    saver.save(a_snapshot(1))
    assert not saver.is_saved(1) and not checkpoints(tmp_path / "[0]")
    assert said == ["warning: no checkpoint at step 1, older ones stay: params holds no arrays that can be read back"]


def test_only_errors_of_stores_that_answer_late_are_not_printed(tmp_path, monkeypatch):
    printed = []
    for hook in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, hook, lambda *error: printed.append(error))
    orbax._hush_orbax.cache_clear()
    write(tmp_path, a_snapshot(1))
    late, other = RuntimeError("Event loop is closed"), RuntimeError("another")
    unraisable: Any = [SimpleNamespace(exc_value=error) for error in (late, other)]
    for each in unraisable:
        sys.unraisablehook(each)
        sys.excepthook(RuntimeError, each.exc_value, None)
    assert printed == [(unraisable[1],), (RuntimeError, other, None)]


def test_hooks_of_other_libraries_around_those_for_late_errors_are_not_called_in_a_circle(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: printed.append(error))
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    orbax._hush_orbax.cache_clear()
    write(tmp_path, a_snapshot(1))
    inner = sys.excepthook
    monkeypatch.setattr(sys, "excepthook", lambda *error: inner(*error))  # as W&B does
    write(tmp_path, a_snapshot(2))
    error = (RuntimeError, RuntimeError("another"), None)
    sys.excepthook(*error)
    assert printed == [error]


def test_a_run_whose_end_cannot_be_saved_trains_on_and_fails_clearly(copy, never_stopped, capsys):
    size = (copy / "metrics.jsonl").stat().st_size
    with pytest.MonkeyPatch.context() as patch, no_file_larger_than(size):
        patch.setattr(MetricsFile, "close", lambda self: None)  # the disk stays full until the end
        assert train(copy, LONG) == exits.NOT_SAVED
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "the end of the run could not be saved" in captured.err
    assert numbers(copy) == numbers(never_stopped)[:6]
    assert train(copy, LONG) == exits.DONE
    assert_same_end(copy, never_stopped)
