"""A run that was stopped resumes as if it had never stopped."""

import json
import os
import shutil
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import merge
from resuming import LONG, assert_same_end, numbers, stopped_after, train

from qmix_jax.build import from_mapping
from qmix_jax.learning import replay
from qmix_jax.records import read_metrics
from qmix_jax.reporters import dashboard
from qmix_jax.reporters.wandb import WandbRuns
from qmix_jax.run import exits, experiment, messages, resume
from qmix_jax.run.checkpoint import checkpoints, find
from qmix_jax.run.program import Program
from qmix_jax.run.trained import load_run
from qmix_jax.settings import ConfigError

pytestmark = pytest.mark.usefixtures("shared_programs")

# --- bit for bit -------------------------------------------------------------------------------------------------


@pytest.mark.slow
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


def test_wall_clock_time_continues(copy, monkeypatch):
    before, start = read_metrics(copy / "metrics.jsonl"), Program.start
    monkeypatch.setattr(Program, "start", lambda *args: time.sleep(0.01) or start(*args))
    train(copy, LONG, stop_after=7)
    rows = read_metrics(copy / "metrics.jsonl")
    assert rows[:6] == before
    assert rows[6]["wall_seconds"] > before[5]["wall_seconds"]
    assert rows[6]["compile_seconds"] > before[5]["compile_seconds"]


def test_a_run_stopped_before_its_first_row_starts_from_the_beginning(tmp_path, never_stopped):
    folder = tmp_path / "run"
    (folder / "checkpoints" / ".32.draft.host.1").mkdir(parents=True)
    shutil.copy(never_stopped / "config.yaml", folder)
    (folder / "run.json").write_text('{"has_saved_its_state": false}')
    (folder / "metrics.jsonl").write_text('{"env_steps": 32}\n{"env_st')
    assert train(folder, LONG) == exits.DONE
    assert_same_end(folder, never_stopped)
    assert not list(folder.glob("checkpoints/.*"))


# --- dashboards --------------------------------------------------------------------------------------------------


class Wandb:
    """Weights & Biases, as far as it is used here; `init` waits until `may_go_on`, and the calls are recorded."""

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
    monkeypatch.setattr(WandbRuns, "on_end", lambda *_: None)
    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    return sys.modules["wandb"]


ONLINE = {"wandb": {"mode": "online"}}


def test_a_dashboard_that_hangs_delays_nothing(tmp_path, never_stopped, wandb, capsys, monkeypatch):
    monkeypatch.setattr(dashboard, "TIMEOUT", 0.01)
    wandb.may_go_on.clear()
    assert train(tmp_path, LONG, logging=ONLINE) == exits.DONE
    wandb.may_go_on.set()
    assert_same_end(tmp_path, never_stopped)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "Weights & Biases was left behind" in warning


def test_a_resumed_run_reports_to_the_same_dashboard_every_row_once(tmp_path, never_stopped, wandb):
    assert train(tmp_path, LONG, logging=ONLINE, stop_after=4) == exits.TERMINATED
    path = tmp_path / "checkpoints"
    assert train(tmp_path, LONG, logging=ONLINE, stop_after=6) == exits.TERMINATED
    shutil.rmtree(path / "192")  # as if it had been killed behind row 6
    assert train(tmp_path, LONG, logging=ONLINE) == exits.DONE
    assert wandb.steps == [32 * row for row in range(1, 9)]
    assert len(wandb.ids) == 3 and len(set(wandb.ids)) == 1 and wandb.ids[0][1] == "allow"
    assert_same_end(tmp_path, never_stopped)


def test_a_dashboard_added_on_resume_gets_every_row(copy, wandb):
    assert train(copy, LONG, logging=ONLINE) == exits.DONE
    assert wandb.steps == [32 * row for row in range(1, 9)]


# --- on other devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 2), (2, 1), (2, 2)])
def test_a_replay_is_rearranged_as_other_devices_would_have_filled_it(before, after):
    """Seven inserts of 4 rows into a ring of 16, each row named by its insert and its environment."""

    def filled(devices):
        buffer = replay.ReplayBuffer(16 // devices, 4 // devices)
        rings = [buffer.init(jnp.zeros(())) for _ in range(devices)]
        for insert in range(7):
            share = jnp.split(10 * insert + jnp.arange(4.0), devices)
            rings = [buffer.insert(ring, rows, jnp.array(insert)) for ring, rows in zip(rings, share, strict=True)]
        return np.concatenate(rings)[None]

    np.testing.assert_array_equal(replay.split_again(filled(before), 4, before, after), filled(after))


@pytest.mark.slow
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
def test_a_signal_ends_a_run_after_its_chunk_saved_with_a_status(tmp_path, never_stopped, number, status):
    with stopped_after(3, number):
        assert experiment.train(from_mapping(LONG), tmp_path, LONG).status == status
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


def test_under_nohup_a_closed_terminal_does_not_stop_a_run():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with exits.stop_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == [] and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_ctrl_c_shows_the_cursor_since_the_second_ends_at_once(monkeypatch, capfd):
    monkeypatch.setattr(os, "isatty", lambda number: number == 1)
    with exits.stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert not capfd.readouterr().out
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().out == "\x1b[?25h"


def test_a_complete_run_says_so_and_is_left_alone(never_stopped, capsys):
    before = {path: path.stat().st_mtime_ns for path in never_stopped.rglob("*")}
    assert train(never_stopped, LONG) == exits.DONE
    assert "is complete: 256 environment steps" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in never_stopped.rglob("*")} == before


