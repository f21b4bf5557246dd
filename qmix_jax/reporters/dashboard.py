"""Dashboards. Whatever goes wrong with one, training neither waits nor ends: one warning, then silence."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from qmix_jax.analysis.statistics import seeds_interval
from qmix_jax.config import Config
from qmix_jax.console import say
from qmix_jax.records import Reporter, known

TIMEOUT = 60.0
"""Seconds that the end of a run waits at most for a dashboard to take what is left."""
LIMIT = 10_000
"""What may wait for a dashboard; more is not delivered."""


class Dashboard(Reporter, Protocol):
    """A reporter that takes more than rows."""

    def media(self, curve: Path | None, film: Path | None) -> None:
        """Take the training curve (PNG) and the film (GIF), where there are any."""
        ...

    def checkpoint(self, path: Path) -> None:
        """Take note of a checkpoint that was just written."""
        ...


class Background:
    """A dashboard on a thread of its own: nothing here waits for it or fails with it, but the end for a while.

    `make` starts the dashboard, there too. Whatever follows waits in a queue and is delivered one by one, until the
    first failure.
    """

    def __init__(self, name: str, make: Callable[[], Dashboard]):
        """`name`: what people call it."""
        self._name, self._make = name, make
        self._queue: SimpleQueue[Callable[[Dashboard], None] | None] = SimpleQueue()
        self._missed, self._has_failed = 0, False
        self._thread = Thread(target=self._serve, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no memory for it, or no more threads allowed
            self._fail(error)

    def log(self, row: dict) -> None:
        """Deliver one row."""
        self._hand_over(lambda dashboard: dashboard.log(row))

    def media(self, curve: Path | None, film: Path | None) -> None:
        """Deliver the pictures."""
        self._hand_over(lambda dashboard: dashboard.media(curve, film))

    def checkpoint(self, path: Path) -> None:
        """Deliver a checkpoint."""
        self._hand_over(lambda dashboard: dashboard.checkpoint(path))

    def close(self) -> None:
        """Wait until everything is delivered, but not for ever; what was not is said."""
        if self._thread.ident is None:
            return
        self._queue.put(None)
        self._thread.join(TIMEOUT)
        missed = self._missed + self._queue.qsize()
        if self._thread.is_alive():
            _warn(f"{self._name} was left behind after {TIMEOUT:g} s, with {missed} updates not delivered")
        elif missed and not self._has_failed:
            _warn(f"{self._name} was too slow: {missed} updates were not delivered")

    def _hand_over(self, action: Callable[[Dashboard], None]) -> None:
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
        reason = " ".join(str(error).split()) or type(error).__name__
        _warn(f"{self._name} is off for the rest of this run: {reason[:300]}")


def make_dashboards(config: Config, settings: dict, folder: Path, rows: list[dict]) -> list[Background]:
    """The dashboards that the settings ask for; `rows` are those of the run before this process."""
    from qmix_jax.reporters.tensorboard import TensorBoard
    from qmix_jax.reporters.wandb import WandbRuns

    made = []
    if config.logging.wandb.mode != "disabled":
        made.append(Background("Weights & Biases", lambda: WandbRuns(config, settings, folder)))
    if config.logging.tensorboard:
        made.append(Background("TensorBoard", lambda: TensorBoard(folder)))
    for dashboard in made:
        for row in rows:
            dashboard.log(row)
    return made


def lines(row: dict) -> dict[str, dict[str, float]]:
    """A row as lines over environment steps, each with its numbers by name: `mean`, and of several seeds also `low` and
    `high` (the 95 % interval of the mean, see `seeds_interval`) and `seed_0`, `seed_1`, ...
    """
    found: dict[str, dict[str, float]] = {"mean": {}}
    for name, value in row.items():
        episodes = sum(known(row.get(name.replace("win_rate", "episodes")))) if name.endswith("/win_rate") else 0
        summary = seeds_interval(known(value), int(episodes))
        if name == "env_steps" or summary is None:
            continue
        found["mean"][name] = summary.value
        if isinstance(value, list) and len(value) > 1:
            edges = {"low": summary.low, "high": summary.high}
            seeds = {f"seed_{i}": numbers[0] for i, each in enumerate(value) if (numbers := known(each))}
            for line, number in {**edges, **seeds}.items():
                found.setdefault(line, {})[name] = number
    return found


def of_seed(row: dict, index: int) -> dict:
    """A row of several seeds as that of one of them."""
    return {name: value[index] if isinstance(value, list) else value for name, value in row.items()}


def _warn(text: str) -> None:
    say(f"warning: {text}; metrics.jsonl holds every row", sys.stderr)
