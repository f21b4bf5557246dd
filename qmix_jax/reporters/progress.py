"""The progress of a run in numbers and as text, for displays."""

import time
from collections.abc import Callable
from typing import Any

from qmix_jax.console import duration
from qmix_jax.records import count_episodes, is_share, known, mean, metric_names
from qmix_jax.statistics import seeds_interval

UNKNOWN = "–"  # noqa: RUF001  (a dash is what a reader expects)


class RunProgress:
    """The rows so far, and what follows from them."""

    def __init__(self, title: str, total_env_steps: int, num_seeds: int, clock: Callable[[], float] = time.monotonic):
        self.title, self.total, self.num_seeds = title, total_env_steps, num_seeds
        self.row: dict[str, Any] = {}
        self.scores: list[float] = []
        """The score of each evaluation: the win rate if the run has one, else the return."""
        self._clock = clock
        self._changed = clock()
        self._first: dict[str, Any] = {}

    def log(self, row: dict) -> None:
        """Take a row."""
        self._first = self._first or row
        self.row, self._changed = row, self._clock()
        score = mean(row.get(f"eval/{self.score_name}"))
        if score is not None:
            self.scores.append(score)

    @property
    def score_name(self) -> str:
        """What `scores` are."""
        return next(iter(metric_names(self.row)), "return")

    @property
    def evaluation(self) -> dict[str, str]:
        """The newest evaluation as text: the return, and the metrics of the environment."""
        others = [name for name in metric_names(self.row) if name not in ("return", "episode_length")]
        return {name.replace("_", " "): self._show(f"eval/{name}") for name in ["return", *others]}

    def _show(self, name: str) -> str:
        value = self.row.get(name)
        return percent(value, count_episodes(self.row, name)) if is_share(name) else number(value)

    @property
    def env_steps(self) -> int:
        """Environment steps so far, of each seed."""
        return self.row.get("env_steps", 0)

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        return min(1.0, self.env_steps / self.total)

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the run: those of the newest row and the time since."""
        return self.row.get("wall_seconds", 0.0) + self._since_row

    @property
    def left(self) -> float | None:
        """Seconds until the end at the speed of training since the first row; compilation does not count."""
        if not self.row:
            return None
        seconds = _training_seconds(self.row) - _training_seconds(self._first)
        steps = self.env_steps - self._first["env_steps"]
        if seconds <= 0 or steps <= 0:
            seconds, steps = self.num_seeds, self.row.get("train/steps_per_second") or 0
        remaining = max(0, self.total - self.env_steps)
        return max(0.0, remaining * seconds / steps - self._since_row) if steps else None

    @property
    def left_text(self) -> str:
        """`left` as text."""
        return UNKNOWN if self.left is None else duration(self.left)

    @property
    def best(self) -> str:
        """The best score of all evaluations as text."""
        show = percent if is_share(self.score_name) else number
        return show(max(self.scores, default=None))

    @property
    def _since_row(self) -> float:
        return self._clock() - self._changed


def _training_seconds(row: dict) -> float:
    return row["wall_seconds"] - row["compile_seconds"]


# --- numbers as text ---------------------------------------------------------------------------------------------


def number(value: Any) -> str:
    """A number; of several seeds the mean and half of its 95 % interval: `11.00 ± 2.48`."""
    return _with_interval(value, _short)


def percent(value: Any, episodes: int | None = None) -> str:
    """The same for a share: `60.0 ± 24.8%`, with the number of episodes of all seeds together if it is known.

    The interval is then asymmetric (see `statistics.widen`), and ± shows its larger part.
    """
    text = _with_interval(value, lambda share: f"{100 * share:.1f}", episodes)
    return text if text == UNKNOWN else text + "%"


def _with_interval(value: Any, show: Callable[[float], str], episodes: int | None = None) -> str:
    values = known(value)
    summary = seeds_interval(values, episodes)
    if summary is None:
        return UNKNOWN
    middle, low, high = summary
    shown = show(middle)
    return f"{shown} ± {show(max(middle - low, high - middle))}" if len(values) > 1 else shown


def _short(value: float) -> str:
    """A number in about four characters."""
    size = abs(value)
    if 0 < size < 0.1 or size >= 1e6:
        return f"{value:.2g}"
    return f"{value:.{2 if size < 100 else 1 if size < 1000 else 0}f}"


def compact(value: float | None) -> str:
    """A count in three digits: 950, 12.3k, 1.2M."""
    if value is None:
        return UNKNOWN
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