@pytest.mark.parametrize("damage", [os.remove, lambda path: os.truncate(path, 100)], ids=["lost", "cut short"])
def test_rows_of_a_complete_run_are_written_anew(never_stopped, tmp_path, damage):
    folder = shutil.copytree(never_stopped, tmp_path / "run")
    damage(folder / "metrics.jsonl")
    assert train(folder, LONG) == exits.DONE
    assert (folder / "metrics.jsonl").read_bytes() == (never_stopped / "metrics.jsonl").read_bytes()


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
def test_a_setting_that_decides_the_saved_state_is_refused_by_name(stopped, changes):
    settings = merge(LONG, changes)
    ((group, value),) = changes.items()
    name = f"{group}.{next(iter(value))}" if isinstance(value, dict) else group
    before = (stopped / "run.json").read_text()
    with pytest.raises(ConfigError, match=rf"another value of {name} \(.* before, .* now\)") as refused:
        experiment.train(from_mapping(settings), stopped, settings, resumes=True)
    assert "\n" not in str(refused.value)
    assert (stopped / "run.json").read_text() == before


def test_other_settings_may_change_and_are_recorded(copy, capsys):
    settings = resume.merge_settings(copy, ["total_env_steps=320", "logging.display=plain"])
    assert train(copy, settings) == exits.DONE
    assert numbers(copy)[-1]["env_steps"] == 320
    said = capsys.readouterr().out
    assert "resumes from step 192" in said and "changed: total_env_steps 256 -> 320" in said
    assert load_run(copy).config == from_mapping(settings)
    (resumed,) = json.loads((copy / "run.json").read_text())["resumed"]
    assert resumed["changes"] == {"total_env_steps": [256, 320], "logging.display": ["none", "plain"]}
    assert resumed["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("caused_at", "changes", "met_nan"),
    [
        (None, {"learner": {"learning_rate": 1e-5}}, None),
        (None, {"evaluation": {"episodes": 16}}, 160),
        (150, {"learner": {"learning_rate": 1e-5}, "target": {"every_env_steps": 64}}, 160),
        (150, {"exploration": {"finish": 0.2}}, None),  # other actions may avoid it
    ],
)
def test_after_nan_only_a_change_that_could_help_resumes(copy, probe, caused_at, changes, met_nan):
    """A learner's settings cannot help where its environment caused the NaN."""
    row = read_metrics(copy / "metrics.jsonl")[-1]
    frozen = {"env_steps": 160, "train/frozen_since": [160], "train/environment_nan_at": [caused_at]}
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, **frozen}) + "\n")
    point = resume.find_resume_point(copy, Program.make(from_mapping(merge(LONG, changes)), probe))
    assert point.met_nan == met_nan and point.is_environments_nan == (caused_at is not None)


def test_the_decay_of_the_learning_rate_follows_a_new_end(stopped):
    config = from_mapping(merge(LONG, {"total_env_steps": 320, "learner": {"final_learning_rate": 0.0}}))
    program = experiment.check(config)
    point = resume.find_resume_point(stopped, program)
    rate = program.trainer.learner.learning_rate(jnp.array(point.env_steps))
    assert float(rate) == pytest.approx(0.01 * (1 - 192 / 320))
    assert "learner.learning_rate now decays over the new total_env_steps" in messages.news(config, point)


@pytest.mark.slow
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
        "env=mpe": "env=mpe: a run keeps its env",
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
        experiment.train(from_mapping(LONG), stopped, LONG)


# --- without the replay ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_saved_replay_learning_waits_for_start_env_steps_of_new_data(tmp_path, capsys):
    bare = merge(LONG, {"checkpoint": {"replay": False}, "total_env_steps": 384})
    train(tmp_path, bare, logging={"display": "plain"}, stop_after=6)
    assert "a resumed run waits for 96 environment steps of new data" in capsys.readouterr().out
    assert not find(tmp_path).has_replay
    train(tmp_path, bare, logging={"display": "plain"}, checkpoint={"replay": True}, stop_after=10)
    assert "learning waits for 96 environment steps of new data" in capsys.readouterr().out
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


def test_without_a_saved_replay_only_new_sequences_are_in_it(tmp_path):
    """Only rewards of the rows gathered since are in replay behind a resume without it."""
    bare = merge(LONG, {"checkpoint": {"replay": False}})
    train(tmp_path, bare, stop_after=6)
    train(tmp_path, bare, checkpoint={"replay": True}, stop_after=7)
    observed = find(tmp_path).read("replay")["observation/agents"][0]
    assert observed[:4].any(axis=(1, 2, 3)).all() and not observed[4:].any()
