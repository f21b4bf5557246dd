"""What a run reports: its files and its display."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from qmix_jax import files, records
from qmix_jax.reporters import display
from qmix_jax.reporters.metrics_file import MetricsFile
from qmix_jax.reporters.progress import UNKNOWN, RunProgress, percent


def a_row(env_steps=100_000, seeds=1, **changes):
    return {
        "env_steps": env_steps,
        "wall_seconds": env_steps / 10_000,
        "compile_seconds": 4.0,
        "train/loss": [0.0123] * seeds,
        "train/epsilon": 0.05,
        "train/steps_per_second": 812_345.6,
        "eval/return": [10.0 + seed for seed in range(seeds)],
        "eval/win_rate": [0.5 + 0.1 * seed for seed in range(seeds)],
        **changes,
    }


# --- the run folder ----------------------------------------------------------------------------------------------


def test_metrics_survive_a_last_line_cut_short_by_a_crash_and_go_on_from_what_a_checkpoint_says(tmp_path):
    file = MetricsFile(tmp_path)
    rows = [{"env_steps": 1, "eval/return": [0.1, None]}, {"env_steps": 2}]
    for row in rows:
        file.on_evaluation(row)
    file.close()
    with file.path.open("a") as broken:
        broken.write('{"env_st')
    assert records.read_metrics(file.path) == rows

    resumed = MetricsFile(tmp_path, records.format_rows(rows[:1]))
    resumed.on_evaluation({"env_steps": 3})
    resumed.close()
    assert records.read_metrics(file.path) == [rows[0], {"env_steps": 3}]


def test_nan_and_infinity_are_null_in_metrics(tmp_path):
    file = MetricsFile(tmp_path)
    file.on_evaluation({"env_steps": 1, "train/loss": [math.nan, 0.5], "train/epsilon": math.inf})
    assert records.read_metrics(file.path) == [{"env_steps": 1, "train/loss": [None, 0.5], "train/epsilon": None}]
    file.close()


def test_the_manifest_has_the_machine_the_versions_and_what_the_caller_adds(tmp_path):
    records.write_manifest(tmp_path, {"seed": 3})
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["versions"]["jax"] and set(manifest["versions"]) == set(records.DISTRIBUTIONS)
    assert manifest["devices"]["count"] >= 1 and manifest["memory_bytes"] > 0 and manifest["cpu"]
    records.add_to_manifest(tmp_path, {"env_steps": 64})
    records.add_to_manifest(tmp_path, {"env_steps": 96})
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["seed"] == 3 and [each["env_steps"] for each in manifest["resumed"]] == [64, 96]
    assert all(each["versions"] and each["command"] for each in manifest["resumed"])
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def commit(folder):
    subprocess.run(["git", "-C", folder, "init", "-q"], check=True)
    subprocess.run(["git", "-C", folder, "add", "."], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *who, "commit", "-qm", "all"], check=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_git_commit_is_only_that_of_the_packages_own_checkout(tmp_path):
    checkout, installed = tmp_path / "qmix_jax", tmp_path / "venv" / "site-packages" / "qmix_jax"
    for package in (checkout, installed):
        package.mkdir(parents=True)
        (package / "types.py").touch()
        assert records.git_state(package) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "qmix-jax"\n')
    assert records.git_state(checkout) is None  # not yet a repository

    commit(tmp_path)
    assert records.git_state(checkout)["dirty"] is False
    assert records.git_state(installed) is None
    (checkout / "types.py").write_text("changed")
    assert records.git_state(checkout)["dirty"] is True

    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    assert records.git_state(checkout) is None


# --- the display -------------------------------------------------------------------------------------------------


def test_the_plain_display_says_the_facts_in_short_lines(capsys):
    with display.make_display("plain", title="QMIX", total_env_steps=200_000, num_seeds=3) as shown:
        shown.on_evaluation(a_row(seeds=3))
        shown.message("checkpoint kept")
        shown.on_evaluation(a_row(200_000, seeds=3, **{"eval/return": None, "train/loss": None}))
    title, header, first, news, last = capsys.readouterr().out.splitlines()
    assert "QMIX" in title and news == "checkpoint kept" and "win rate" in header
    for fact in ("100,000", "50%", "812k", "11.00 ± 2.48", "60.0 ± 24.8%", "0.05", "0.012"):
        assert fact in first
    assert "100%" in last and UNKNOWN in last
    assert max(map(len, (title, header, first, last))) <= 100


def test_win_rates_that_are_alike_have_a_spread_as_wide_as_their_episodes_leave_it():
    """3 x 32 episodes without a loss: Wilson's interval goes down to 96.2 %."""
    assert percent([1.0, 1.0, 1.0], episodes=96) == "100.0 ± 3.8%"
    assert percent([0.0, None, 0.0], episodes=64) == "0.0 ± 5.7%"
    assert percent([1.0], episodes=32) == "100.0%" and percent(None, episodes=0) == UNKNOWN
    progress = RunProgress("QMIX", 200_000, num_seeds=3)
    progress.log(a_row(seeds=3, **{"eval/win_rate": [1.0] * 3, "eval/episodes": [32] * 3}))
    assert progress.evaluation["win rate"] == "100.0 ± 3.8%"


