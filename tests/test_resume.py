"""A run that was stopped, killed or starved of disk goes on as if nothing had happened."""

import dataclasses
import json
import os
import pty
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from conftest import TINY, merge, tiny

from qmix_jax.config import CheckpointConfig, ConfigError, LoggingConfig, from_mapping
from qmix_jax.learning import replay
from qmix_jax.records import MetricsFile, read_metrics
from qmix_jax.reporters import dashboard
from qmix_jax.reporters.wandb import WandbRuns
from qmix_jax.run import checkpoint as checkpoint_module
from qmix_jax.run import exits, experiment, resume
from qmix_jax.run import program as parallel
from qmix_jax.run.checkpoint import Checkpoint, Saver, Snapshot, checkpoints, find, load_run, retain, write
from qmix_jax.run.program import Program

TIMING = {"wall_seconds", "compile_seconds", "train/steps_per_second"}
LONG = merge(
    TINY,
    {
        "total_env_steps": 256,
        "devices": 1,
        "exploration": {"decay_env_steps": 160},
        "learner": {"start_env_steps": 96},
        "evaluation": {"every_env_steps": 32},
        "logging": {"film": False},
    },
)
"""Eight evaluations: learning starts with the third, exploration ends with the fifth, replay holds four."""


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Runs of this module that differ only around the compiled program share it, and draw no curve."""
    compile_chunk, compiled = Program.compile_chunk, {}

    def executables(program: Program) -> tuple:
        """A program's initialisation and its chunk: the length of the run matters only by that of a chunk."""
        chunk = program.config.chunk_env_steps
        around = {"checkpoint": CheckpointConfig(), "logging": LoggingConfig(), "total_env_steps": chunk}
        evaluation = dataclasses.replace(program.config.evaluation, every_env_steps=chunk)
        name = repr(dataclasses.replace(program.config, evaluation=evaluation, **around))
        if name not in compiled:
            init = parallel.compile_quickly(program._init.lower(program._seeds))
            compiled[name] = init, compile_chunk(program)
        return compiled[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "init", lambda self: executables(self)[0](self._seeds))
        patch.setattr(Program, "start", lambda self, make_state: (make_state(), executables(self)[1]))
        patch.setattr(experiment, "draw_curve", lambda rows, path, title: path.touch())
        yield


@contextmanager
def stopped_after(row: int | None, number: int = signal.SIGTERM):
    """A signal comes right behind the row of this number, counted from 1 over the whole run."""
    log = MetricsFile.log

    def log_and_stop(self, new):
        log(self, new)
        if row is not None and new["env_steps"] == 32 * row:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsFile, "log", log_and_stop)
        yield


def train(folder: Path, settings: dict, stop_after: int | None = None, **changes) -> int:
    """Begin or go on, until the end or until the signal behind a row."""
    settings = merge(settings, changes)
    with stopped_after(stop_after):
        return experiment.run(from_mapping(settings), folder, settings, go_on=True)


