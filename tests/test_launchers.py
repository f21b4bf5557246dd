"""Launchers of clusters without a cluster: submitit's local executor, and a Slurm whose commands are scripts.

tests/cluster has the tests with a real Slurm and a real Ray.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, merge

from qmix_jax.files import read_json, write_json
from qmix_jax.run import exits
from qmix_jax.run.checkpoint import find
from qmix_jax.settings import ConfigError, make_settings
from qmix_jax.sweep import record
from qmix_jax.sweep.jobs import Job
from qmix_jax.sweep.launchers.ray import Ray, _own_cores, num_bytes
from qmix_jax.sweep.launchers.share import available_cores
from qmix_jax.sweep.launchers.slurm import FOLDER, IDS, Slurm, minutes
from qmix_jax.sweep.worker import Task


def job(folder: Path, environment=(), **changes) -> Job:
    own = {"devices": "1", "evaluation": {"every_env_steps": 3200}, "logging": {"film": False}}
    return Job(merge(merge(TINY, own), changes), folder, environment=dict(environment))


def until(found, seconds=300):
    """What `found` returns, once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def begun(task: Task, starts: int) -> bool:
    found = record.read_record(task.job.folder)
    return found is not None and found.starts == starts


@pytest.mark.slow
def test_through_submitit_a_job_fails_alone_and_one_that_is_preempted_saves_and_goes_on_until_it_is_stopped(tmp_path):
    wrong = Task.of(job(tmp_path / "wrong", {"XLA_FLAGS": "--no_such_flag"}), resumes=False)
    endless = Task.of(job(tmp_path / "endless", total_env_steps=2_000_000_000), resumes=False)
    rows, log = endless.job.folder / "metrics.jsonl", tmp_path / "wrong" / "job.log"
    with Slurm(Slurm.Settings(executor="local")) as launcher:
        launcher.submit([wrong, endless])
        assert until(launcher.poll) == [(wrong, exits.USAGE_ERROR, "")]
        assert "--no_such_flag" in record.read_record(wrong.job.folder).error and "--no_such_flag" in log.read_text()
        until(lambda: rows.is_file() and rows.stat().st_size)
        os.kill(record.read_record(endless.job.folder).pid, signal.SIGUSR2)
        until(lambda: begun(endless, starts=2))
        assert find(endless.job.folder).is_whole_state and not launcher.poll()
        launcher.stop(signal.SIGINT)
        assert until(launcher.poll) == [(endless, exits.TERMINATED, "")]
    assert len(read_json(endless.job.folder / "run.json")["resumed"]) == 1


@pytest.fixture
def slurm_of_scripts(tmp_path, monkeypatch):
    """Slurm's commands: squeue shows the file `queue`, and scancel writes what it is told to the file `cancelled`."""
    scripts = {"sbatch": "exit 1", "squeue": 'cat "$HERE/queue"', "scancel": 'echo "$@" >> "$HERE/cancelled"'}
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_jobs_that_slurm_still_has_are_followed_and_not_submitted_again(slurm_of_scripts, tmp_path):
    waits, runs, gone = (job(tmp_path / name, seed=seed) for seed, name in enumerate(["waits", "runs", "gone"]))
    write_json(tmp_path / FOLDER / IDS, {str(each.folder): f"7_{n}" for n, each in enumerate([waits, runs, gone])})
    (tmp_path / "queue").write_text("7_0 PENDING\n7_1 RUNNING\n8 RUNNING\n")
    noted = record.begin(runs.folder, runs.digest)
    launcher = Slurm(Slurm.Settings())
    assert [launcher.holds(each) for each in (waits, runs, gone)] == [True, True, False]
    tasks = [Task.of(each, resumes=True) for each in (waits, runs)]
    launcher.submit(tasks)  # sbatch would fail
    assert launcher.poll() == []
    launcher.stop(signal.SIGTERM)
    assert (tmp_path / "cancelled").read_text().splitlines() == ["--signal=INT 7_1", "7_0"]
    (tmp_path / "queue").write_text("8 RUNNING\n")
    record.end(runs.folder, noted, exits.INTERRUPTED)
    assert launcher.poll() == [(task, exits.INTERRUPTED, "") for task in tasks]


def test_a_job_that_slurm_has_with_other_settings_is_refused(slurm_of_scripts, tmp_path):
    before, now = job(tmp_path / "a", seed=1), job(tmp_path / "a", seed=2)
    write_json(tmp_path / FOLDER / IDS, {str(now.folder): "7"})
    (tmp_path / "queue").write_text("7 RUNNING\n")
    record.begin(before.folder, before.digest)
    with pytest.raises(ConfigError, match=r"Slurm job 7 has .* with other settings: scancel 7 ends it"):
        Slurm(Slurm.Settings()).holds(now)


