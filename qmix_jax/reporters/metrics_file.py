"""metrics.jsonl, written row by row."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from qmix_jax.files import write_file
from qmix_jax.records import format_rows
from qmix_jax.reporters.base import Callback


class MetricsFile(Callback):
    """Appends rows to folder/metrics.jsonl. When `on_evaluation` returns, the row is on the disk.

    If writing fails, because the disk is full for example, one warning is given, and rows stay in memory until a later
    write succeeds.
    """

    def __init__(self, folder: Path, begin: str = "", say: Callable[[str], None] = print):
        """`begin` replaces the contents of the file; `say` gives the warning."""
        self.path = folder / "metrics.jsonl"
        self.failure = ""
        """Why rows are still in memory; empty if none are."""
        write_file(self.path, begin)
        self._size = len(begin.encode())
        self._waiting = b""
        self._say, self._has_warned = say, False

    def on_evaluation(self, row: dict) -> None:
        """Append a row."""
        self._waiting += format_rows([row]).encode()
        self._write()

    def close(self) -> None:
        """Write the rows that are still in memory."""
        if self._waiting:
            self._write()

    def _write(self) -> None:
        try:
            with self.path.open("r+b", buffering=0) as file:
                file.truncate(self._size)  # drops a line of which only a part was written
                file.seek(self._size)
                if file.write(self._waiting) < len(self._waiting):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
        except OSError as error:
            self.failure = str(error)
            if not self._has_warned:
                self._has_warned = True
                self._say(f"warning: rows of metrics.jsonl wait in memory: {error}")
            return
        self._size, self._waiting, self.failure = self._size + len(self._waiting), b"", ""
