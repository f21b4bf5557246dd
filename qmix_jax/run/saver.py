"""Checkpoints written in the background: a thread that training waits for only while an older one is being written."""

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from qmix_jax.config import CheckpointConfig
from qmix_jax.console import reason
from qmix_jax.run import hosts
from qmix_jax.run.checkpoint import Checkpoint, retain, write
from qmix_jax.run.snapshot import Snapshot

PATIENCE = 300.0
"""Seconds without any progress after which a checkpoint that is being written counts as failed."""


class Saver:
    """Writes checkpoints on its own thread. Only the first failure is reported; training and older checkpoints stay.

    The thread starts at once, since none can be started when memory has run out, and it does not keep the process
    alive. `wait` and `close` give up after `PATIENCE` seconds without progress.

    Of several processes each has a saver, with the same calls of `save`: they write one checkpoint together. Process 0
    alone deletes, and saves for the score.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, say: Callable[[str], None], start: Checkpoint | None = None
    ):
        """`start` is the checkpoint that the run resumes from."""
        self.failure = ""
        """Why the last checkpoint could not be written; '' if it was."""
        self.listeners: list[Callable[[Path], None]] = []
        """Called with the path of every checkpoint once it is written, except those kept for their score alone."""
        self._folder, self._config, self._say = folder, config, say
        self._newest = start.env_steps if start else 0
        """Environment steps of the newest checkpoint passed to `save`, or resumed from."""
        self._saved = start.env_steps if start else None
        """Environment steps of the last of these that was written, or resumed from."""
        self._scores: list[float] = []
        """Scores of the snapshots passed to `save_for_score`, in order."""
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_idle, self._is_closed = Event(), Event()
        self._is_idle.set()
        self._is_stuck = self._has_warned = False
        self._channel, self._count = hosts.Channel(), 0
        for path in (folder / "checkpoints").glob(".*") if hosts.is_first() else ():
            if re.fullmatch(r"\.\d+\.(draft|removed)\..+", path.name):  # of a process that was killed
                shutil.rmtree(path, ignore_errors=True)
        Thread(target=self._serve, name="checkpoint", daemon=True).start()

    def is_due(self, env_steps: int) -> bool:
        """Whether a multiple of `every_env_steps` was passed and no checkpoint is being written."""
        every = self._config.every_env_steps
        return every is not None and env_steps // every > self._newest // every and self._is_idle.is_set()

    def is_saved(self, env_steps: int) -> bool:
        """Whether the newest checkpoint is of this environment step and was written."""
        self.wait()
        return self._saved == env_steps

    def save(self, snapshot: Snapshot) -> None:
        """Start writing as soon as the checkpoint before is written."""
        self.wait()
        self._newest, self._count = snapshot.env_steps, self._count + 1
        if self._is_stuck:
            self._fail(snapshot.env_steps, self.failure)
            return
        self._is_idle.clear()
        if hosts.count() > 1:
            channel = hosts.Channel(f"{self._channel.name}/{self._count}", 2 * PATIENCE)
            snapshot = snapshot._replace(channel=channel)
        self._queue.put(partial(self._write_newest, snapshot))

    def save_for_score(self, snapshot: Snapshot) -> None:
        """Queue parameters that are kept for their score; not written if `keep_best` better ones follow before that."""
        if not hosts.is_first():
            return
        self._scores.append(snapshot.about["score"])
        about = {**snapshot.about, "saved_for": "score"}
        self._queue.put(partial(self._write_best, snapshot._replace(about=about), len(self._scores)))

    def wait(self) -> None:
        """Until the last `save` is written, or has failed by making no progress."""
        self._wait_for(self._is_idle)

    def close(self) -> None:
        """Wait until everything is written, then end the thread."""
        self._queue.put(None)
        self._wait_for(self._is_closed)

    def _wait_for(self, event: Event) -> None:
        progress, since = (), time.monotonic()
        while not self._is_stuck and not event.wait(min(1.0, PATIENCE)):
            before, progress = progress, self._progress()
            if progress != before:
                since = time.monotonic()
            elif time.monotonic() - since >= PATIENCE:
                self._is_stuck = True
                self._fail(self._newest, f"writing it made no progress for {PATIENCE:g} s")

    def _progress(self) -> tuple[int, ...]:
        """What changes while a checkpoint is being written: the number of files, their bytes and their newest time."""
        found = []
        for folder, _, names in os.walk(self._folder / "checkpoints"):  # which skips folders that vanish meanwhile
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                with suppress(OSError):
                    found.append(os.stat(path))
        return len(found), sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)

    def _serve(self) -> None:
        while (write_it := self._queue.get()) is not None:
            write_it()
            del write_it  # the snapshot's memory
        self._is_closed.set()

    def _write_newest(self, snapshot: Snapshot) -> None:
        try:
            if self._write(snapshot):
                self._saved = snapshot.env_steps
                for listener in self.listeners:
                    listener(self._folder / "checkpoints" / str(snapshot.env_steps))
        finally:
            self._is_idle.set()

    def _write_best(self, snapshot: Snapshot, number: int) -> None:
        better = sum(score >= snapshot.about["score"] for score in self._scores[number:])
        if better < self._config.keep_best:
            self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> bool:
        """Write a checkpoint and delete those no longer kept; returns whether it was written."""
        try:
            write(self._folder, snapshot)
        except Exception as error:  # whatever Orbax and its stores raise
            self._fail(snapshot.env_steps, reason(error))
            return False
        if not self._is_stuck:
            self.failure = ""
        if hosts.is_first():
            with suppress(OSError):  # one too many is no harm
                retain(self._folder, self._config.keep_last, self._config.keep_best)
        return True

    def _fail(self, env_steps: int, why: str) -> None:
        self.failure = why
        if not self._has_warned:
            self._has_warned = True
            self._say(f"warning: no checkpoint at step {env_steps:,}, older ones stay: {why}")
