"""Dashboards: what they receive, and that their failures do not reach training."""

import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import tiny
from PIL import Image

from qmix_jax.reporters import dashboard
from qmix_jax.reporters.base import Callback, RunEnd, flatten, lines
from qmix_jax.reporters.dashboard import Background, make_dashboards
from qmix_jax.reporters.wandb import WandbRuns
from qmix_jax.statistics import share_interval


def a_row(env_steps=100, seeds=2, **changes):
    return {
        "env_steps": env_steps,
        "train/epsilon": 0.5,
        "eval/return": [float(seed) for seed in range(seeds)],
        **changes,
    }


class Listener(Callback):
    """A dashboard that records its calls while it may continue."""

    def __init__(self):
        self.may_go_on, self.told, self.is_closed = threading.Event(), [], False
        self.may_go_on.set()

    def on_evaluation(self, row):
        assert self.may_go_on.wait(30)
        self.told.append(row["env_steps"])

    def on_end(self, end):
        self.told.append((end.curve, end.film))

    def on_checkpoint(self, path):
        self.told.append(path)

    def close(self):
        self.is_closed = True


# --- on a thread of its own --------------------------------------------------------------------------------------


def test_everything_is_delivered_in_order_and_then_the_dashboard_is_closed(tmp_path, capsys):
    listener = Listener()
    background = Background("It", lambda: listener)
    background.on_evaluation(a_row(1))
    background.on_checkpoint(tmp_path)
    background.on_end(RunEnd(0, tmp_path, None))
    background.close()
    assert listener.told == [1, tmp_path, (tmp_path, None)] and listener.is_closed
    assert capsys.readouterr().err == ""


def test_a_dashboard_that_fails_is_silenced_after_one_warning(capsys):
    class Broken(Listener):
        def on_evaluation(self, row):
            super().on_evaluation(row)
            raise OSError("no route\nto host")

    broken = Broken()
    background = Background("It", lambda: broken)
    for _ in range(3):
        background.on_evaluation(a_row())
    background.close()
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: It is off for the rest of this run: no route to host")
    assert len(broken.told) == 1 and broken.is_closed


def test_a_dashboard_that_cannot_begin_is_silenced_after_one_warning(capsys):
    background = Background("It", lambda: 1 / 0)  # pyright: ignore
    background.on_evaluation(a_row())
    background.close()
    assert capsys.readouterr().err.count("division by zero") == 1


def test_nobody_waits_for_a_slow_dashboard_and_what_it_missed_is_said_once(capsys, monkeypatch):
    monkeypatch.setattr(dashboard, "TIMEOUT", 0.05)
    monkeypatch.setattr(dashboard, "LIMIT", 3)
    listener = Listener()
    listener.may_go_on.clear()
    background = Background("It", lambda: listener)
    begun = time.perf_counter()
    for step in range(10):
        background.on_evaluation(a_row(step))
        if step == 0:
            wait_until(lambda: background._queue.empty())  # it has the first row, and hangs
    background.close()
    assert time.perf_counter() - begun < 20
    (warning,) = capsys.readouterr().err.splitlines()
    assert "It was left behind after 0.05 s, with 10 updates not delivered" in warning
    listener.may_go_on.set()
    background._thread.join(30)
    assert listener.told == [0, 1, 2, 3]


def test_what_did_not_fit_in_the_queue_is_said_even_where_the_dashboard_catches_up(capsys, monkeypatch):
    monkeypatch.setattr(dashboard, "LIMIT", 0)
    background = Background("It", Listener)
    background.on_evaluation(a_row())
    background.close()
    assert "It was too slow: 1 updates were not delivered; metrics.jsonl" in capsys.readouterr().err


def test_nothing_is_started_where_nothing_is_asked_for(tmp_path):
    assert make_dashboards(tiny(), {}, tmp_path, [a_row()]) == []


# --- rows as series ---------------------------------------------------------------------------------------------


def test_a_row_of_several_seeds_becomes_the_mean_its_interval_and_each_seed():
    row = {"env_steps": 5, "train/epsilon": 0.1, "eval/return": [1.0, None, 3.0], "train/loss": [None] * 3}
    assert lines(row) == {
        "mean": {"train/epsilon": 0.1, "eval/return": 2.0},
        "low": {"eval/return": pytest.approx(2.0 - 12.7062047)},
        "high": {"eval/return": pytest.approx(2.0 + 12.7062047)},
        "seed_0": {"eval/return": 1.0},
        "seed_2": {"eval/return": 3.0},
    }
    assert lines({"env_steps": 5, "eval/return": [1.0]}) == {"mean": {"eval/return": 1.0}}


