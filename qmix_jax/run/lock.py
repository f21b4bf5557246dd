"""The lock on a run's folder: one process at a time trains there.

It is the operating system's lock (flock) on a file in the folder. It ends with the process that holds it, and works on
NFS where the server keeps locks. The file names the holder; deleting the file breaks the lock.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from qmix_jax.files import read_json
from qmix_jax.settings import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "run.lock"


class InUseError(ConfigError):
    """Another process holds the lock: the same command may work later."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a missing folder is created.

    Where the file system has no locks, or the file cannot be created, nothing is locked.

    Raises:
        InUseError: another process holds it; the message names process, host and time.
        OSError: the folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = _acquire(folder / NAME)
    if handle is not None:
        _write_holder(handle)
    try:
        yield
    finally:
        if handle is not None:
            _release(handle, folder / NAME)


@contextlib.contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is created and afterwards deleted; waits while another process holds it.

    Raises:
        OSError: the file cannot be created or locked.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        _release(handle, path)


def require_unlocked(folder: Path) -> None:
    """Raise InUseError where another process holds the folder's lock."""
    handle = _acquire(folder / NAME, os.O_RDWR)
    if handle is not None:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder's lock."""
    try:
        require_unlocked(folder)
    except InUseError:
        return True
    return False


def _acquire(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int | None:
    """A descriptor that holds the lock on the file; None where the file cannot be opened or locked."""
    while fcntl is not None:
        try:
            handle = os.open(path, flags, 0o644)
        except OSError:
            return None
        if not _lock(handle, path):
            os.close(handle)
            return None
        if _is_same(handle, path):
            return handle
        os.close(handle)  # its holder deleted it between opening and locking
    return None


def _lock(handle: int, path: Path) -> bool:
    """Lock an open file; False where its file system has no locks. It retries: `require_unlocked` locks briefly."""
    for wait in (0.05, 0.1, 0.2, None):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # pyright: ignore[reportOptionalMemberAccess]
        except BlockingIOError as error:
            if wait is None:
                os.close(handle)
                raise InUseError(_describe_holder(path)) from error
            time.sleep(wait)
        except OSError:
            return False
        else:
            return True
    return False


def _release(handle: int, path: Path) -> None:
    """Delete the file, unless another process replaced it, and end the lock."""
    with contextlib.suppress(OSError):
        if _is_same(handle, path):
            path.unlink()
    os.close(handle)


def _is_same(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _write_holder(handle: int) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode() + b"\n", 0)


def _describe_holder(path: Path) -> str:
    holder = read_json(path)
    who = "another process"
    if isinstance(holder, dict):
        who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
    return (
        f"{path.parent} is in use by {who}: wait until it ends, or stop it; if neither is possible, delete {path} "
        f"to break the lock"
    )
