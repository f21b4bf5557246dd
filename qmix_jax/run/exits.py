"""Exit statuses of a process, and the signals that stop a run. Needs no JAX."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

DONE = 0
FAILED = 1
"""The loss became NaN."""
USAGE_ERROR = 2
"""The settings are wrong."""
OUT_OF_MEMORY = 71
"""The machine or the GPU had too little memory (EX_OSERR of sysexits.h)."""
NOT_SAVED = 74
"""Something could not be written (EX_IOERR of sysexits.h)."""
REQUEUE = 75
"""Stopped by SIGUSR1 or SIGUSR2, which batch systems send before they start a job again, or by the death of another
process of the run; or another process trains in the folder (EX_TEMPFAIL of sysexits.h)."""
CLOSED_PIPE = 141
"""Nobody reads what the command prints any more: 128 + SIGPIPE, as in a shell."""
KILLED = 137
"""Ended by SIGKILL, or with its machine."""
INTERRUPTED, TERMINATED = 130, 143
"""Stopped by SIGINT or SIGTERM: 128 + the signal's number, as in a shell. SIGHUP (a closed terminal) counts as SIGTERM.
"""

_STATUSES = {"SIGINT": INTERRUPTED, "SIGTERM": TERMINATED, "SIGHUP": TERMINATED, "SIGUSR1": REQUEUE, "SIGUSR2": REQUEUE}
STOP_SIGNALS: dict[signal.Signals, int] = {
    getattr(signal, name): status for name, status in _STATUSES.items() if hasattr(signal, name)
}
"""Signal -> exit status of a run that it stopped."""
REASONS = {
    FAILED: "the loss became NaN",
    USAGE_ERROR: "the settings are wrong",
    OUT_OF_MEMORY: "out of memory",
    NOT_SAVED: "it could not be saved",
}
"""Exit status -> why a run failed, where no message says more."""
STOPPED = frozenset(STOP_SIGNALS.values())


def status_of(received: Sequence[signal.Signals]) -> int:
    """The exit status of a run that was stopped by these signals, of which the first counts."""
    return STOP_SIGNALS[received[0]]


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Catch the signals that stop a run; gives the list of those received so far. A second SIGINT ends the process,
    without a way to tidy up: so the first one shows the cursor that a live display hides.
    """
    received: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(signal.Signals(number))
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _show_cursor()

    with signals_handled_by(note):
        yield received


def _show_cursor() -> None:
    """Show the terminal's cursor, where stdout is one; sys.stdout may be in the middle of a write."""
    with suppress(OSError):
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")


@contextmanager
def signals_handled_by(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Call `handle(number, frame)` for the signals that stop a run, in the main thread: Python has none in others.

    SIGHUP stays ignored where it already was, as under nohup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS if not _is_ignored_hangup(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_ignored_hangup(number: signal.Signals) -> bool:
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the signals that stop a run end the process at once, with the same statuses, before and after a run that
    catches them. Ctrl-C raises KeyboardInterrupt, as ever.
    """

    def end(number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        os._exit(STOP_SIGNALS[signal.Signals(number)])

    with signals_handled_by(end):
        yield


class HostLostError(OSError):
    """Another process of the run did not answer in time."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or JAX means that memory ran out."""
    is_jax = type(error).__name__ == "JaxRuntimeError"  # in other errors RESOURCE_EXHAUSTED may be a full disk
    return isinstance(error, MemoryError) or (is_jax and "RESOURCE_EXHAUSTED" in str(error))


SHUTDOWN_SECONDS = 60
"""How long threads of libraries may delay the exit of a finished process."""


def limit_shutdown(status: int) -> None:
    """End the process with this status after `SHUTDOWN_SECONDS`, even if a thread still runs, or at a signal.

    At exit Python waits for every thread that is not a daemon; after memory ran out, one may never end.
    """

    def end(number: int, frame: Any) -> None:
        os._exit(status)

    for number in STOP_SIGNALS:
        if not _is_ignored_hangup(number):
            signal.signal(number, end)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, end)
        signal.alarm(SHUTDOWN_SECONDS)
