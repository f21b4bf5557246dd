"""Joining the processes of a run on several hosts, and ending them all when one of them fails or dies.

JAX's coordination service runs in process 0. Where it misses a process, or a process misses it, JAX logs a stack trace
and aborts (SIGABRT); here that becomes one line and an exit status. An exception in one process is passed on by a key,
which a thread of each process looks for.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, Literal, TypeAlias

from qmix_jax.console import say
from qmix_jax.run import startup
from qmix_jax.run.exits import FAILED, REQUEUE, USAGE_ERROR
from qmix_jax.settings import LARGEST_INT, ConfigError, Count, Range, Steps, check_ranges, make_settings, require

WORD = "distributed"
HEARTBEAT = 25
"""Seconds without a sign of life after which a process counts as dead."""
POLL = 1.0
"""Seconds between two looks for the end of another process."""
SHUTDOWN = 3600
"""Seconds that a process waits at the end for the others, such as for process 0, which paints the film."""
LOG_LEVEL, JAX_DEFAULT = "TF_CPP_MIN_LOG_LEVEL", "1"
"""The environment variable that says what JAX's C++ code logs: all with 0, what ends the process with 3."""
FATAL = b"Terminating process because the JAX distributed service detected fatal errors"
"""In JAX's log, before it aborts."""
KEY = "qmix_jax/end"
"""Where the first process that fails leaves the exit status of all."""


CLUSTERS = ("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST")
"""Environment variables of those that start processes. Without one, and without TPUs, JAX is not asked."""
DIED = (
    "another process of this run died, or cannot be reached; the same command with resume=auto goes on from the last "
    "checkpoint, on fewer hosts too"
)
OnEnd: TypeAlias = Callable[[int, str], None]
"""(exit status, error in one line, '' where it is another process's)."""


@dataclass(frozen=True)
class Settings:
    """How a process finds the others: the words `distributed=...` and `distributed.NAME=...` of a command line.

    They are no settings of the run, which goes on with other hosts as well.
    """

    mode: Literal["auto", "on", "off"] = "auto"
    """Whether this is one process of several: auto: where JAX sees that Slurm, Open MPI, Kubernetes or a TPU pod
    started several, or where a setting below is given."""
    coordinator_address: str | None = None
    """HOST:PORT of process 0, with a free port."""
    num_processes: Count | None = None
    """How many there are."""
    process_id: Steps | None = None
    """Which of them this is."""
    initialization_timeout: Annotated[int, Range(1, 86_400, "must be from 1 to 86400 seconds")] = 300
    """Seconds to wait until all are there."""

    def __post_init__(self):
        check_ranges(f"{WORD}.", self)
        host, _, port = (self.coordinator_address or "host:1").rpartition(":")
        require(bool(host) and port.isdigit(), f"{WORD}.coordinator_address={self.coordinator_address} is no HOST:PORT")
        number, of = self.process_id or 0, self.num_processes or LARGEST_INT
        require(number < of, f"{WORD}.process_id={number} is none of {of}: they are counted from 0")

    @property
    def is_given(self) -> bool:
        """Whether a setting says that this is one process of several."""
        return self.mode == "on" or any(
            each is not None for each in (self.coordinator_address, self.num_processes, self.process_id)
        )


def take_words(arguments: list[str]) -> tuple[Settings, list[str]]:
    """The settings on a command line, and the rest of it; raises ConfigError where they are wrong."""
    rest, values = [], {}
    for each in arguments:
        name, equals, value = each.lstrip("+").partition("=")
        group, _, setting = name.partition(".")
        if group == WORD and equals:
            values[setting or "mode"] = int(value) if value.isdigit() else value
        else:
            rest.append(each)
    return make_settings(Settings, values, f"{WORD}."), rest


@contextmanager
def joined(settings: Settings, on_end: OnEnd = lambda status, error: None) -> Iterator[None]:
    """Be one of several processes while the block runs, where the settings say so; else nothing happens.

    The first exception in any process is reported by that process and ends all, with its exit status. `on_end` is
    called before this process ends so, or because another one died.

    Raises:
        ConfigError: the processes do not find each other.
    """
    if not _is_wanted(settings):
        yield
        return
    ending = Ending(on_end)
    try:
        _initialize(settings, ending)
        from jax._src.distributed import global_state

        if global_state.process_id:  # messages are those of process 0; errors are everybody's
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with ending.watched(global_state.client, not global_state.process_id):
            yield
        global_state.shutdown()
    finally:
        ending.log.close()


def _is_wanted(settings: Settings) -> bool:
    if settings.mode == "off" or settings.num_processes == 1:
        return False
    if settings.is_given:
        return True
    if not any(name in os.environ for name in CLUSTERS) and find_spec("libtpu") is None:
        return False
    startup.import_jax()
    with warnings.catch_warnings(), suppress(Exception):  # such as a Kubernetes that answers no questions
        warnings.simplefilter("ignore")
        from jax._src.clusters import ClusterEnv

        kinds = [each for each in ClusterEnv._cluster_types if not each.opt_in_only_method]
        found = next((each for each in kinds if each.is_env_present()), None)
        return found is not None and found.get_process_count() > 1
    return False