def test_win_rates_that_are_alike_have_lines_apart_where_the_row_counts_episodes():
    row = {"env_steps": 5, "eval/win_rate": [1.0, 1.0], "eval/episodes": [16, 16], "train/win_rate": [0.0, 0.0]}
    told = lines({**row, "train/episodes": [7, 3]})
    assert (
        told["low"]["eval/win_rate"] == pytest.approx(share_interval(32, 32).low) and told["low"]["eval/win_rate"] < 1
    )
    assert told["high"]["train/win_rate"] == pytest.approx(share_interval(0, 10).high)
    assert told["high"]["eval/win_rate"] == 1 and told["low"]["train/win_rate"] == 0
    assert lines(row)["high"]["train/win_rate"] == 0, "a row of an earlier version does not count them"


def test_lines_have_names_of_their_own_where_they_share_a_run():
    flat = flatten(a_row(5))
    assert flat["env_steps"] == 5 and flat["train/epsilon"] == flat["eval/return"] == 0.5
    assert (flat["seed_0/eval/return"], flat["seed_1/eval/return"]) == (0.0, 1.0)
    assert flat["eval/return/low"] < 0 < 1 < flat["eval/return/high"] and len(flat) == 7
    assert flatten(a_row(5, seeds=1)) == {"env_steps": 5, "train/epsilon": 0.5, "eval/return": 0.0}


# --- Weights & Biases --------------------------------------------------------------------------------------------


class FakeRun:
    def __init__(self, options):
        self.options, self.rows, self.artifacts, self.is_finished = options, [], [], False

    def define_metric(self, *names, **options):
        pass

    def log(self, values):
        self.rows.append(values)

    def log_artifact(self, artifact, aliases):
        self.artifacts.append((artifact, aliases))

    def finish(self):
        self.is_finished = True

    @property
    def steps(self):
        return [row["env_steps"] for row in self.rows]


class FakeArtifact(dict):
    def __init__(self, name, kind, metadata):
        super().__init__(name=name, kind=kind, files=[], **metadata)

    def add_file(self, path):
        self["files"].append(path)

    def add_dir(self, path, name, skip_cache):
        self["files"].append((path, name))


