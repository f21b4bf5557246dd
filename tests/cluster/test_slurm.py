"""Sweeps on a real Slurm."""

import os
import signal
import subprocess
import time

import pytest
import slurm_node

from qmix_jax.records import read_metrics
from qmix_jax.run import exits
from qmix_jax.run.checkpoint import find

pytestmark = pytest.mark.skipif(bool(slurm_node.missing()), reason=slurm_node.missing())

SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus=1")
ENDLESS = "total_env_steps=1e9,2e9"


@pytest.fixture(scope="module")
def slurm():
    with slurm_node.slurm_node() as environment:
        yield environment


@pytest.fixture(autouse=True)
def no_job_left(slurm, start_sweep):
    """A test that fails leaves no job that would hold a core of the next."""
    yield
    while states(slurm):
        ask(slurm, "scancel", "--me", "--full", "--signal=KILL")
        ask(slurm, "scancel", "--me")
        time.sleep(0.2)


def ask(slurm: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env={**os.environ, **slurm}, capture_output=True, text=True, check=False)
    return done.stdout


def states(slurm: dict[str, str]) -> dict[str, str]:
    return dict(line.split() for line in ask(slurm, "squeue", "-h", "-r", "-o", "%i %T").splitlines())


def goes_on(slurm: dict[str, str], sweep, number: int, job: str, starts: int) -> None:
    """Wait until a job is back in the queue with a whole checkpoint, and then trains further."""
    sweep.until(lambda: states(slurm).get(job) == "PENDING")
    assert find(sweep.job(number)).is_whole_state
    time.sleep(2)  # Slurm cannot start a job in the second in which it ended ("credential revoked"), and ends it then

    def is_started() -> bool:
        ask(slurm, "scontrol", "update", f"jobid={job}", "starttime=now")  # Slurm itself would wait for two minutes
        return sweep.record(number).starts == starts

    sweep.until(is_started)
    sweep.trains(number, starts)


def test_an_array_has_its_resources_and_a_failed_job_does_not_stop_the_others(slurm, start_sweep):
    sweep = start_sweep(
        slurm,
        *SLURM,
        "hydra.launcher.time=0:30:00",
        "hydra.launcher.comment=a test",
        "hydra.launcher.sbatch={nice: 5}",
        "hydra.launcher.setup=['export FROM_SETUP=1']",
        "total_env_steps=3200",
        "devices=7,1",
    )
    status, said = sweep.end()
    assert status == exits.USAGE_ERROR and "job 1 of 2 failed: devices=7" in said, said
    assert "devices=7" in sweep.record(0).error and sweep.record(1).state == "done"
    (script,) = (sweep.folder / ".submitit").glob("*_submission.sh")
    for line in ("--array=0-1%", "--time=30", "--comment='a test'", "--cpus-per-task=1", "--nice=5", "--requeue"):
        assert f"#SBATCH {line}" in script.read_text()
    assert "export FROM_SETUP=1" in script.read_text()


def test_jobs_that_slurm_interrupts_save_and_go_on_and_the_same_line_follows_them_until_ctrl_c(slurm, start_sweep):
    sweep = start_sweep(slurm, *SLURM, "hydra.launcher.time=60", ENDLESS)
    sweep.trains(0, starts=1)
    sweep.trains(1, starts=1)
    first, second = sorted(states(slurm))
    ask(slurm, "scancel", "--signal=USR2", first)
    ask(slurm, "scancel", "--signal=TERM", second)  # some clusters warn so of preemption
    goes_on(slurm, sweep, 0, first, starts=2)
    goes_on(slurm, sweep, 1, second, starts=2)
    urgent = ask(slurm, "sbatch", "--parsable", "-p", "urgent", "-o", "/dev/null", "--wrap", "sleep 1").strip()
    sweep.until(lambda: "PENDING" in (states(slurm)[first], states(slurm)[second]))  # one was preempted
    number, job = (0, first) if states(slurm)[first] == "PENDING" else (1, second)
    assert find(sweep.job(number)).is_whole_state and sweep.record(number).status == exits.TERMINATED
    sweep.until(lambda: urgent not in states(slurm))
    goes_on(slurm, sweep, number, job, starts=3)

    sweep.process.kill()
    sweep.end()
    assert set(states(slurm).values()) == {"RUNNING"}
    sweep.start()
    sweep.until(lambda: "job 2 of 2 started" in sweep.said)
    assert set(states(slurm)) == {first, second}  # none was submitted twice
    sweep.process.send_signal(signal.SIGINT)
    status, said = sweep.end()
    assert status == exits.INTERRUPTED, said
    assert not states(slurm)
    for each in (0, 1):
        assert sweep.record(each).status == exits.INTERRUPTED
        assert find(sweep.job(each)).env_steps == read_metrics(sweep.job(each) / "metrics.jsonl")[-1]["env_steps"]


def test_a_job_saves_before_its_time_limit_and_ends_where_it_may_not_be_put_back_again(slurm, start_sweep):
    limits = ("hydra.launcher.time=1", "hydra.launcher.signal_delay=5", "hydra.launcher.max_requeues=0")
    sweep = start_sweep(slurm, *SLURM, *limits, "total_env_steps=1e9")
    status, said = sweep.end()
    assert status == exits.REQUEUE and "job 1 of 1 stopped, can be resumed" in said, said
    assert find(sweep.job(0)).is_whole_state and not states(slurm)


def test_a_partition_that_does_not_exist_is_one_line(slurm, start_sweep):
    status, said = start_sweep(slurm, *SLURM, "hydra.launcher.partition=nowhere", ENDLESS).end()
    assert status == exits.USAGE_ERROR
    assert "error: sbatch refuses the jobs: sbatch: error: Batch job submission failed: Invalid partition" in said


def test_a_job_of_two_tasks_is_one_run_which_one_of_them_records_and_both_requeue(slurm, start_sweep):
    hosts = ("hydra.launcher.tasks_per_node=2", "devices=2", "num_seeds=2", "logging.display=plain")
    sweep = start_sweep(slurm, *SLURM, *hosts, "hydra.launcher.time=60", "total_env_steps=1e9")
    sweep.trains(0, starts=1)
    (job,) = states(slurm)
    log = (sweep.job(0) / "job.log").read_text()
    assert log.count("2 x cpu (2 for seeds x 1 for data) of 2 processes") == 1
    ask(slurm, "scancel", "--signal=USR2", job)
    goes_on(slurm, sweep, 0, job, starts=2)
    assert find(sweep.job(0)).shares == (2, 1)
    sweep.process.send_signal(signal.SIGINT)
    status, said = sweep.end()
    assert status == exits.INTERRUPTED and sweep.record(0).status == exits.INTERRUPTED, said
