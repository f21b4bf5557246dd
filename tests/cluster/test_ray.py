"""Sweeps on a real Ray of two nodes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qmix_jax.run import exits
from qmix_jax.run.checkpoint import find

pytest.importorskip("ray", reason="Ray is not installed: pip install 'qmix-jax[ray]'")


class Cluster:
    """A Ray of two nodes, which run in processes without JAX."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("ray_nodes.py"))], **pipes)
        address = self.process.stdout.readline().strip()
        assert address, "Ray did not start"
        self.words = ("hydra/launcher=ray", f"hydra.launcher.address={address}")

    def replace_last_node(self) -> None:
        """Let it die, and start another one."""
        print(file=self.process.stdin, flush=True)


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.process.communicate(timeout=60)


def test_both_nodes_run_jobs_and_a_failed_one_does_not_stop_the_others(cluster, start_sweep):
    sweep = start_sweep({}, *cluster.words, "total_env_steps=3200", "devices=7,1")
    status, said = sweep.end()
    assert status == exits.USAGE_ERROR and "on a Ray cluster of 2, 2 at once, each with 1 CPU cores" in said, said
    assert "devices=7" in sweep.record(0).error and sweep.record(1).state == "done"


def test_a_job_whose_node_dies_goes_on_at_another_and_ctrl_c_saves_and_ends_all(cluster, start_sweep):
    sweep = start_sweep({}, *cluster.words, "total_env_steps=1e9,2e9")
    sweep.trains(0, starts=1)
    sweep.trains(1, starts=1)
    cluster.replace_last_node()
    sweep.until(lambda: {sweep.record(0).starts, sweep.record(1).starts} == {1, 2})
    moved = 0 if sweep.record(0).starts == 2 else 1
    sweep.trains(moved, starts=2)
    sweep.process.send_signal(signal.SIGINT)
    status, said = sweep.end()
    assert status == exits.INTERRUPTED, said
    for number in (0, 1):
        assert sweep.record(number).status == exits.TERMINATED and find(sweep.job(number)).is_whole_state
