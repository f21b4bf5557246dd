"""Only one process at a time trains in a run's folder."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

from qmix_jax.run import exits, startup
from qmix_jax.run.compilation import compile_with
from qmix_jax.run.lock import NAME, InUseError, locked, require_unlocked
from qmix_jax.settings import ConfigError


def holder(folder: Path) -> subprocess.Popen:
    """A process that holds the folder's lock until it is killed."""
    text = """
        import sys, time
        from pathlib import Path
        from qmix_jax.run.lock import locked

        with locked(Path(sys.argv[1])):
            print("locked", flush=True)
            time.sleep(60)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(text), str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


@pytest.fixture
def other(tmp_path):
    process = holder(tmp_path / "run")
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path, other):
    folder = tmp_path / "run"
    for attempt in (lambda: locked(folder).__enter__(), lambda: require_unlocked(folder)):
        with pytest.raises(InUseError) as refused:
            attempt()
        said = str(refused.value)
        assert startup.status_of(refused.value) == exits.REQUEUE
        assert f"in use by process {other.pid} on {socket.gethostname()} since 20" in said and "\n" not in said
        assert f"delete {folder / NAME} to break the lock" in said


def test_a_killed_process_leaves_no_lock(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / "run" / NAME).exists()
    require_unlocked(tmp_path / "run")
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == os.getpid()


def test_deleting_the_file_breaks_the_lock(tmp_path, other):
    (tmp_path / "run" / NAME).unlink()
    with locked(tmp_path / "run"), pytest.raises(ConfigError, match=f"process {os.getpid()} "):
        require_unlocked(tmp_path / "run")


def test_the_lock_ends_with_its_block_and_leaves_no_file(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "run"):
            _ = 1 / 0
        assert not list((tmp_path / "run").iterdir())


def test_a_broken_lock_does_not_take_the_new_holders_file_away(tmp_path):
    with locked(tmp_path):
        (tmp_path / NAME).unlink()
        with locked(tmp_path):
            pass
        (tmp_path / NAME).write_text("of somebody else")
    assert (tmp_path / NAME).read_text() == "of somebody else"


def test_a_file_that_names_nobody_does_not_hide_the_lock(tmp_path, other):
    (tmp_path / "run" / NAME).write_text("[]")
    with pytest.raises(ConfigError, match="in use by another process"):
        require_unlocked(tmp_path / "run")


def test_without_locks_in_the_file_system_a_run_trains_all_the_same(tmp_path, monkeypatch):
    import fcntl

    def no_locks(handle, how):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path):
        require_unlocked(tmp_path)


class Compiling:
    """A lowered program whose compilation takes 0.2 s, and how many at once were compiled."""

    now = most = 0

    def __init__(self, number: int):
        self.as_text = jax.jit(lambda x: x + number).lower(1.0).as_text

    def compile(self, options):
        Compiling.now += 1
        Compiling.most = max(Compiling.most, Compiling.now)
        time.sleep(0.2)
        Compiling.now -= 1


@pytest.mark.parametrize(("numbers", "most"), [((1, 1), 1), ((1, 2), 2)])
def test_equal_programs_are_compiled_one_after_the_other(tmp_path, monkeypatch, numbers, most):
    monkeypatch.setattr(Compiling, "most", 0)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        with ThreadPoolExecutor() as executor:
            list(executor.map(lambda program: compile_with(program, {}), [Compiling(number) for number in numbers]))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert Compiling.most == most and not list(tmp_path.iterdir())
