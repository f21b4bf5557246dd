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
    "train -m env=probe seed={seeds} total_env_steps={steps} devices=1 evaluation.every_env_steps=3200 "
    "evaluation.episodes=8 logging.film=false logging.display=none hydra.sweep.dir=many"
)


def start(folder: Path, seeds: str, steps: int) -> subprocess.Popen:
    line = LINE.format(seeds=seeds, steps=steps)
    return subprocess.Popen(
        [sys.executable, "-m", "qmix_jax", *line.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_each_job_runs_and_its_records_name_the_sweeps_command(tmp_path):
    sweep = start(tmp_path, "0,1", 6400)
    out, err = sweep.communicate(timeout=300)
    assert sweep.returncode == exits.DONE and "job 2 of 2: env=probe seed=1" in out, err
    for number in (0, 1):
        folder = tmp_path / "many" / f"{number}_probe-qmix_seed{number}"
        assert find(folder).env_steps == 6400
        assert "seed=0,1" in json.loads((folder / "run.json").read_text())["command"]


@pytest.mark.slow
def test_a_signal_to_the_sweep_saves_the_job_and_starts_no_other(tmp_path):
    sweep = start(tmp_path, "0,1", 10**9)
    first = tmp_path / "many" / "0_probe-qmix_seed0"
    deadline = time.monotonic() + 300
    while not (first / "metrics.jsonl").is_file() or not (first / "metrics.jsonl").stat().st_size:
        assert sweep.poll() is None and time.monotonic() < deadline, sweep.communicate()[1]
        time.sleep(0.05)
    sweep.send_signal(signal.SIGTERM)
    sweep.communicate(timeout=300)
    assert sweep.returncode == exits.TERMINATED
    assert find(first).is_whole_state and not (tmp_path / "many" / "1_probe-qmix_seed1").exists()