def test_displays_show_every_metric_of_the_environment(capsys):
    row = a_row(seeds=2, **{"eval/deliveries": [3.0, 5.0], "eval/collision_rate": [0.0, 0.0], "eval/episodes": [8, 8]})
    with display.make_display("plain", title="QMIX", total_env_steps=200_000, num_seeds=2) as shown:
        shown.on_evaluation(row)
    _, header, line = capsys.readouterr().out.splitlines()
    assert "deliveries" in header and "collision rate" in header
    assert "4.00 ± 12.7" in line and "0.0 ± 19.4%" in line
    progress = RunProgress("QMIX", 200_000, num_seeds=2)
    progress.log(row)
    paper = Console(file=io.StringIO(), width=80)
    with display.LiveDisplay(progress, Console(file=io.StringIO(), force_terminal=True, width=80)) as shown:
        paper.print(shown.render())
    assert "deliveries" in paper.file.getvalue() and "collision" in paper.file.getvalue()


def test_without_wins_the_score_is_the_return():
    progress = RunProgress("QMIX", 200_000, num_seeds=1)
    for score in (3.0, 1.0):
        row = a_row(**{"eval/return": [score]})
        del row["eval/win_rate"]
        progress.log(row)
    assert (progress.score_name, progress.best, list(progress.evaluation)) == ("return", "3.00", ["return"])


def test_a_resumed_display_knows_what_was_before_without_saying_it_again(capsys):
    settings = {"title": "QMIX", "total_env_steps": 200_000, "num_seeds": 1}
    with display.make_display("plain", **settings, rows=[a_row(**{"eval/win_rate": [0.75]})]) as shown:
        shown.on_evaluation(a_row(200_000))
    said = capsys.readouterr().out
    assert "100,000" not in said and "75.0%" in said.splitlines()[-1]


def test_auto_is_plain_without_a_terminal_and_none_says_nothing(capsys):
    settings = {"title": "QMIX", "total_env_steps": 10, "num_seeds": 1}
    assert isinstance(display.make_display("auto", **settings), display.PlainDisplay)
    capsys.readouterr()
    with display.make_display("none", **settings) as shown:
        shown.on_evaluation(a_row())
        shown.message("news")
    assert capsys.readouterr().out == ""


def test_a_notebook_gets_one_output_that_every_row_replaces(monkeypatch, capsys):
    shown = []

    class Output:
        def update(self, data, raw):
            assert raw
            shown.append(data)

    def show(data, raw, display_id):
        assert raw and display_id
        shown.append(data)
        return Output()

    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=show))
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with display.make_display("auto", title="<QMIX>", total_env_steps=200_000, num_seeds=1) as notebook:
        notebook.on_evaluation(a_row())
        notebook.message("news")
    first, second = shown
    assert '<progress value="0.0000"' in first["text/html"] and "compiling" in first["text/html"]
    assert "<b>&lt;QMIX&gt;</b>" in second["text/html"] and '<progress value="0.5000" max="1"' in second["text/html"]
    assert "<td>win rate</td>" in second["text/html"] and "<td>50.0%</td>" in second["text/html"]
    assert second["text/plain"].startswith("<QMIX>: 50% of 200,000 env steps, elapsed 10s, left")
    assert "return 10.00" in second["text/plain"] and capsys.readouterr().out == "news\n"
    assert isinstance(display.make_display("plain", title="", total_env_steps=1, num_seeds=1), display.PlainDisplay)


