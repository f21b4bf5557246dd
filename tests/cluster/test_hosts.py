"""Runs on several hosts, with Gloo: processes of this machine on its loopback address, or with a network each."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from qmix_jax.records import read_metrics
from qmix_jax.run import exits
from qmix_jax.run.checkpoint import Checkpoint, checkpoints, find
from qmix_jax.run.metrics import SUMS

ROOT = Path(__file__).parents[2]
TINY = (
    *("env=probe", "agent.hidden_size=8", "algorithm.embed_size=4", "algorithm.hypernet_size=8", "num_seeds=2"),
    *("rollout.num_envs=4", "learner.batch_size=8", "replay.capacity=512", "logging.film=false"),
    *("evaluation.every_env_steps=160", "evaluation.episodes=8", "exploration.decay_env_steps=500"),
    *(
        "total_env_steps=800",
        "checkpoint.every_env_steps=320",
        "learner.start_env_steps=160",
        "learner.final_learning_rate=null",
    ),
)
ENDLESS = "total_env_steps=100_000_000"
TIMING = {*SUMS, "train/steps_per_second"}
GONE = "qmix-jax: error: another process of this run died, or cannot be reached"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Hosts:
    """Processes that each were started with the same words, but for their own number."""

    def __init__(
        self, folder: Path, count: int, *words: str, started: int | None = None, before: tuple = (), last: tuple = ()
    ):
        """Fewer may be `started`; the last one gets the words `last` too."""
        self.folder, port = folder, free_port()
        self.address = f"127.0.0.1:{port}"
        self.logs = [folder.with_name(f"{folder.name}.{i}.log") for i in range(started or count)]
        own = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "xla")}
        own |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_NUM_CPU_DEVICES": "4" if count == 1 else ""}
        environment = {name: value for name, value in {**os.environ, **own}.items() if value}
        together = [f"distributed.coordinator_address={self.address}", f"distributed.num_processes={count}"]
        line = [*before, sys.executable, "-m", "qmix_jax", "train", *TINY, f"hydra.run.dir={folder}", *together, *words]
        self.processes = []
        for i, log in enumerate(self.logs):
            with log.open("w") as file:
                command = [*line, *(last if i == count - 1 else ()), f"distributed.process_id={i}"]
                self.processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))

    def until(self, is_so, seconds: float = 200) -> None:
        """Wait until something is so while they run."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert all(each.poll() is None for each in self.processes) and time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def until_rows(self, count: int) -> None:
        path = self.folder / "metrics.jsonl"
        self.until(lambda: path.is_file() and len(read_metrics(path)) >= count)

    def end(self, seconds: float = 200) -> list[int]:
        """Their exit statuses, when all have ended."""
        try:
            return [each.wait(seconds) for each in self.processes]
        finally:
            for each in self.processes:
                each.kill()

    @property
    def said(self) -> list[str]:
        """What each printed."""
        return [log.read_text() for log in self.logs]


def without_gloo(said: str) -> list[str]:
    """The lines that are neither warnings nor Gloo's about its connections, the pieces of which may mix."""
    lines = [line for line in said.splitlines() if "peer ranks" not in line and not line.isdigit()]
    return [line for line in lines if line and not line.startswith("warning")]


def whole(folder: Path) -> list[Checkpoint]:
    return [each for each in checkpoints(folder) if each.is_whole_state]


def rows(folder: Path) -> list[dict]:
    found = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMING} for row in found]


def assert_equal(folder: Path, other: Path, tolerance: float = 0.0) -> None:
    """The same rows, and the same arrays in the last checkpoint."""
    for ours, theirs in zip(rows(folder), rows(other), strict=True):
        for name in ours:
            np.testing.assert_allclose(np.array(ours[name], float), np.array(theirs[name], float), tolerance, tolerance)
    ours, theirs = find(folder), find(other)
    assert ours.env_steps == theirs.env_steps == rows(other)[-1]["env_steps"]
    for item in ("params", "state", "replay"):
        pairs = zip(jax.tree.leaves(ours.read(item)), jax.tree.leaves(theirs.read(item)), strict=True)
        for one, another in pairs:
            np.testing.assert_allclose(one.astype(float), another.astype(float), tolerance, tolerance)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def alone(place):
    """A run of one process with four devices, two for the data of each seed."""
    hosts = Hosts(place / "alone", 1, "devices=4")
    assert hosts.end() == [exits.DONE], hosts.said
    return hosts.folder


