"""Processes that are killed, disconnected or out of disk space leave whole checkpoints."""

import os
import pty
import random
import select
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from resuming import assert_same_end, numbers

from qmix_jax.config import CheckpointConfig
from qmix_jax.records import read_metrics
from qmix_jax.run import exits
from qmix_jax.run.checkpoint import checkpoints, find
from qmix_jax.run.saver import Saver

pytestmark = pytest.mark.slow


def script(text: str, *arguments: object, **options) -> subprocess.Popen:
    """A process of its own that runs a program text."""
    command = [*options.pop("before", ()), sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


ON_A_SMALL_DISK = """
    import os, subprocess, sys
    from pathlib import Path
    import numpy as np
    from qmix_jax.run.checkpoint import find
    from qmix_jax.run.saver import Saver
    from qmix_jax.run.snapshot import Snapshot
    from qmix_jax.config import CheckpointConfig
    from qmix_jax.records import read_metrics
    from qmix_jax.reporters.metrics_file import MetricsFile

    place = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
    said = []
    saver, metrics = Saver(place, CheckpointConfig(keep_last=1), said.append), MetricsFile(place, say=said.append)

    def save(step):
        saver.save(Snapshot(step, {"params": {"x": np.random.default_rng(step).random(30_000)}}, "", {}))
        metrics.on_evaluation({"env_steps": step, "text": "x" * 5000})
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


@pytest.mark.skipif(not can_mount(), reason="may not mount a file system")
def test_a_small_disk_that_fills_up_is_emptied_and_turns_read_only(tmp_path):
    out, err = script(ON_A_SMALL_DISK, tmp_path, before=["unshare", "-rm"]).communicate(timeout=300)
    assert out == "done\n", err


# --- kill -9 -----------------------------------------------------------------------------------------------------

SAVING = """
    import sys
    from pathlib import Path
    import numpy as np
    from qmix_jax.run.checkpoint import retain, write
    from qmix_jax.run.snapshot import Snapshot

    step = int(sys.argv[2])
    while True:
        step += 1
        arrays = {"x": np.full(300_000, step)}
        write(Path(sys.argv[1]), Snapshot(step, {"params": arrays, "state": arrays}, "", {"score": step % 7}))
        print(step, flush=True)
        retain(Path(sys.argv[1]), 2, 1)
"""


def test_a_process_killed_while_it_saves_leaves_the_last_whole_checkpoint(tmp_path):
    chance, newest = random.Random(0), 0
    for _ in range(3):
        process = script(SAVING, tmp_path, newest)
        written = newest + sum(1 for _, line in zip(range(2), process.stdout, strict=False))  # two are on the disk
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        written += len(process.communicate()[0].split())
        newest = checkpoints(tmp_path)[-1].env_steps
        assert newest in (written, written + 1)  # one may have been renamed but not yet reported
        for checkpoint in checkpoints(tmp_path):
            assert checkpoint.flaw(to_resume=True) == ""
            assert (checkpoint.read("state")["x"] == checkpoint.env_steps).all()
    Saver(tmp_path, CheckpointConfig(), print)
    assert not list(tmp_path.glob("checkpoints/.*"))


def test_the_same_line_started_again_after_every_kill_gives_the_rows_of_a_run_never_killed(tmp_path):
    line = (
        "train env=probe resume=auto devices=1 total_env_steps=16000 evaluation.every_env_steps=160 "
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
        assert len(read_metrics(metrics)) < 100  # killed with seconds of work left: a slow watcher is in time too
    for folder in ("killed", "killed", "whole"):  # the second start finds it complete
        process = start(folder)
        assert process.wait(timeout=300) == exits.DONE, process.communicate()[1]
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
    assert len(numbers(tmp_path / "killed")) == 100


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
        "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # ignored where the tests run under nohup
        "os.execv(sys.argv[1], sys.argv[1:])"
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
    assert second.returncode == exits.REQUEUE and second.stderr.count("\n") == 1
    assert f"in use by process {first.pid} on " in second.stderr and first.poll() is None
    closing.set()
    reader.join()
    os.close(outside)
    assert first.wait(timeout=300) == exits.TERMINATED
    assert read_metrics(run / "metrics.jsonl")[-1]["env_steps"] == find(run).env_steps and find(run).is_whole_state
    assert not (run / "run.lock").exists()