def test_a_display_that_cannot_write_ends_nothing():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    shown = display.PlainDisplay(RunProgress("QMIX", 10, num_seeds=1), Full())
    shown.on_evaluation(a_row())
    shown.message("news")


def test_the_live_display_shows_compiling_and_then_the_facts_in_80_columns():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    paper = Console(file=io.StringIO(), width=80)
    progress = RunProgress("QMIX on 2s3z", 2_500_000, num_seeds=1)
    with display.LiveDisplay(progress, terminal) as shown:
        paper.print(shown.render())
        shown.message("checkpoint kept")
        shown.on_evaluation(a_row())
        shown.on_evaluation(a_row(200_000))
        paper.print(shown.render())
    assert "checkpoint kept" in terminal.file.getvalue() and "200,000" in terminal.file.getvalue()
    text = paper.file.getvalue()
    for fact in ("compiling", "200,000 / 2,500,000", "win rate 50.0%", "return   10.00", "▅▅"):
        assert fact in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_live_display_gives_the_terminal_back_after_an_exception(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    progress = RunProgress("QMIX", 10, num_seeds=1)
    with (
        pytest.raises(KeyboardInterrupt),
        display.LiveDisplay(progress, Console(file=stream, force_terminal=True)) as shown,
    ):
        raise KeyboardInterrupt
    shown.close()
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")  # the cursor is back


def test_the_time_left_follows_the_speed_of_training_without_compiling():
    now = [0.0]
    progress = RunProgress("QMIX", 1000, num_seeds=2, clock=lambda: now[0])
    assert progress.left is None
    now[0] = 90.0
    assert progress.elapsed == 90.0
    first = {"env_steps": 100, "wall_seconds": 100.0, "compile_seconds": 90.0, "train/steps_per_second": 20.0}
    progress.log(first)
    assert progress.left == 90.0  # 900 steps of both seeds at 20 a second
    progress.log({**first, "env_steps": 200, "wall_seconds": 150.0, "compile_seconds": 120.0})
    assert progress.left == 160.0  # 800 steps at 100 in 20 seconds
    now[0] += 10.0
    assert (progress.elapsed, progress.left) == (160.0, 150.0)


def test_a_sparkline_averages_what_does_not_fit():
    assert display.sparkline([0.0, 0.5, 1.0], 0.0, 1.0, 10) == "▁▅█"
    assert display.sparkline([0.0, 0.0, 1.0, 1.0], 0.0, 1.0, 2) == "▁█"
    assert display.sparkline([3.0], 3.0, 3.0, 10) == "▁" and display.sparkline([], 0.0, 1.0, 10) == ""


def test_records_are_regular_files_of_a_bounded_size(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "run.json")
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert records.read_manifest(tmp_path) == {}
    with pytest.raises(ValueError, match="is no regular file"):
        records.read_metrics(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="cannot be read"):
        records.read_metrics(tmp_path / "none.jsonl")
    (tmp_path / "large.json").write_text("[" + " " * 100 + "]")
    assert files.read_json(tmp_path / "large.json") == []
    monkeypatch.setattr(files, "MAX_JSON", 100)
    assert files.read_json(tmp_path / "large.json") is None


def test_metrics_are_named_by_the_rows_and_shares_by_their_ending():
    row = {"env_steps": 1, "eval/episodes": [8, None], "eval/deliveries": [1.0, 2.0], "eval/win_rate": [0.5, None],
           "eval/return": [1.0, 2.0], "train/win_rate": [0.0, 0.0], "train/learning_rate": 0.1}  # fmt: skip
    assert records.metric_names(row) == ["win_rate", "return", "deliveries"]
    assert records.is_share("collision_rate") and records.is_share("eval/win_rate")
    assert not records.is_share("eval/return") and not records.is_share("train/learning_rate")
    assert records.count_episodes(row, "eval/win_rate") == 8
    assert records.count_episodes(row, "train/win_rate") is None, "rows of earlier versions do not count them"
    assert records.count_episodes(row, "eval/return") is None
