"""Sweeps: jobs in processes, their records, signals, and going on with the same line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import quick_job

from qmix_jax.cli import main as cli
from qmix_jax.cli.compose import compose, compose_jobs
from qmix_jax.cli.flags import parse_flags
from qmix_jax.records import read_metrics
from qmix_jax.run import exits
from qmix_jax.run.checkpoint import find
from qmix_jax.sweep import board, runner, worker
from qmix_jax.sweep.launchers import share
from qmix_jax.sweep.ledger import Watch, differing, read_sweep, seconds_left, state_of
from qmix_jax.sweep.record import begin, end, last_line, read_record, score_of

HERE = Path(__file__).parent
TINY = "env=matrix learner.start_env_steps=0 hydra.sweep.dir=many"
ROWS = [{"env_steps": step, "eval/return": [score, score + 2]} for step, score in ((10, 0.0), (20, 4.0), (40, 1.0))]


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Sweeps of jobs that train nothing, in a folder of their own."""
    monkeypatch.setattr(worker, "PROGRAM", quick_job.PROGRAM)
    monkeypatch.setattr(runner, "check", lambda job_list, resumes: [job.config for job in job_list.jobs])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "many"


def run(line: str) -> int:
    return cli.main(["train", "-m", *TINY.split(), *line.split()])


# --- processes ---------------------------------------------------------------------------------------------------


def test_jobs_run_at_once_each_on_its_core_and_their_folders_tell_what_happened(quick, capsys):
    """Three jobs, of which one fails, on two places."""
    assert run("seed=1,2,3 total_env_steps=4 num_seeds=2 hydra.launcher.jobs=2") == exits.FAILED
    said = capsys.readouterr().out
    cores = len(os.sched_getaffinity(0))
    first, _, third = (quick / f"{i}_matrix-qmix_seed{i + 1}" for i in range(3))
    assert said.startswith(f"3 jobs: 2 at once, each on {cores // 2} of {cores} CPU cores")
    assert "job 3 of 3 failed: seed=3" in said and "LookupError: a defect" in said
    assert said.count("Next: ") == 1 and "qmix-jax report many" in said
    starts = [(quick / f"{i}_matrix-qmix_seed{i + 1}" / "starts.txt").read_text().split(" ", 1) for i in range(3)]
    assert starts[0][1] != starts[1][1] and abs(float(starts[0][0]) - float(starts[1][0])) < 3, "two at once"
    assert (first / "job.log").read_text() == "two seeds\n"
    record = read_record(first)
    assert (record.state, record.status, record.score, record.starts) == ("done", 0, 3.99, 1)
    assert 0.2 <= record.seconds < 60 and not record.is_running_here
    record = read_record(third)
    assert (record.state, record.status, record.error) == ("failed", 1, "LookupError: a defect")
    assert last_line(third / "job.log") == "LookupError: a defect"
    assert cli.main(["status", "many", "--json"]) == 1, "a job failed"
    states = json.loads(capsys.readouterr().out)
    assert [(job["state"], job["env_steps"], job["score"]) for job in states] == [
        ("done", 4, 3.99), ("done", 4, 3.99), ("failed", 0, None)
    ]  # fmt: skip


def test_a_sweep_that_is_over_only_shows_its_scores_again(quick, capsys):
    for attempt in range(2):
        assert run("seed=2,3 total_env_steps=2") == exits.FAILED
        said = capsys.readouterr().out
        assert "2 jobs: 1 done, 1 failed" in said and "qmix-jax report many" in said
        assert ("job 2 of 2 failed" in said) == (attempt == 0)
    assert said.startswith("2 jobs, 2 of them done or failed before\n")
    assert [len(path.read_text().splitlines()) for path in quick.glob("*/starts.txt")] == [1, 1]


@pytest.mark.slow
def test_jobs_that_run_again_are_told_of_again(quick, capsys):
    """Failed ones, and done ones with more steps."""
    for words, done in (("total_env_steps=2", 1), ("total_env_steps=2 retry=failed", 0), ("total_env_steps=4", 1)):
        assert run(f"seed=2,3 {words}") == exits.FAILED
        said = capsys.readouterr().out
        assert said.count("job 2 of 2 failed: seed=3") == 1 and said.count("job 1 of 2 done: seed=2") == done
        assert "stopped" not in said