def _initialize(settings: Settings, ending: "Ending") -> None:
    """Wait for all processes; raises ConfigError where something is missing."""
    if os.environ.get(LOG_LEVEL, JAX_DEFAULT) == JAX_DEFAULT:  # before JAX is imported here, which may set the default
        os.environ[LOG_LEVEL] = "3"
    startup.import_jax()
    import jax

    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    address, seconds = settings.coordinator_address, settings.initialization_timeout
    _require_host(address, seconds)
    ending.line = (
        f"{address or 'the first process'} did not bring all {settings.num_processes or ''} processes together within "
        f"{seconds} s: is this its address, and did every one start? {WORD}.initialization_timeout=SECONDS waits "
        f"longer, {WORD}=off trains without others"
    ).replace("  ", " ")
    is_whole = None not in (address, settings.num_processes, settings.process_id)
    ending.catch_aborts()
    try:
        jax.distributed.initialize(
            address,
            settings.num_processes,
            settings.process_id,
            cluster_detection_method="deactivate" if is_whole else None,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
        from qmix_jax.run.gloo import use_gloo

        use_gloo(seconds)
    except Exception as error:  # of many types, by what is missing
        names = f"{WORD}.coordinator_address (with a free port), {WORD}.num_processes and {WORD}.process_id"
        why = startup.first_line(error).rstrip(".")
        raise ConfigError(f"the processes cannot find each other: {why}; set {names}") from error
    ending.line, ending.status = DIED, REQUEUE


def _require_host(address: str | None, seconds: int) -> None:
    """Raise ConfigError where the host of this address gets no name within `seconds`: it may be starting."""
    host, deadline = (address or "localhost:1").rpartition(":")[0].strip("[]"), time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(f"{WORD}.coordinator_address={address}: there is no host {host}") from error
        time.sleep(POLL)


class Log(threading.Thread):
    """Passes on what the process writes to stderr, but for JAX's report that another process is lost."""

    def __init__(self):
        super().__init__(name="log", daemon=True)
        self.has_lost = threading.Event()
        self._stderr = os.dup(2)
        read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
        self._lines = os.fdopen(read, "rb")
        self.start()

    def run(self) -> None:
        """Until `close`."""
        for line in self._lines:
            if FATAL in line:
                self.has_lost.set()
            if not self.has_lost.is_set():
                os.write(self._stderr, line)

    def close(self) -> None:
        """Let stderr be as before."""
        if self.is_alive():
            os.dup2(self._stderr, 2)
            self.join(1)


class Ending:
    """The end of this process when it, or another one, fails or dies."""

    def __init__(self, on_end: OnEnd):
        self._on_end, self._lock = on_end, threading.Lock()
        self.line, self.status = "", USAGE_ERROR
        """What is said when JAX loses another process, and the exit status then."""
        self._error = ""  # of this process itself
        self._is_failing = False
        self.log = Log()

    def catch_aborts(self) -> None:
        """Let JAX's abort end the process with the line and the status. Python's own handlers of signals never run
        then.
        """

        def end(number: int) -> None:
            del number
            if self.log.has_lost.wait(2):  # else it is a defect, and the abort goes on
                self._exit(self.status, self.line)

        kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
        self._handler = kind(end)  # kept: C has only its address
        install = ctypes.CDLL(None).signal
        install.argtypes, install.restype = [ctypes.c_int, kind], ctypes.c_void_p
        install(signal.SIGABRT, self._handler)

    def _exit(self, status: int, error: str = "") -> None:
        """End the process at once, whatever its other threads wait for."""
        self._lock.acquire()  # for good: one thread ends the process
        self.log.close()
        if error:
            say(f"qmix-jax: error: {error}", sys.stderr)
        with suppress(Exception):
            self._on_end(status, error or self._error)
        os._exit(status)

    @contextmanager
    def watched(self, client: Any, is_first: bool) -> Iterator[None]:
        """Look for the end of other processes while the block runs, and tell them of its exception."""
        is_over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(client, is_first, is_over), name="end", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            status = startup.status_of(error)
            if status is None:
                time.sleep(HEARTBEAT + 10)  # a computation fails when another process dies, before that is known
            self._is_failing = True
            if self._tell(client, FAILED if status is None else status):
                self._fail(error, status)
            self._is_failing = False  # another process was faster, which ends this one
            time.sleep(HEARTBEAT)
            raise
        finally:
            is_over.set()
            thread.join()

    def _watch(self, client: Any, is_first: bool, is_over: threading.Event) -> None:
        while not is_over.wait(POLL):
            with suppress(RuntimeError):  # no process has left its status
                status = int(client.key_value_try_get(KEY))
                time.sleep(2 * POLL * is_first)  # it has what the others look for
                if not self._is_failing:
                    self._exit(status)

    def _tell(self, client: Any, status: int) -> bool:
        """Leave the status for the other processes; whether this is the first one that does."""
        try:
            client.key_value_set(KEY, str(status))
        except RuntimeError:
            return False
        return True

    def _fail(self, error: BaseException, status: int | None) -> None:
        """End with an error of this process, of which the others know."""
        self.line, self.status = "", FAILED if status is None else status
        self._error = startup.first_line(error)
        if status is None:
            traceback.print_exception(error)
        elif not isinstance(error, KeyboardInterrupt):
            startup.report(error)  # pyright: ignore[reportArgumentType]
        time.sleep(3 * POLL)
        self._exit(self.status)