def numbers(folder: Path) -> list[dict]:
    """The rows of a run without what the clock on the wall decides."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(folder / "metrics.jsonl")]


def assert_same_end(folder: Path, other: Path) -> None:
    """The same rows, and the same arrays in the last checkpoint: parameters, optimiser, replay, environments, keys."""
    assert numbers(folder) == numbers(other)
    ours, theirs = checkpoints(folder)[-1], checkpoints(other)[-1]
    assert ours.env_steps == theirs.env_steps
    for item in ("params", "state", "replay"):
        jax.tree.map(np.testing.assert_array_equal, ours.read(item), theirs.read(item))


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("never") / "run"
    assert train(folder, LONG) == exits.DONE
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Stopped behind row 6, with checkpoints of rows 4, 5 and 6."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    saved = {"every_env_steps": 32, "keep_last": 3, "keep_best": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "is_due", lambda self, env_steps: True)  # never skip one because the disk is slow
        assert train(folder, LONG, stop_after=6, checkpoint=saved) == exits.TERMINATED
    assert [each.env_steps for each in checkpoints(folder)] == [128, 160, 192]
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "copy")


# --- bit for bit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({}, [1]),  # exploring, and before learning starts
        ({}, [2, 4, 7]),  # the last one in which replay is not full; after that; after exploration
        ({"num_seeds": 2}, [1, 6]),
        ({"devices": 2}, [1, 6]),
    ],
    ids=["while exploring", "three times", "two seeds", "two devices"],
)
def test_a_stopped_run_gives_the_numbers_of_one_that_never_stopped(tmp_path, never_stopped, changes, stops):
    reference = never_stopped
    if changes:
        reference = tmp_path / "never"
        train(reference, LONG, **changes)
    for stop in stops:
        assert train(tmp_path / "run", LONG, stop_after=stop, **changes) == exits.TERMINATED
        assert len(numbers(tmp_path / "run")) == stop
    assert train(tmp_path / "run", LONG, **changes) == exits.DONE
    assert_same_end(tmp_path / "run", reference)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [each["env_steps"] for each in manifest["resumed"]] == [32 * stop for stop in stops]


def test_time_on_the_wall_goes_on_too(copy, monkeypatch):
    before, start = read_metrics(copy / "metrics.jsonl"), Program.start
    monkeypatch.setattr(Program, "start", lambda *args: time.sleep(0.01) or start(*args))
    train(copy, LONG, stop_after=7)
    rows = read_metrics(copy / "metrics.jsonl")
    assert rows[:6] == before
    assert rows[6]["wall_seconds"] > before[5]["wall_seconds"]
    assert rows[6]["compile_seconds"] > before[5]["compile_seconds"]


def test_a_run_stopped_before_its_first_row_begins_anew(tmp_path, never_stopped):
    folder = tmp_path / "run"
    (folder / "checkpoints" / ".32.draft").mkdir(parents=True)
    shutil.copy(never_stopped / "config.yaml", folder)
    (folder / "run.json").write_text('{"has_saved_its_state": false}')
    (folder / "metrics.jsonl").write_text('{"env_steps": 32}\n{"env_st')
    assert train(folder, LONG) == exits.DONE
    assert_same_end(folder, never_stopped)
    assert not list(folder.glob("checkpoints/.*"))


# --- dashboards --------------------------------------------------------------------------------------------------


class Wandb:
    """Weights & Biases, as far as it is used here, remembering what it was told once it may."""

    def __init__(self):
        self.may_go_on, self.ids, self.steps = threading.Event(), [], []
        self.may_go_on.set()

    def init(self, **options):
        assert self.may_go_on.wait(60)
        self.ids.append((options["id"], options["resume"]))
        return self

    def log(self, values):
        self.steps.append(values["env_steps"])

    def setup(self, *_, **__):
        pass

    Settings = define_metric = finish = setup


@pytest.fixture
def wandb(monkeypatch):
    """Weights & Biases, in the place of its package."""
    monkeypatch.setattr(WandbRuns, "media", lambda *_: None)
    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    return sys.modules["wandb"]


ONLINE = {"wandb": {"mode": "online"}}


def test_a_dashboard_that_hangs_holds_nothing_up(tmp_path, never_stopped, wandb, capsys, monkeypatch):
    monkeypatch.setattr(dashboard, "TIMEOUT", 0.01)
    wandb.may_go_on.clear()
    assert train(tmp_path, LONG, logging=ONLINE) == exits.DONE
    wandb.may_go_on.set()
    assert_same_end(tmp_path, never_stopped)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "Weights & Biases was left behind" in warning


def test_a_resumed_run_goes_on_in_the_same_dashboard_with_every_row_once(tmp_path, never_stopped, wandb):
    assert train(tmp_path, LONG, logging=ONLINE, stop_after=4) == exits.TERMINATED
    path = tmp_path / "checkpoints"
    assert train(tmp_path, LONG, logging=ONLINE, stop_after=6) == exits.TERMINATED
    shutil.rmtree(path / "192")  # as if it had been killed behind row 6
    assert train(tmp_path, LONG, logging=ONLINE) == exits.DONE
    assert wandb.steps == [32 * row for row in range(1, 9)]
    assert len(wandb.ids) == 3 and len(set(wandb.ids)) == 1 and wandb.ids[0][1] == "allow"
    assert_same_end(tmp_path, never_stopped)


def test_a_dashboard_that_comes_late_is_told_of_everything(copy, wandb):
    assert train(copy, LONG, logging=ONLINE) == exits.DONE
    assert wandb.steps == [32 * row for row in range(1, 9)]


# --- on other devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 2), (2, 1), (2, 2)])
def test_replay_is_laid_out_anew_as_other_devices_would_have_filled_it(before, after):
    """Seven inserts of 4 rows into a ring of 16, each row named by its insert and its environment."""

    def filled(devices):
        buffer = replay.ReplayBuffer(16 // devices, 4 // devices)
        rings = [buffer.init(jnp.zeros(())) for _ in range(devices)]
        for insert in range(7):
            share = jnp.split(10 * insert + jnp.arange(4.0), devices)
            rings = [buffer.insert(ring, rows, jnp.array(insert)) for ring, rows in zip(rings, share, strict=True)]
        return np.concatenate(rings)[None]

    np.testing.assert_array_equal(replay.split_again(filled(before), 4, before, after), filled(after))


def test_a_run_moves_from_two_devices_to_one_and_back(tmp_path):
    folder = tmp_path / "run"
    train(folder, LONG, stop_after=3, devices=2)
    train(folder, LONG, stop_after=6, devices=1)
    (three, six) = [each.read("replay") for each in checkpoints(folder) if each.is_whole_state]
    # rows of insert 2 (the third) by environment: half a device each before, side by side after
    reward = three["reward"][0].reshape(2, 4, 2, 8)[:, 2].reshape(4, 8)
    np.testing.assert_array_equal(six["reward"][0].reshape(4, 4, 8)[2], reward)
    assert train(folder, LONG, devices=2) == exits.DONE
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["env_steps"] for row in rows] == [32 * i for i in range(1, 9)]
    assert [row["train/updates"] for row in rows] == [[0], [0], *[[2]] * 6]
    manifest = json.loads((folder / "run.json").read_text())
    assert [each["changes"]["devices"] for each in manifest["resumed"]] == [["2", "1"], ["1", "2"]]


# --- signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), exits.STOP_SIGNALS.items())
def test_a_signal_finishes_the_chunk_saves_and_says_so_in_the_status(tmp_path, never_stopped, number, status):
    with stopped_after(3, number):
        assert experiment.run(from_mapping(LONG), tmp_path, LONG) == status
    assert numbers(tmp_path) == numbers(never_stopped)[:3]
    assert find(tmp_path).env_steps == 96 and find(tmp_path).is_whole_state


def test_a_second_ctrl_c_ends_at_once():
    before = signal.getsignal(signal.SIGINT)
    with exits.stop_signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGTERM, signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_statuses_are_those_of_the_documentation():
    assert exits.STOP_SIGNALS == {
        signal.SIGINT: 130,
        signal.SIGTERM: 143,
        signal.SIGHUP: 143,
        signal.SIGUSR1: 75,
        signal.SIGUSR2: 75,
    }


def test_under_nohup_a_closed_terminal_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with exits.stop_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == [] and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_complete_run_says_so_and_is_left_alone(never_stopped, capsys):
    before = {path: path.stat().st_mtime_ns for path in never_stopped.rglob("*")}
    assert train(never_stopped, LONG) == exits.DONE
    assert "is complete: 256 environment steps" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in never_stopped.rglob("*")} == before


# --- other settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"env": {"episode_length": 6}},
        {"algorithm": {"embed_size": 8}},
        {"agent": {"hidden_size": 16}},
        {"rollout": {"num_envs": 8}},
        {"replay": {"capacity": 256}},
        {"learner": {"optimizer": "radam"}},
        {"learner": {"gamma": 0.9}},
        {"seed": 1},
        {"num_seeds": 2},
    ],
    ids=str,
)
def test_what_shapes_the_saved_state_is_refused_by_name(stopped, changes):
    settings = merge(LONG, changes)
    ((group, value),) = changes.items()
    name = f"{group}.{next(iter(value))}" if isinstance(value, dict) else group
    before = (stopped / "run.json").read_text()
    with pytest.raises(ConfigError, match=rf"another value of {name} \(.* before, .* now\)") as refused:
        experiment.run(from_mapping(settings), stopped, settings, go_on=True)
    assert "\n" not in str(refused.value)
    assert (stopped / "run.json").read_text() == before


def test_other_settings_are_taken_and_recorded(copy, capsys):
    settings = resume.merge_settings(copy, ["total_env_steps=320", "logging.display=plain"])
    assert train(copy, settings) == exits.DONE
    assert numbers(copy)[-1]["env_steps"] == 320
    said = capsys.readouterr().out
    assert "goes on from step 192" in said and "changed: total_env_steps 256 -> 320" in said
    assert load_run(copy).config == from_mapping(settings)
    (resumed,) = json.loads((copy / "run.json").read_text())["resumed"]
    assert resumed["changes"] == {"total_env_steps": [256, 320], "logging.display": ["none", "plain"]}
    assert resumed["versions"]["jax"] == jax.__version__


def test_the_decay_of_the_learning_rate_follows_a_new_end(stopped):
    config = from_mapping(merge(LONG, {"total_env_steps": 320, "learner": {"final_learning_rate": 0.0}}))
    program = experiment.check(config)
    going_on = experiment.Run(program, stopped, resume.find_past(stopped, program))
    rate = going_on.program.trainer.learner.learning_rate(jnp.array(going_on.env_steps))
    assert float(rate) == pytest.approx(0.01 * (1 - 192 / 320))
    assert "learner.learning_rate from now on decays over the new total_env_steps" in going_on.news()


def test_a_run_shorter_than_a_chunk_grows_into_longer_chunks(tmp_path):
    """32 steps are one iteration and so one chunk; of 192, evaluated every 64, a chunk is two iterations."""
    settings = {"evaluation": {"every_env_steps": 64}, "total_env_steps": 32, "learner": {"start_env_steps": 32}}
    short = merge(LONG, settings)
    assert train(tmp_path, short) == exits.DONE
    assert train(tmp_path, short, total_env_steps=192) == exits.DONE
    assert [row["env_steps"] for row in numbers(tmp_path)] == [32, 96, 160, 224]
    assert [row["train/updates"] for row in numbers(tmp_path)] == [[2], [4], [4], [4]]


def test_overrides_of_a_resumed_run_are_checked(stopped, tmp_path):
    for override, said in {
        "env=mpe": "env=mpe: the env of a run stays",
        "learner.lr=1": "unknown setting 'learner.lr'",
        "-m": "'-m': a resumed run takes settings only",
        "seed": "'seed': a resumed run takes settings only",
    }.items():
        with pytest.raises(ConfigError, match=said):
            resume.merge_settings(stopped, [override])
    with pytest.raises(ConfigError, match="no run's folder"):
        resume.merge_settings(tmp_path, [])


def test_a_new_run_does_not_write_over_another(stopped):
    with pytest.raises(ConfigError, match=r"holds a run: add resume=auto"):
        experiment.run(from_mapping(LONG), stopped, LONG)


# --- without the replay ------------------------------------------------------------------------------------------


def test_without_replay_learning_waits_until_it_has_gathered_what_it_starts_with(tmp_path, capsys):
    bare = merge(LONG, {"checkpoint": {"replay": False}, "total_env_steps": 384})
    train(tmp_path, bare, logging={"display": "plain"}, stop_after=6)
    assert "a resumed run will gather 96 environment steps before it learns" in capsys.readouterr().out
    assert not find(tmp_path).has_replay
    train(tmp_path, bare, logging={"display": "plain"}, checkpoint={"replay": True}, stop_after=10)
    assert "learning waits until 96 environment steps are gathered anew" in capsys.readouterr().out
    rows = numbers(tmp_path)
    # the third iteration after the resume is the one that reaches 96 environment steps again
    assert [row["train/updates"][0] for row in rows] == [0, 0, 2, 2, 2, 2, 0, 0, 2, 2]
    assert [row["train/replay_fill"][0] for row in rows[5:]] == [1.0, 0.25, 0.5, 0.75, 1.0]
    # where replay began is saved with it: the next stop changes nothing
    again = shutil.copytree(tmp_path, tmp_path.with_name("again"))
    train(again, bare, checkpoint={"replay": True}, stop_after=11)
    for folder in (tmp_path, again):
        assert train(folder, bare, checkpoint={"replay": True}) == exits.DONE
    assert_same_end(again, tmp_path)


def test_nothing_is_learnt_from_rows_that_were_never_played(tmp_path):
    """Only rewards of the rows gathered since are in replay behind a resume without it."""
    bare = merge(LONG, {"checkpoint": {"replay": False}})
    train(tmp_path, bare, stop_after=6)
    train(tmp_path, bare, checkpoint={"replay": True}, stop_after=7)
    observed = find(tmp_path).read("replay")["observation/agents"][0]
    assert observed[:4].any(axis=(1, 2, 3)).all() and not observed[4:].any()


# --- broken on disk ----------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files(folder: Path, item: str) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints" / "192" / item).rglob("*") if path.is_file())


def largest(folder: Path, item: str) -> Path:
    return max(files(folder, item), key=lambda path: path.stat().st_size)


def in_manifest(folder: Path, keep, *more: str) -> None:
    """Let the manifest of the newest checkpoint list only some files, and others."""
    path = folder / "checkpoints" / "192" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if keep(name)}
    manifest["files"] |= {name: [*checkpoint_module._size_and_crc(path.parent / name)] for name in more}
    path.write_text(json.dumps(manifest))


DAMAGE = {
    "a flipped bit in the replay": lambda folder: flip(largest(folder, "replay")),
    "a flipped bit in the state": lambda folder: flip(largest(folder, "state")),
    "a flipped bit in the parameters": lambda folder: flip(largest(folder, "params")),
    "a truncated file": lambda folder: os.truncate(largest(folder, "replay"), 10),
    "a lost file": lambda folder: largest(folder, "state").unlink(),
    "a flipped bit in the rows": lambda folder: flip(folder / "checkpoints/192/metrics.jsonl"),
    "a flipped bit in about.json": lambda folder: flip(folder / "checkpoints/192/about.json"),
    "no manifest": lambda folder: (folder / "checkpoints/192/manifest.json").unlink(),
    "an empty manifest": lambda folder: os.truncate(folder / "checkpoints/192/manifest.json", 0),
    "a manifest of nothing": lambda folder: in_manifest(folder, lambda name: False),
    "a manifest without parameters": lambda folder: in_manifest(folder, lambda name: "params/" not in name),
    "a manifest without the state": lambda folder: in_manifest(folder, lambda name: "state/" not in name),
    "a manifest without the replay": lambda folder: in_manifest(folder, lambda name: "replay/" not in name),
    "a manifest without the rows": lambda folder: in_manifest(folder, lambda name: name != "metrics.jsonl"),
    "a manifest without about.json": lambda folder: in_manifest(folder, lambda name: name != "about.json"),
    "a manifest of a file outside": lambda folder: in_manifest(folder, lambda name: True, "../160/about.json"),
    "a list for a manifest": lambda folder: (folder / "checkpoints/192/manifest.json").write_text("[]"),
    "a deeply nested manifest": lambda folder: (folder / "checkpoints/192/manifest.json").write_text("[" * 100_000),
    "a list for about.json": lambda folder: (folder / "checkpoints/192/about.json").write_text("[]"),
    "a file for a folder": lambda folder: (
        shutil.rmtree(folder / "checkpoints/192") or (folder / "checkpoints/192").touch()
    ),
    "an empty folder": lambda folder: shutil.rmtree(folder / "checkpoints/192") or (folder / "checkpoints/192").mkdir(),
}


def past_of(folder: Path) -> resume.Past:
    """What a run with the settings of `stopped` would go on from."""
    return resume.find_past(
        folder, experiment.check(from_mapping(merge(LONG, {"checkpoint": {"every_env_steps": 32}})))
    )


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_broken_checkpoint_is_named_and_passed_over(copy, damage, capsys):
    damage(copy)
    past = past_of(copy)
    assert past.env_steps == 160 and len(past.rows) == 5
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{copy}/checkpoints/192 is skipped: " in said


def test_a_checkpoint_that_cannot_be_restored_is_named_and_passed_over(copy, never_stopped, monkeypatch, capsys):
    read = Checkpoint.read

    def fail(self, item):
        if self.env_steps == 192:
            raise RuntimeError("Error opening zarr\ndriver")
        return read(self, item)

    monkeypatch.setattr(Checkpoint, "read", fail)
    assert load_run(copy).env_steps == 160
    assert "checkpoints/192 is skipped: it cannot be read: Error opening zarr driver\n" in capsys.readouterr().err
    assert train(copy, LONG) == exits.DONE
    assert_same_end(copy, never_stopped)


NEIGHBOURS = {
    "a list": "[]",
    "a word for a score": '{"score": "x", "metric": ["y"], "items": "params", "settings": 3, "wall_seconds": {}}',
    "NaN for a score": '{"score": NaN, "items": [1, null]}',
    "deep nesting": "[" * 100_000,
    "no JSON": "\xff",
}


@pytest.mark.parametrize("about", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_damaged_neighbours_stop_nothing(copy, never_stopped, about, capsys):
    (copy / "checkpoints" / "128" / "about.json").write_text(about)
    (copy / "run.json").write_text(about)
    for name in ("²", "007", "notes", "9" * 5000 if os.name == "nt" else "9" * 200):
        (copy / "checkpoints" / name).mkdir()
    (copy / "checkpoints" / "100").touch()
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    lines[1:1] = ["[]", '{"env_steps": "x"}', '{"env_steps": true}', "3", "[" * 100_000, '{"env_steps": 5']
    (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    os.mkfifo(copy / "checkpoints" / "160" / "pipe")
    assert [row["env_steps"] for row in read_metrics(str(copy / "metrics.jsonl"))] == [32 * i for i in range(1, 7)]
    assert "metrics.jsonl: line 2, 3, 4, 5, 6 and others hold no row and are skipped" in capsys.readouterr().err
    for which in ("last", "best"):
        assert load_run(copy, which).env_steps > 128
    assert train(copy, LONG) == exits.DONE
    assert_same_end(copy, never_stopped)
    assert (copy / "checkpoints" / "notes").is_dir()


def test_rows_without_a_checkpoint_are_not_thrown_away(copy):
    shutil.rmtree(copy / "checkpoints")
    before = contents(copy)
    with pytest.raises(
        ConfigError, match=r"6 rows in metrics.jsonl and no checkpoint.*To begin anew, delete .*/metrics"
    ):
        train(copy, LONG)
    assert contents(copy) == before


def test_before_its_first_whole_state_was_saved_a_run_begins_anew(tmp_path, never_stopped):
    """The parameters of its best evaluation alone are there, as behind a kill."""
    assert train(tmp_path, LONG, stop_after=3) == exits.TERMINATED
    shutil.rmtree(tmp_path / "checkpoints" / "96")
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["has_saved_its_state"] is True
    (tmp_path / "run.json").write_text(json.dumps({**manifest, "has_saved_its_state": False}))
    assert [each.is_for_score for each in checkpoints(tmp_path)] == [True]
    assert train(tmp_path, LONG) == exits.DONE
    assert_same_end(tmp_path, never_stopped)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_no_evaluation_can_be_used_again(tmp_path, never_stopped):
    resume.require_place(tmp_path / "none", go_on=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 3")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"env_ste')
    settings = merge(LONG, {})
    assert experiment.run(from_mapping(settings), tmp_path / "run", settings) == exits.DONE
    assert_same_end(tmp_path / "run", never_stopped)


# --- settings that changed on the disk ---------------------------------------------------------------------------


def edit(folder: Path, change) -> dict:
    """Change config.yaml by hand, and merge as --resume does."""
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    change(settings)
    path.write_text(yaml.safe_dump(settings))
    return resume.merge_settings(folder, [])


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("learner", "gamma", 0.5),
        ("learner", "reward_scale", 2.0),
        ("agent", "hidden_size", 9),
        ("env", "ends", "truncated"),
    ],
)
def test_an_edited_setting_that_may_not_change_is_refused_before_anything_is_written(copy, section, name, value):
    settings = edit(copy, lambda settings: settings.setdefault(section, {}).update({name: value}))
    before = contents(copy)
    with pytest.raises(ConfigError, match=rf"another value of {section}\.{name} \(.* before, {value} now\)"):
        train(copy, settings)
    assert contents(copy) == before


def test_an_edited_setting_that_may_change_is_named(copy, capsys):
    settings = edit(copy, lambda settings: settings["learner"].update(td_lambda=0.25))
    assert train(copy, settings, logging={"display": "plain"}) == exits.DONE
    assert "changed: learner.td_lambda 0.8 -> 0.25" in capsys.readouterr().out


def test_a_setting_that_is_gone_from_config_yaml_is_taken_from_the_checkpoint(copy, never_stopped):
    settings = edit(copy, lambda settings: settings["learner"].pop("learning_rate"))
    assert train(copy, settings) == exits.DONE
    assert_same_end(copy, never_stopped)
    assert yaml.safe_load((copy / "config.yaml").read_text())["learner"]["learning_rate"] == 0.01


def in_about(folder: Path, change) -> None:
    """Change the settings that the newest checkpoint keeps, and its manifest with them."""
    path = folder / "checkpoints" / "192" / "about.json"
    about = json.loads(path.read_text())
    change(about["settings"])
    path.write_text(json.dumps(about))
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"]["about.json"] = [path.stat().st_size, zlib.crc32(path.read_bytes())]
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


def test_settings_of_another_version_are_said_to_be(copy, capsys, never_stopped):
    in_about(copy, lambda settings: settings["learner"].pop("adam_epsilon"))
    fewer = shutil.copytree(copy, copy.with_name("fewer"))
    assert train(fewer, LONG, logging={"display": "plain"}) == exits.DONE
    assert "another version of qmix_jax wrote the checkpoint; it did not know learner.adam_epsilon=1e-08" in (
        capsys.readouterr().out
    )
    assert_same_end(fewer, never_stopped)
    in_about(copy, lambda settings: settings["learner"].update(momentum=1))
    before = contents(copy)
    for attempt in (lambda: train(copy, LONG), lambda: load_run(copy)):
        with pytest.raises(
            ConfigError, match=r"192 was made by another version of qmix_jax: unknown setting 'learner.mom"
        ):
            attempt()
    assert contents(copy) == before


def test_settings_of_a_checkpoint_are_plain_values(copy):
    in_about(copy, lambda settings: settings["logging"]["wandb"].update(project="${oc.env:HOME}"))
    for attempt in (lambda: resume.merge_settings(copy, []), lambda: load_run(copy), lambda: train(copy, LONG)):
        with pytest.raises(ConfigError, match=r"192/about.json is damaged: .* is an interpolation"):
            attempt()


def test_a_team_is_used_with_the_settings_that_it_was_trained_with(copy, capsys):
    trained = load_run(copy).config
    edit(copy, lambda settings: settings["env"].update(episode_length=3))
    assert load_run(copy).config == trained
    said = capsys.readouterr().err
    assert "config.yaml was changed since" in said and "env.episode_length=3 (trained with 5)" in said


def test_a_run_of_an_older_version_without_settings_in_its_checkpoints_goes_on(copy, never_stopped):
    for path in copy.glob("checkpoints/*/about.json"):
        about = json.loads(path.read_text())
        del about["settings"]
        path.write_text(json.dumps(about))
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["files"]["about.json"] = [path.stat().st_size, zlib.crc32(path.read_bytes())]
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
    (copy / "run.json").write_text("{}")
    assert load_run(copy).env_steps == 192
    assert train(copy, resume.merge_settings(copy, [])) == exits.DONE
    assert_same_end(copy, never_stopped)


def test_every_file_of_a_checkpoint_is_watched(copy):
    checkpoint = Checkpoint(copy / "checkpoints" / "192")
    assert checkpoint.flaw(to_resume=True) == ""
    for path in files(copy, "."):
        whole = path.read_bytes()
        if whole and path.name != "manifest.json":
            flip(path)
            assert str(path.relative_to(checkpoint.path)) in checkpoint.flaw(to_resume=True)
            path.write_bytes(whole)
    assert checkpoint.flaw(to_resume=True) == ""


def test_a_run_goes_on_exactly_from_the_checkpoint_before_a_broken_one(copy, never_stopped):
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 224}\n{"env_st')  # a row beyond the checkpoint, and half a one
    flip(largest(copy, "replay"))
    assert train(copy, LONG) == exits.DONE
    assert_same_end(copy, never_stopped)


def test_where_no_checkpoint_is_whole_nothing_is_thrown_away(copy):
    for checkpoint in checkpoints(copy):
        (checkpoint.path / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="none of its checkpoints is whole"):
        train(copy, LONG)
    assert len(numbers(copy)) == 6


def test_a_checkpoint_of_another_version_is_named(copy, capsys):
    path = copy / "checkpoints" / "192" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    assert find(copy).env_steps == 160
    assert "another version wrote it (format 99" in capsys.readouterr().err
    program = experiment.check(tiny(devices=1, agent={"hidden_size": 9}))
    with pytest.raises(ConfigError, match=r"float32\[1, .*8.*\] for seeds/learner/params/.* needs float32\[1, .*9"):
        find(copy).restore(program)


# --- what is kept ------------------------------------------------------------------------------------------------


def a_snapshot(
    env_steps: int, score: float | None = None, items: tuple = ("params", "state"), metric: str = "eval/return"
) -> Snapshot:
    about = {"metric": metric, "score": score}
    return Snapshot(env_steps, {item: {"x": np.arange(3.0)} for item in items}, "", about)


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

    monkeypatch.setattr(checkpoint_module, "write", slow)
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
    parameters, row = {}, experiment.Run._row

    def with_score(self, clock, metrics, seconds):
        made = row(self, clock, metrics, seconds)
        return {**made, "eval/win_rate": [scores[made["env_steps"]]]}

    def remember(self, params):
        parameters[self.env_steps] = params
        keep_good(self, params)

    keep_good = experiment.Run._keep_good
    monkeypatch.setattr(experiment.Run, "_row", with_score)
    monkeypatch.setattr(experiment.Run, "_keep_good", remember)
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


def test_scores_of_another_metric_are_no_match_for_those_of_the_newest(tmp_path):
    write(tmp_path, a_snapshot(1, 1.9))
    for step, score in {2: 0.99, 3: 0.5}.items():
        write(tmp_path, a_snapshot(step, score, metric="eval/win_rate"))
    assert find(tmp_path, "best").env_steps == 2
    retain(tmp_path, keep_last=1, keep_best=1)
    assert [each.env_steps for each in checkpoints(tmp_path)] == [2, 3]


def test_a_checkpoint_falls_due_with_every_multiple_but_never_while_one_is_written(tmp_path, monkeypatch):
    may_write = threading.Event()
    monkeypatch.setattr(checkpoint_module, "write", lambda folder, snapshot: may_write.wait(30))
    saver = Saver(tmp_path, CheckpointConfig(every_env_steps=100), print)
    assert [saver.is_due(steps) for steps in (64, 99, 100, 128)] == [False, False, True, True]
    saver.save(a_snapshot(128))
    assert not saver.is_due(256)
    may_write.set()
    saver.wait()
    assert saver.is_due(256) and not saver.is_due(192)
    assert saver.is_saved(128) and not saver.is_saved(256)


def test_any_checkpoint_can_be_used_without_its_replay_and_state(copy):
    for checkpoint in checkpoints(copy):
        for item in ("replay", "state"):
            shutil.rmtree(checkpoint.path / item)
    assert [load_run(copy, which).env_steps for which in ("last", 160, "128")] == [192, 160, 128]
    scores = {each.env_steps: each.score for each in checkpoints(copy)}
    assert scores[load_run(copy, "best").env_steps] == max(scores.values())
    for which, said in {"worst": "must be last, best or", 7: "no checkpoint '7'; it has 128, 160, 192"}.items():
        with pytest.raises(ConfigError, match=said):
            load_run(copy, which)


def test_a_checkpoint_of_several_seeds_opens_for_one_of_them(tmp_path):
    train(tmp_path, LONG, num_seeds=2, stop_after=4)
    run = load_run(tmp_path)
    assert run.config.num_seeds == 2
    saved = find(tmp_path).read("params")
    jax.tree.map(lambda one, all_: np.testing.assert_array_equal(one, all_[1]), run.params(seed=1), saved)


# --- a disk that fails -------------------------------------------------------------------------------------------


@contextmanager
def no_file_larger_than(size: int):
    """The kernel refuses to write further into any file, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_wait_in_memory_while_the_disk_is_full_and_none_is_lost(tmp_path):
    said = []
    file = MetricsFile(tmp_path, say=said.append)
    rows = [{"env_steps": step, "text": "x" * 30} for step in range(4)]
    file.log(rows[0])
    with no_file_larger_than(file.path.stat().st_size + 10):
        file.log(rows[1])
        file.log(rows[2])
        assert len(file.path.read_bytes().splitlines()) == 2  # the second is cut short
        assert read_metrics(file.path) == rows[:1] and file.failure
    file.log(rows[3])
    assert read_metrics(file.path) == rows and file.failure == ""
    assert len(said) == 1 and "wait in memory" in said[0]