def test_seeds_split_over_two_processes_are_those_of_one_and_process_0_alone_reports(place):
    one, two = Hosts(place / "one", 1, "devices=2"), Hosts(place / "two", 2, "devices=2")
    assert one.end() + two.end() == [exits.DONE] * 3, two.said
    assert_equal(place / "two", place / "one")
    assert find(place / "two").shares == (2, 1) and find(place / "two").flaw(to_resume=True) == ""
    first, second = two.said
    assert "2 x cpu (2 for seeds x 1 for data) of 2 processes" in first and "Done: QMIX on probe" in first
    assert second == ""


def test_four_processes_stop_together_and_the_run_goes_on_with_two_and_with_one(place, alone):
    run = place / "moving"
    four = Hosts(run, 4, "devices=4", "resume=auto", "checkpoint.every_env_steps=null")
    four.until_rows(1)
    four.processes[3].send_signal(signal.SIGUSR1)
    assert four.end() == [exits.REQUEUE] * 4, four.said
    stopped = rows(run)[-1]["env_steps"]
    assert find(run).env_steps == stopped < 800 and find(run).shares == (4, 2)
    two = Hosts(run, 2, "devices=4", "resume=auto", f"total_env_steps={stopped + 160}")
    assert two.end() == [exits.DONE] * 2, two.said
    assert f"resumes from step {stopped}" in two.said[0] and find(run).shares == (2, 1)
    one = Hosts(run, 1, "devices=4", "resume=auto")
    assert one.end() == [exits.DONE], one.said
    assert_equal(run, alone, tolerance=1e-4)


@pytest.mark.parametrize("dying", [0, 1])
def test_a_killed_process_ends_the_others_with_one_line_and_the_run_goes_on(place, dying):
    """Process 0 dies in a chunk, the other one while both save."""
    run = place / f"killed{dying}"
    hosts = Hosts(run, 2, "devices=2", "resume=auto", ENDLESS, "logging.display=none")
    hosts.until(lambda: whole(run) and (dying == 0 or list(run.glob("checkpoints/.*.draft.*"))))
    hosts.processes[dying].kill()
    killed = time.monotonic()
    statuses = hosts.end()
    assert statuses[dying] == -signal.SIGKILL and statuses[1 - dying] == exits.REQUEUE, hosts.said
    assert time.monotonic() - killed < 60
    (line,) = without_gloo(hosts.said[1 - dying])
    assert line.startswith(GONE)
    saved = whole(run)[-1]
    assert saved.flaw(to_resume=True) == ""
    words = (f"total_env_steps={saved.env_steps + 160}", "devices=2")
    again = Hosts(run, 2 - dying, *words, "resume=auto")
    assert again.end() == [exits.DONE] * (2 - dying), again.said
    assert find(run).env_steps == saved.env_steps + 160 and not list(run.glob("checkpoints/.*"))


def test_a_missing_process_and_a_wrong_address_are_one_line(place):
    waits = "distributed.initialization_timeout=3"
    missing = Hosts(place / "missing", 3, waits, started=2)
    wrong = Hosts(place / "wrong", 2, waits, "distributed.coordinator_address=no-such-host.invalid:1234")
    assert missing.end() + wrong.end() == [exits.USAGE_ERROR] * 4
    for said in missing.said:
        assert said.count("\n") == 1 and f"{missing.address} did not bring all 3 processes together within 3 s" in said
    assert all(said.count("\n") == 1 and "there is no host no-such-host.invalid" in said for said in wrong.said)
    assert not missing.folder.exists()