@pytest.fixture
def begun(monkeypatch):
    """The runs that a fake Weights & Biases began."""
    runs = []

    def init(**options):
        runs.append(FakeRun(options))
        return runs[-1]

    fake = SimpleNamespace(
        setup=lambda settings: None, Settings=lambda **settings: settings, init=init, Artifact=FakeArtifact
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return runs


def start(folder, settings=None, num_seeds=1, **wandb):
    config = tiny(seed=3, num_seeds=num_seeds, logging={"wandb": {"mode": "online", **wandb}})
    return WandbRuns(config, settings or {"seed": 3}, folder)


def test_with_per_seed_each_seed_has_a_run_of_its_own_and_they_stand_together(tmp_path, begun):
    runs = start(tmp_path / "run", num_seeds=2, per_seed=True)
    runs.on_evaluation(a_row(5))
    runs.close()
    assert [run.rows for run in begun] == [
        [{"env_steps": 5, "train/epsilon": 0.5, "eval/return": value}] for value in (0.0, 1.0)
    ]
    assert [run.options["name"] for run in begun] == ["run seed 3", "run seed 4"]
    assert [run.options["config"]["seed"] for run in begun] == [3, 4]
    assert [run.options["group"] for run in begun] == ["run", "run"] and all(run.is_finished for run in begun)
    assert begun[0].options["id"] != begun[1].options["id"]


def test_the_jobs_of_a_sweep_stand_together(tmp_path, begun):
    (tmp_path / "sweep").mkdir()
    jobs = [
        {"folder": name, "differs": ["learner.gamma=0.9"] * (name == "jobTrue")} for name in ("jobFalse", "jobTrue")
    ]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    for per_seed in (False, True):
        start(tmp_path / "sweep" / f"job{per_seed}", per_seed=per_seed)
    start(tmp_path / "alone")
    start(tmp_path / "sweep" / "mine", group="mine")
    assert [run.options["group"] for run in begun] == ["sweep", "sweep", None, "mine"]
    assert [run.options["name"] for run in begun] == ["jobFalse", "jobTrue learner.gamma=0.9 seed 3", "alone", "mine"]


def test_an_agent_of_a_wandb_sweep_names_the_run(tmp_path, begun, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    start(tmp_path)
    start(tmp_path)
    start(tmp_path / "seeds" / "0-1")  # a batch of its seeds
    assert [run.options["id"] == "agents" for run in begun] == [True, True, False]


def test_a_resumed_run_goes_on_in_the_same_runs_and_sends_no_row_twice(tmp_path, begun):
    first = start(tmp_path)
    for step in (10, 20, 30):
        first.on_evaluation(a_row(step, seeds=1))
    second = start(tmp_path)  # from the checkpoint at 10: its rows come again, and those behind it too
    for step in (10, 20, 30, 40):
        second.on_evaluation(a_row(step, seeds=1))
    assert [run.steps for run in begun] == [[10, 20, 30], [40]]
    assert begun[0].options["id"] == begun[1].options["id"]
    assert [run.options["resume"] for run in begun] == ["allow", "allow"]


def test_an_offline_run_cannot_be_appended_to_so_that_each_holds_every_row(tmp_path, begun):
    for steps, mode in {(10, 20): "offline", (10, 20, 30): "offline", (10, 20, 30, 40): "online"}.items():
        runs = start(tmp_path, mode=mode)
        for step in steps:
            runs.on_evaluation(a_row(step, seeds=1))
    assert [run.steps for run in begun] == [[10, 20], [10, 20, 30], [10, 20, 30, 40]]
    assert len({run.options["id"] for run in begun}) == 1
    assert [run.options["resume"] for run in begun] == [None, None, "allow"]


def test_other_runs_begin_where_there_are_to_be_more_or_fewer(tmp_path, begun):
    start(tmp_path, num_seeds=2).on_evaluation(a_row(10))
    start(tmp_path, num_seeds=2, per_seed=True).on_evaluation(a_row(10))
    assert [run.steps for run in begun] == [[10]] * 3 and len({run.options["id"] for run in begun}) == 3


def test_a_checkpoint_is_uploaded_if_asked_as_the_folder_of_a_run(tmp_path, begun):
    path = tmp_path / "checkpoints" / "64"
    path.mkdir(parents=True)
    files = [tmp_path / name for name in ("config.yaml", "run.json", "metrics.jsonl")]
    for file in files:
        file.touch()
    start(tmp_path).on_checkpoint(path)
    runs = start(tmp_path, artifacts=True)
    runs.on_checkpoint(path)
    runs.on_checkpoint(path.with_name("32"))  # newer ones have replaced it
    ((artifact, aliases),) = begun[1].artifacts
    assert artifact["files"] == [*map(str, files), (str(path), "checkpoints/64")]
    assert artifact["env_steps"] == 64 and aliases == ["latest", "step-64"] and not begun[0].artifacts


def test_what_was_not_uploaded_in_time_is_named_with_the_way_to_do_it(tmp_path, begun):
    def too_late():
        raise TimeoutError

    runs = start(tmp_path, num_seeds=2, per_seed=True)
    begun[0].finish = too_late
    with pytest.raises(TimeoutError, match=f"wandb sync {tmp_path}/wandb/run-"):
        runs.close()
    assert begun[1].is_finished


def test_an_offline_run_holds_everything(tmp_path, monkeypatch, capfd):
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    folder = tmp_path / "a_run"
    folder.mkdir()
    curve, film = draw(folder)
    config = tiny(num_seeds=2, logging={"wandb": {"mode": "offline", "tags": ["a tag"], "group": "a group"}})
    (background,) = make_dashboards(config, {"gamma": 0.99}, folder, [a_row(123_456)])
    background.on_end(RunEnd(0, curve, film))
    background.close()

    (run,) = (folder / "wandb").glob("offline-run-*")
    (log,) = run.glob("*.wandb")
    assert json.loads((folder / "wandb.json").read_text())["ids"][0] in run.name
    wait_until(lambda: b"policy" in log.read_bytes())  # another process writes it
    content = log.read_bytes()
    for logged in (b"123456", b"eval/return/low", b"seed_1/eval/return", b"a_run", b"a tag", b"a group", b"gamma"):
        assert logged in content
    assert b"memory_percent" in content  # system metrics
    assert list(run.glob("files/media/images/*.png")) and list(run.glob("files/media/videos/*.gif"))
    assert capfd.readouterr().err == ""


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def draw(folder):
    """A curve and a film."""
    curve, film = folder / "curve.png", folder / "policy.gif"
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    frames[0].save(curve)
    frames[0].save(film, save_all=True, append_images=frames[1:])
    return curve, film