def test_a_job_that_is_killed_is_recorded_as_stopped_and_does_not_stop_the_others(quick):
    from qmix_jax.sweep.launchers.processes import Processes

    jobs = compose_jobs(parse_flags(["-m", *TINY.split(), "seed=1,2", "total_env_steps=100,2"]).options).jobs
    launcher = Processes(Processes.Settings(jobs=2))
    launcher.plan([jobs[0].config] * 4)
    tasks = [worker.Task.of(job, True) for job in (jobs[0], jobs[1])]
    launcher.submit(tasks)
    ended: dict = {}
    while len(ended) < 2:
        ended |= {found.task: found.status for found in launcher.poll()}
        if tasks[1] in ended:
            launcher.stop(signal.SIGKILL, [tasks[0]])
        time.sleep(0.02)
    assert ended == {tasks[0]: 128 + 9, tasks[1]: 0}
    runner.note_end(runner.Ended(tasks[0], 137))
    record = read_record(jobs[0].folder)
    assert (record.state, record.status) == ("stopped", 137)


@pytest.mark.slow
def test_a_sweep_of_24_jobs_killed_three_times_loses_nothing_and_does_nothing_twice(tmp_path):
    line = f"train -m {TINY} seed=range(10,22) learner.gamma=0.5,0.9 total_env_steps=8"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "quick_job.py"), *line.split()]
    folder, chance = tmp_path / "many", random.Random(1)
    for attempt in range(4):
        sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        if attempt < 3:
            ended = len(list(folder.glob("*/job.json")))
            while len(list(folder.glob("*/job.json"))) < ended + 3:
                assert sweep.poll() is None
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 1))
            sweep.kill()
        out, _ = sweep.communicate(timeout=200)
    assert sweep.returncode == 0 and "24 jobs: 24 done" in out
    folders = sorted(folder.glob("*/"))
    assert len(folders) == 24
    for each in folders:
        steps = [row["env_steps"] for row in read_metrics(each / "metrics.jsonl")]
        assert steps == list(range(1, 9)), each
        assert read_record(each).state == "done"
    starts = [len((each / "starts.txt").read_text().splitlines()) for each in folders]
    assert min(starts) == 1 and 24 < sum(starts) <= 24 + 3 * 2, "only those that ran were started again"


@pytest.mark.slow
def test_a_signal_saves_the_running_job_starts_no_other_and_the_same_line_goes_on(tmp_path):
    line = (
        "train -m env=probe total_env_steps=640,16_000 devices=1 evaluation.every_env_steps=320 evaluation.episodes=8 "
        "agent.hidden_size=8 algorithm.embed_size=4 algorithm.hypernet_size=8 rollout.num_envs=8 rollout.num_steps=8 "
        "learner.batch_size=8 learner.start_env_steps=64 logging.film=false hydra.launcher.jobs=1 hydra.sweep.dir=many"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-m", "qmix_jax", *line.split()]
    first, second = (tmp_path / "many" / f"{number}_probe-qmix_seed0" for number in range(2))
    sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (second / "metrics.jsonl").is_file() or not (second / "metrics.jsonl").stat().st_size:
        assert sweep.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    sweep.send_signal(signal.SIGTERM)
    out, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == exits.TERMINATED and "2 jobs: 1 done, 1 stopped" in out
    assert find(first).env_steps == 640 and find(second).is_whole_state
    assert "total_env_steps=640,16_000" in json.loads((first / "run.json").read_text())["command"]
    again = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True)
    assert "2 jobs, 1 of them done or failed before: on 1 job" not in again.stdout and "2 jobs: 2 done" in again.stdout
    assert find(second).env_steps == 16_000 and read_record(second).starts == 2 and read_record(first).starts == 1
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True)
    assert "2 jobs, 2 of them done or failed before" in done.stdout and "2 jobs: 2 done" in done.stdout


# --- the division of a machine -----------------------------------------------------------------------------------


def configs(count: int, *overrides: str) -> list:
    config = runner.check.__globals__["from_mapping"](compose(["env=matrix", *overrides]))
    return [config] * count


@pytest.mark.parametrize(
    ("count", "settings", "wanted", "cores", "words"),
    [
        (8, (), None, [(0,), (1,), (2,), (3,)], "each on 1 of 4 CPU cores"),
        (2, (), None, [(0, 1), (2, 3)], "each on 2 of 4 CPU cores"),
        (3, (), None, [(0,), (1,), (2,)], "each on 1 of 4 CPU cores"),
        (1, (), None, [(0, 1, 2, 3)], "each on 4 of 4 CPU cores"),
        (8, ("devices=2",), None, [(0, 1), (2, 3)], "each on 2 of 4 CPU cores"),
        (8, ("devices=3",), None, [(0, 1, 2, 3)], "each on 4 of 4 CPU cores"),
        (8, (), 1, [(0, 1, 2, 3)], "each on 4 of 4 CPU cores"),
    ],
)
def test_cores_are_divided_equally(monkeypatch, count, settings, wanted, cores, words):
    monkeypatch.setattr(share, "available_cores", lambda: [0, 1, 2, 3])
    shares, said = share.divide(configs(count, *settings), wanted)
    assert [each.cores for each in shares] == cores and said == words


