"""A Slurm of this machine alone, for tests: munged, slurmctld and slurmd in a scratch folder, as root.

    python tests/cluster/slurm_node.py COMMAND ...    runs a command with it

Needs Debian's packages slurm-wlm and munge, and installs nothing.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=sched_interval=1,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
NodeName={host} CPUs={cores} RealMemory={megabytes}
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2
"""


def missing() -> str:
    """Why no Slurm can be started here; '' where one can."""
    absent = [name for name in DAEMONS if not find(name)]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextlib.contextmanager
def slurm_node() -> Iterator[dict[str, str]]:
    """Start a Slurm; gives the environment variables with which its commands find it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munge refuses a folder that others may write to
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons: list[subprocess.Popen] = []
    try:
        for command in commands(folder):
            with (folder / "daemons.log").open("a") as log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if "munged" in command[0]:
                wait_for(lambda: (folder / "munge.socket").exists(), folder)
        wait_for(lambda: "idle" in output_of(["sinfo", "--noheader", "--format=%T"], environment), folder)
        yield {"SLURM_CONF": environment["SLURM_CONF"]}
    finally:
        output_of(["scancel", "--me", "--full", "--signal=KILL"], environment)  # daemons leave jobs behind
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


def commands(folder: Path) -> list[list[str]]:
    """Write the configuration, made for this machine; returns the commands of the daemons."""
    ports = free_ports(2)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    values = {"host": socket.gethostname().partition(".")[0], "cores": os.cpu_count(), "megabytes": memory * 9 // 10}
    text = CONF.format(folder=folder, ctld_port=ports[0], d_port=ports[1], **values)
    (folder / "slurm.conf").write_text(text)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    own = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    munged, slurmctld, slurmd = (str(find(name)) for name in DAEMONS)
    return [
        [munged, "--foreground", "--force", f"--socket={folder}/munge.socket", *own],
        [slurmctld, "-D", "-f", f"{folder}/slurm.conf"],
        [slurmd, "-D", "-f", f"{folder}/slurm.conf"],
    ]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def output_of(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def wait_for(is_so, folder: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            logs = [f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.log")]
            raise RuntimeError("\n".join(["Slurm did not start", *logs]))
        time.sleep(0.1)


if __name__ == "__main__":
    with slurm_node() as found:
        sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, **found}, check=False).returncode)
