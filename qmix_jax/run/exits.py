"""How a process ends: its exit statuses, and the signals that ask it to. Needs no JAX."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DONE = 0
FAILED = 1
"""The loss became NaN."""
USAGE_ERROR = 2
"""The settings are wrong."""
OUT_OF_MEMORY = 71
"""The machine's memory, or the GPU's, was too small (EX_OSERR of sysexits.h)."""
NOT_SAVED = 74
"""Something could not be written (EX_IOERR of sysexits.h)."""
COME_AGAIN = 75
"""Stopped by SIGUSR1 or SIGUSR2, as batch systems send them, to be started again (EX_TEMPFAIL of sysexits.h)."""
INTERRUPTED, TERMINATED = 130, 143
"""Stopped by SIGINT or SIGTERM: 128 + the signal's number, as in a shell. SIGHUP (a closed terminal) counts as SIGTERM.
"""

_STATUSES = {
    "SIGINT": INTERRUPTED,
    "SIGTERM": TERMINATED,
    "SIGHUP": TERMINATED,
    "SIGUSR1": COME_AGAIN,
    "SIGUSR2": COME_AGAIN,
}
STOP_SIGNALS: dict[signal.Signals, int] = {
    getattr(signal, name): status for name, status in _STATUSES.items() if hasattr(signal, name)
}
"""Signal -> the exit status of a run that it stopped."""
STOPPED = frozenset(STOP_SIGNALS.values())


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """The signals to stop that have come so far, in order; a second SIGINT ends the process at once.

    SIGHUP stays ignored where it was, as under nohup.
    """
    received: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        del frame
        received.append(signal.Signals(number))
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS if not _is_ignored_hangup(number)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_ignored_hangup(number: signal.Signals) -> bool:
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small: Python's, or JAX's."""
    is_jax = type(error).__name__ == "JaxRuntimeError"  # a full disk is RESOURCE_EXHAUSTED to others
    return isinstance(error, MemoryError) or (is_jax and "RESOURCE_EXHAUSTED" in str(error))


SHUTDOWN_SECONDS = 60
"""How long the threads of libraries may hold up the end of a process that has done everything."""


def limit_shutdown(status: int) -> None:
    """From now on, end the process with this status after `SHUTDOWN_SECONDS`, whatever it waits for by then.

    Python waits at exit for every thread that is no daemon; where memory ran out, one may wait for ever.
    """
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(status))
        signal.alarm(SHUTDOWN_SECONDS)