@pytest.mark.parametrize(
    ("count", "wanted", "environments", "words"),
    [
        (8, None, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}], "each on 1 of 2 GPUs"),
        (1, None, [{"CUDA_VISIBLE_DEVICES": "0,1"}], "each on 2 of 2 GPUs"),
        (
            8,
            4,
            [{"CUDA_VISIBLE_DEVICES": gpu, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"} for gpu in "0101"],
            "each on 1 of 2 GPUs, 2 on one",
        ),
    ],
)
def test_gpus_are_divided_and_shared(monkeypatch, count, wanted, environments, words):
    monkeypatch.setattr(share, "available_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(share, "available_gpus", lambda: ["0", "1"])
    shares, said = share.divide(configs(count), wanted)
    assert [each.environment for each in shares] == environments and said == words


def test_more_jobs_at_once_than_cores_are_refused(quick, capsys):
    assert run("seed=1,2 hydra.launcher.jobs=4096") == exits.USAGE_ERROR
    assert "hydra.launcher.jobs=4096 is more than the" in capsys.readouterr().err and not quick.exists()


# --- records and tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "score"), [("last", 2.0), ("best", 5.0), ("area", (10 * 3 + 20 * 3.5) / 30)])
def test_the_score_of_a_run(how, score):
    assert score_of(ROWS, "auto", how) == pytest.approx(score)
    assert score_of(ROWS[:1], "eval/return", how) == 1.0
    assert score_of(ROWS, "eval/deliveries", how) is None and score_of([], "auto", how) is None


def test_jobs_are_named_by_what_differs():
    lines = [("env=mpe", "seed=1", "learner.gamma=0.9"), ("env=mpe", "seed=2", "learner.gamma=0.9")]
    assert differing(lines) == [("seed=1",), ("seed=2",)] and differing(lines[:1]) == [lines[0]]


def states(tmp_path, *jobs):
    """States of (differs, rows, state and score) on disk, of 40 environment steps each."""
    plans = []
    for number, (differs, rows, record) in enumerate(jobs):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps({**row, "wall_seconds": 8.0}) + "\n" for row in rows))
        if record:
            (folder / "job.json").write_text(json.dumps({"state": record, "digest": "", "seconds": 8.0}))
        plans.append({"folder": str(number), "overrides": differs, "differs": differs, "env_steps": 40,
                      "metric": "auto", "how": "last"})  # fmt: skip
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": plans}))
    return [state_of(plan) for plan in read_sweep(tmp_path)]


def test_states_the_time_left_and_scores_by_setting(tmp_path):
    found = states(
        tmp_path,
        (["learner.gamma=0.9", "seed=0"], ROWS, "done"),
        (["learner.gamma=0.9", "seed=1"], ROWS[:2], "stopped"),
        (["learner.gamma=0.5", "seed=0"], ROWS[:1], "running"),
        (["learner.gamma=0.5", "seed=1"], [], ""),
    )
    assert [job.state for job in found] == ["done", "stopped", "stopped", "waiting"], "its process has ended"
    assert [job.share for job in found] == [1.0, 0.5, 0.25, 0.0]
    assert seconds_left(found, 1) == pytest.approx(24 / 1.75 * 2.25) and seconds_left(found[3:], 1) != 0
    rows = board.by_setting(found)
    assert [(name, count, estimate.value) for name, count, estimate in rows] == [
        ("learner.gamma=0.9", 2, 3.5), ("learner.gamma=0.5", 1, 1.0)
    ]  # fmt: skip
    assert board.headline(found, 1) == (
        "4 jobs: 1 waiting, 1 done, 2 stopped · best eval/return 5: learner.gamma=0.9 seed=1"
    )
    running = [replace(job, state="running") for job in found]
    assert "about 30s left" in board.headline(running, 1)