def test_a_job_whose_host_died_counts_as_killed_once_its_record_can_change_no_more(
    slurm_of_scripts, tmp_path, monkeypatch
):
    lost = job(tmp_path / "a")
    write_json(tmp_path / FOLDER / IDS, {str(lost.folder): "7"})
    (tmp_path / "queue").write_text("7 RUNNING\n")
    record.begin(lost.folder, lost.digest)
    launcher, task = Slurm(Slurm.Settings()), Task.of(lost, resumes=True)
    launcher.submit([task])
    (tmp_path / "queue").write_text("")
    assert launcher.poll() == []
    monkeypatch.setattr("qmix_jax.sweep.launchers.slurm.LATE", 0)
    assert launcher.poll() == [(task, exits.KILLED, "")]


def test_a_job_that_is_not_listed_while_it_goes_back_into_the_queue_has_not_ended(
    slurm_of_scripts, tmp_path, monkeypatch
):
    moved = job(tmp_path / "a")
    write_json(tmp_path / FOLDER / IDS, {str(moved.folder): "7"})
    (tmp_path / "queue").write_text("7 RUNNING\n")
    record.end(moved.folder, record.begin(moved.folder, moved.digest), exits.REQUEUE)
    launcher, task = Slurm(Slurm.Settings()), Task.of(moved, resumes=True)
    launcher.submit([task])
    for listed in ("", "7 PENDING\n", ""):
        (tmp_path / "queue").write_text(listed)
        assert launcher.poll() == []
    monkeypatch.setattr("qmix_jax.sweep.launchers.slurm.LATE", 0)
    assert launcher.poll() == [(task, exits.REQUEUE, "")]


def test_the_last_line_of_a_refusal_of_sbatch_and_of_a_silent_slurm_is_shown(slurm_of_scripts, tmp_path):
    (tmp_path / "queue").write_text("")
    (tmp_path / "srun").write_text("")
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: nowhere' >&2; exit 1\n")
    with pytest.raises(ConfigError, match="sbatch refuses the jobs: sbatch: error: invalid partition: nowhere"):
        Slurm(Slurm.Settings(partition="nowhere")).submit([Task.of(job(tmp_path / "a"), resumes=False)])
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(ConfigError, match="Slurm does not answer: Unable to contact slurm controller"):
        Slurm(Slurm.Settings()).holds(job(tmp_path / "a"))


@pytest.mark.parametrize(("cls", "package"), [(Slurm, "submitit"), (Ray, "ray")])
def test_a_launcher_without_its_package_names_the_command_that_installs_it(cls, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'qmix-jax\[{cls.__name__.lower()}\]'"):
        cls(cls.Settings())


def test_times_and_memory_are_read_as_slurm_and_people_write_them():
    assert [minutes(text) for text in ("90", "4:00:00", "0:00:30", "1-12:00:00")] == [90, 240, 1, 2160]
    assert [num_bytes(text) for text in (None, "1GB", "1.5 GiB", "512M")] == [0, 2**30, 3 * 2**29, 2**29]


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (Slurm, {"time": "4h"}, "hydra.launcher.time=4h must be minutes"),
        (Slurm, {"jobs": 0}, "hydra.launcher.jobs=0 must be greater than 0"),
        (Ray, {"gpus": 1.5}, "hydra.launcher.gpus=1.5 must be a whole number, or less than 1"),
        (Ray, {"memory": "much"}, "hydra.launcher.memory=much must be a number with a unit"),
    ],
)
def test_wrong_settings_are_one_line(cls, values, message):
    with pytest.raises(ConfigError, match=message):
        make_settings(cls.Settings, values, "hydra.launcher.")


def test_a_ray_address_where_nothing_answers_is_refused_at_once():
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"hydra.launcher.address=127.0.0.1:1: no Ray cluster at 127.0.0.1:1"):
        Ray(Ray.Settings(address="127.0.0.1:1")).plan([])


def test_a_ray_that_does_not_start_is_told_in_one_line(monkeypatch):
    def init(*_, **__):
        raise Exception("The node timed out.\n\nThe GCS is overloaded.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("qmix_jax.sweep.launchers.ray._import_ray", lambda: SimpleNamespace(init=init))
    with pytest.raises(ConfigError) as refused:
        Ray(Ray.Settings()).plan([])
    reason = "Ray does not start here: The node timed out. The GCS is overloaded."
    assert str(refused.value) == f"hydra.launcher.address=auto: {reason}"


def test_a_job_of_ray_gets_cores_that_no_other_has_and_all_where_there_are_too_few(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, count = available_cores()[0], len(available_cores())
    with _own_cores(1) as own, _own_cores(count) as others:
        assert own == (first,) and others == ()
    with _own_cores(count) as own:
        assert own == tuple(available_cores())
    with _own_cores(0) as own:
        assert own == ()
