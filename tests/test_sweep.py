"""A sweep's jobs in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qmix_jax.run import exits
from qmix_jax.run.checkpoint import find

LINE = (
    "train -m env=probe total_env_steps=6400,1e9,2e9 devices=1 evaluation.every_env_steps=3200 evaluation.episodes=8 "
    "logging.film=false logging.display=none hydra.sweep.dir=many"
)


@pytest.mark.slow
def test_jobs_run_one_after_the_other_and_a_signal_saves_the_running_one_and_starts_no_other(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "qmix_jax", *LINE.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)
    first, second, third = (tmp_path / "many" / f"{number}_probe-qmix_seed0" for number in range(3))
    deadline = time.monotonic() + 300
    while not (second / "metrics.jsonl").is_file() or not (second / "metrics.jsonl").stat().st_size:
        assert sweep.poll() is None and time.monotonic() < deadline, sweep.communicate()[1]
        time.sleep(0.05)
    sweep.send_signal(signal.SIGTERM)
    out, err = sweep.communicate(timeout=300)
    assert sweep.returncode == exits.TERMINATED and "job 2 of 3: env=probe" in out, err
    assert find(first).env_steps == 6400 and find(second).is_whole_state and not third.exists()
    assert "total_env_steps=6400,1e9,2e9" in json.loads((first / "run.json").read_text())["command"]