def test_scores_of_other_metrics_have_their_own_table_and_shares_stay_within_0_and_100(tmp_path, monkeypatch, capsys):
    """Without a count of episodes, Student's interval is cut; with 32 of each job, Wilson's for 64 is wider."""
    monkeypatch.setenv("COLUMNS", "200")
    wins = [[{"env_steps": 40, "eval/win_rate": [share]}] for share in (0.5, 1.0, 1.0, 1.0)]
    counted = [[{**row, "eval/episodes": [32]} for row in rows] for rows in wins]
    found = states(
        tmp_path,
        (["env=mpe", "seed=0"], ROWS, "done"),
        *((["env=smax", f"seed={seed}"], wins[seed], "done") for seed in (0, 1)),
        *((["env=other", f"seed={seed}"], counted[seed], "done") for seed in (2, 3)),
    )
    board.show(board.closing(found, tmp_path))
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said[0] == "5 jobs: 5 done", "no best of several metrics"
    (of_returns, of_wins) = (k for k, line in enumerate(said) if line.startswith("setting jobs"))
    assert "eval/return" in said[of_returns] and said[of_returns + 2] == "env=mpe 1 2"
    assert "eval/win_rate %" in said[of_wins]
    assert said[of_wins + 2 : of_wins + 4] == ["env=other 2 100 [94.34, 100]", "env=smax 2 75 [0, 100]"]


def test_brackets_in_settings_and_errors_are_shown_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    text = "no maps in [/tmp/maps] [red]"
    (done,) = states(tmp_path, ([text], ROWS, "done"))
    failed = replace(done, state="failed", error=text)
    both = [failed, replace(done, plan=replace(done.plan, differs=("other",)))]
    board.show([board.headline(both, None), board.table([failed]), *board.closing(both, tmp_path)])
    assert capsys.readouterr().out.count(text) == 6, "two heads, a label, two errors, a setting"


def test_a_job_that_was_done_with_fewer_steps_is_not_done(tmp_path):
    (found,) = states(tmp_path, (["seed=0"], ROWS[:2], "done"))
    plan = replace(found.plan, digest="of more steps")
    assert (found.state, found.share) == ("done", 1.0)
    assert (state_of(plan).state, state_of(plan).share) == ("stopped", 0.5)
    watch = Watch([found.plan], left=[found.plan.folder])
    assert [each.state for each in watch.states()] == ["waiting"], "until it begins once more"
    begin(found.plan.folder, "")
    assert [each.state for each in watch.states()] == ["running"]


def test_a_stopped_job_that_fails_before_it_begins_again_is_told_of(tmp_path):
    (found,) = states(tmp_path, (["seed=0"], ROWS[:2], "stopped"))
    watch = Watch([found.plan], left=[found.plan.folder])
    assert [each.state for each in watch.states()] == ["waiting"]
    end(found.plan.folder, read_record(found.plan.folder), exits.FAILED, "no such partition")
    assert [(each.state, each.error) for each in watch.states()] == [("failed", "no such partition")]


@pytest.mark.parametrize("text", ['{"state": "done"}', '{"state": "done", "digest": "", "began": "abc"}', '["done"]'])
def test_a_damaged_record_is_none(tmp_path, text):
    (found,) = states(tmp_path, (["seed=0"], ROWS[:2], None))
    (found.plan.folder / "job.json").write_text(text)
    assert read_record(found.plan.folder) is None and state_of(found.plan).state == "stopped"


def test_status_of_a_run_whose_seconds_are_not_known(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(json.dumps(compose(["env=matrix", "total_env_steps=40"])))
    for seconds in ('"wall_seconds": null, ', ""):
        (tmp_path / "metrics.jsonl").write_text(f'{{{seconds}"env_steps": 40, "eval/return": [1.0]}}\n')
        assert cli.main(["status", str(tmp_path), "--json"]) == 0
        said = capsys.readouterr().out
        (state,) = json.loads(said)
        assert (state["seconds"], state["score"]) == (0.0, 1.0)
    assert cli.main(["status", str(tmp_path), "--json", "--watch"]) == 0
    out, err = capsys.readouterr()
    assert out == said and "1 job: 1 stopped" in err, "the table stands on stderr"


@pytest.mark.parametrize(
    ("folder", "said"),
    [("nowhere", "there is no folder nowhere"), (".", "holds neither a run (config.yaml) nor a sweep (sweep.json)")],
)
def test_status_of_what_is_neither_sweep_nor_run(tmp_path, monkeypatch, capsys, folder, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", folder]) == 2 and said in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    assert cli.main(["status", "."]) == 2 and "is damaged: its settings have no 'env'" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text('{"jobs": [1]}')
    assert cli.main(["status", "."]) == 2 and "sweep.json is damaged" in capsys.readouterr().err
