"""Dashboards on threads of their own. A dashboard that fails or hangs costs one warning and never stops training."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from qmix_jax.config import Config
from qmix_jax.console import reason, warn
from qmix_jax.reporters.base import Callback, RunEnd
from qmix_jax.reporters.tensorboard import TensorBoard
from qmix_jax.reporters.wandb import WandbRuns

TIMEOUT = 60.0
"""Seconds that the end of a run waits at most for a dashboard to finish."""
LIMIT = 10_000
"""The length of a dashboard's queue; further updates are dropped."""


class Background(Callback):
    """A dashboard on a thread of its own. Calls return at once and never raise; only `close` waits, for `TIMEOUT`.

    `make` creates the dashboard on that thread. Updates wait in a queue and are delivered in order, until the first
    failure.
    """

    def __init__(self, name: str, make: Callable[[], Callback]):
        """`name` is for messages."""
        self._name, self._make = name, make
        self._queue: SimpleQueue[Callable[[Callback], object] | None] = SimpleQueue()
        self._missed, self._has_failed = 0, False
        self._thread = Thread(target=self._serve, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no memory for it, or no more threads allowed
            self._fail(error)

    def on_evaluation(self, row: dict) -> None:
        """Deliver one row."""
        self._hand_over(lambda dashboard: dashboard.on_evaluation(row))

    def on_end(self, end: RunEnd) -> None:
        """Deliver the pictures."""
        self._hand_over(lambda dashboard: dashboard.on_end(end))

    def on_checkpoint(self, path: Path) -> None:
        """Deliver a checkpoint."""
        self._hand_over(lambda dashboard: dashboard.on_checkpoint(path))

    def close(self) -> None:
        """Wait until all updates are delivered, at most for `TIMEOUT`, and warn of those that were not."""
        if self._thread.ident is None:
            return
        self._queue.put(None)
        self._thread.join(TIMEOUT)
        missed = self._missed + self._queue.qsize()
        if self._thread.is_alive():
            _warn(f"{self._name} was left behind after {TIMEOUT:g} s, with {missed} updates not delivered")
        elif missed and not self._has_failed:
            _warn(f"{self._name} was too slow: {missed} updates were not delivered")

    def _hand_over(self, action: Callable[[Callback], object]) -> None:
        if self._has_failed:
            return
        if self._queue.qsize() >= LIMIT:
            self._missed += 1
        else:
            self._queue.put(action)

    def _serve(self) -> None:
        try:
            with closing(self._make()) as dashboard:
                while (action := self._queue.get()) is not None:
                    action(dashboard)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._has_failed = True
        _warn(f"{self._name} is off for the rest of this run: {reason(error)}")


def make_dashboards(config: Config, settings: dict, folder: Path, rows: list[dict]) -> list[Background]:
    """The dashboards that the settings name, which first get `rows`, those of a resumed run."""
    made = []
    if config.logging.wandb.mode != "disabled":
        made.append(Background("Weights & Biases", lambda: WandbRuns(config, settings, folder)))
    if config.logging.tensorboard:
        made.append(Background("TensorBoard", lambda: TensorBoard(folder)))
    for dashboard in made:
        for row in rows:
            dashboard.on_evaluation(row)
    return made


def _warn(text: str) -> None:
    warn(f"{text}; metrics.jsonl holds every row")