def test_a_checkpoint_that_cannot_be_written_is_said_once_and_leaves_the_older_ones(tmp_path):
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


def script(text: str, *arguments: object, **options) -> subprocess.Popen:
    """A process of its own that runs a program text."""
    command = [*options.pop("before", ()), sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


ON_A_SMALL_DISK = """
    import os, subprocess, sys
    from pathlib import Path
    import numpy as np
    from qmix_jax.run.checkpoint import Saver, Snapshot, find
    from qmix_jax.config import CheckpointConfig
    from qmix_jax.records import MetricsFile, read_metrics

    place = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
    said = []
    saver, metrics = Saver(place, CheckpointConfig(keep_last=1), said.append), MetricsFile(place, say=said.append)

    def save(step):
        saver.save(Snapshot(step, {"params": {"x": np.random.default_rng(step).random(30_000)}}, "", {}))
        metrics.log({"env_steps": step, "text": "x" * 5000})
        return saver.is_saved(step)

    assert save(1) and len(read_metrics(metrics.path)) == 1, said
    with (place / "ballast").open("wb", buffering=0) as file:  # fill it up
        while file.write(b"x" * 512) == 512 and os.statvfs(place).f_bavail:
            pass
    assert not save(2) and not save(3)
    assert len(said) == 2, said
    assert find(place).env_steps == 1 and len(read_metrics(metrics.path)) < 3 and metrics.failure and saver.failure
    (place / "ballast").unlink()
    assert save(4) and find(place).env_steps == 4 and not saver.failure
    assert [row["env_steps"] for row in read_metrics(metrics.path)] == [1, 2, 3, 4] and not metrics.failure
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    assert not save(5) and "Read-only" in saver.failure and "Read-only" in metrics.failure
    assert find(place).env_steps == 4 and len(said) == 2
    print("done")
"""


def can_mount() -> bool:
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(mount, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="may not mount a file system")
def test_a_small_disk_that_fills_up_is_emptied_and_turns_read_only(tmp_path):
    out, err = script(ON_A_SMALL_DISK, tmp_path, before=["unshare", "-rm"]).communicate(timeout=300)
    assert out == "done\n", err


# --- kill -9 -----------------------------------------------------------------------------------------------------

SAVING = """
    import sys
    from pathlib import Path
    import numpy as np
    from qmix_jax.run.checkpoint import Snapshot, retain, write

    step = int(sys.argv[2])
    while True:
        step += 1
        arrays = {"x": np.full(300_000, step)}
        write(Path(sys.argv[1]), Snapshot(step, {"params": arrays, "state": arrays}, "", {"score": step % 7}))
        print(step, flush=True)
        retain(Path(sys.argv[1]), 2, 1)
"""


@pytest.mark.slow
def test_a_process_killed_while_it_saves_leaves_the_last_whole_checkpoint(tmp_path):
    chance, newest = random.Random(0), 0
    for _ in range(3):
        process = script(SAVING, tmp_path, newest)
        written = newest + sum(1 for _, line in zip(range(2), process.stdout, strict=False))  # two are on the disk
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        written += len(process.communicate()[0].split())
        newest = checkpoints(tmp_path)[-1].env_steps
        assert newest in (written, written + 1)  # one may have been renamed but not yet told of
        for checkpoint in checkpoints(tmp_path):
            assert checkpoint.flaw(to_resume=True) == ""
            assert (checkpoint.read("state")["x"] == checkpoint.env_steps).all()
    Saver(tmp_path, CheckpointConfig(), print)
    assert not list(tmp_path.glob("checkpoints/.*"))


@pytest.mark.slow
def test_the_same_line_started_again_after_every_kill_gives_the_rows_of_a_run_never_killed(tmp_path):
    line = (
        "train env=probe resume=auto devices=1 total_env_steps=32000 evaluation.every_env_steps=160 "
        "evaluation.episodes=8 checkpoint.every_env_steps=160 logging.film=false logging.display=none hydra.run.dir="
    )
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def start(folder: str) -> subprocess.Popen:
        environment = {**os.environ, **cache, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-m", "qmix_jax", *(line + folder).split()]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    chance, metrics = random.Random(1), tmp_path / "killed" / "metrics.jsonl"
    for kill in range(2):
        process = start("killed")
        deadline = time.monotonic() + 300
        while not (tmp_path / "killed" / "checkpoints").is_dir() or len(read_metrics(metrics)) < 4 + 8 * kill:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.wait()
        assert len(read_metrics(metrics)) < 200  # killed with seconds of work left: a slow watcher is in time too
    for folder in ("killed", "killed", "whole"):  # the second start finds it complete
        process = start(folder)
        assert process.wait(timeout=300) == exits.DONE, process.communicate()[1]
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
    assert len(numbers(tmp_path / "killed")) == 200


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_closed_terminal_saves(tmp_path):
    """The first process trains on a terminal of its own, which is closed in mid-run."""
    line = (
        "train env=probe resume=auto devices=1 total_env_steps=3_200_000 evaluation.every_env_steps=3200 "
        "evaluation.episodes=8 logging.film=false logging.display=live hydra.run.dir=run"
    )
    command = [sys.executable, "-m", "qmix_jax", *line.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TERM": "xterm"}
    run, (outside, inside) = tmp_path / "run", pty.openpty()
    on_its_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", on_its_terminal, *command],
        cwd=tmp_path,
        env=environment,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    closing = threading.Event()

    def read() -> None:
        while not closing.is_set():
            if select.select([outside], [], [], 0.05)[0]:
                os.read(outside, 4096)

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").stat().st_size:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert f"in use by process {first.pid} on " in second.stderr and first.poll() is None
    closing.set()
    reader.join()
    os.close(outside)
    assert first.wait(timeout=300) == exits.TERMINATED
    assert read_metrics(run / "metrics.jsonl")[-1]["env_steps"] == find(run).env_steps and find(run).is_whole_state
    assert not (run / "run.lock").exists()