def test_an_error_in_one_process_is_its_line_and_the_status_of_all(place):
    wrong = Hosts(place / "wrong_one", 2, "devices=2", last=("nonsense=1",))
    other = Hosts(place / "other", 2, "devices=2", last=("learner.gamma=0.5",))
    assert wrong.end() + other.end() == [exits.USAGE_ERROR] * 4
    assert wrong.said[0] == "" and "error: unknown setting 'nonsense'" in wrong.said[1]
    (line,) = "".join(other.said).splitlines()
    assert line.endswith("the processes have other values of learner.gamma: start the same command on every host")
    assert not wrong.folder.exists() and not (other.folder / "run.json").exists()


def can_mount() -> bool:
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(mount, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="may not mount a file system")
def test_a_full_disk_of_process_0_fails_every_checkpoint_and_training_goes_on(place):
    """Its own view of the folder of checkpoints is a file system of one page."""
    run = place / "full"
    (run / "checkpoints").mkdir(parents=True)
    mount = (
        f'[ "${{@: -1}}" = distributed.process_id=0 ] && mount -t tmpfs -o size=4k none {run}/checkpoints; exec "$@"'
    )
    hosts = Hosts(run, 2, "devices=2", before=("unshare", "-rm", "bash", "-c", mount, "_"))
    assert hosts.end() == [exits.NOT_SAVED] * 2, hosts.said
    said = hosts.said[0]
    assert "warning: no checkpoint at step" in said and "the end of the run could not be saved" in said
    assert len(rows(run)) == 5


# --- two machines: network namespaces with a cable between them --------------------------------------------------

AS_MACHINE = """
name="PREFIX${@: -1:1}"; name="${name/distributed.process_id=/}"
exec ip netns exec "$name" unshare --mount --uts bash -c '
  mount --bind "$0" /etc/hosts; hostname "$1"; exec "${@:2}"' "$0/$name" "$name" "$@"
"""
"""Runs a process on the machine of its number, with the files of hosts from the folder $0."""


def ip(line: str) -> bool:
    """Whether a command of `ip` succeeds."""
    return shutil.which("ip") is not None and subprocess.run(["ip", *line.split()], check=False).returncode == 0


@pytest.fixture
def machines(tmp_path):
    """The names of two machines, each of which takes its own for 127.0.1.1 as Debian's do; the words before a command
    that run it there.
    """
    prefix = f"qmix-{os.getpid()}-"  # another run of the tests has its own
    names, addresses = (f"{prefix}0", f"{prefix}1"), ("10.77.0.1", "10.77.0.2")
    try:
        if not all(ip(f"netns add {name}") for name in names):
            pytest.skip("may not make network namespaces")
        assert ip(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
        for name, address, other, there in zip(names, addresses, names[::-1], addresses[::-1], strict=True):
            assert ip(f"-n {name} addr add {address}/24 dev eth0")
            assert ip(f"-n {name} link set lo up") and ip(f"-n {name} link set eth0 up")
            (tmp_path / name).write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n{there} {other}\n")
        yield names, ("bash", "-c", AS_MACHINE.replace("PREFIX", prefix), str(tmp_path))
    finally:
        for name in names:
            ip(f"netns del {name}")


def test_two_machines_train_and_a_cut_cable_ends_both_with_one_line(place, machines):
    run, (names, before) = place / "machines", machines
    words = ("devices=4", f"distributed.coordinator_address={names[0]}:7700", ENDLESS, "logging.display=none")
    both = Hosts(run, 2, *words, before=before)
    both.until(lambda: whole(run))
    assert ip(f"-n {names[1]} link set eth0 down")
    since = time.monotonic()
    assert both.end() == [exits.REQUEUE] * 2, both.said
    assert time.monotonic() - since < 60
    for said in both.said:
        (line,) = without_gloo(said)
        assert line.startswith(GONE)
    assert whole(run)[-1].flaw(to_resume=True) == ""
