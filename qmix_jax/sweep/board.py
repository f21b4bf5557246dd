"""What a sweep shows: lines or a live table while it runs, and tables at its end."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qmix_jax.console import duration, say, short
from qmix_jax.records import is_share
from qmix_jax.statistics import seeds_interval
from qmix_jax.sweep.ledger import OVER, JobState, best, seconds_left

STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "done": "green",
    "failed": "bold red",
    "stopped": "yellow",
    "pruned": "magenta",
}
MOST_ROWS = 30
"""Rows of the live table; a terminal scrolls a longer one away."""


def plain_console(stderr: bool = False) -> Console:
    """A console that prints texts as they are: `[x]` in an override or an error is no markup."""
    return Console(markup=False, emoji=False, stderr=stderr)


def score_text(metric: str, score: float) -> str:
    """`eval/win_rate 94.1 %`."""
    return f"{metric} {100 * score:.1f} %" if is_share(metric) else f"{metric} {score:.4g}"


def headline(states: Sequence[JobState], at_once: int | None) -> str:
    """The sweep in one line: jobs by state, the time left, the best score so far."""
    counts = {name: sum(job.state == name for job in states) for name in STYLES}
    parts = [", ".join(f"{count} {name}" for name, count in counts.items() if count)]
    left, first = seconds_left(states, at_once), best(states)
    if counts["running"] and math.isfinite(left):
        parts.append(f"about {duration(left)} left")
    if first is not None and first.score is not None and len(states) > 1:
        parts.append(f"best {score_text(first.metric, first.score)}: {first.plan.label}")
    return " · ".join([f"{len(states)} job{'s' * (len(states) != 1)}: {parts[0]}", *parts[1:]])


def table(states: Sequence[JobState]) -> Table:
    """A row for each job."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("job", "state", "done", "score", "time", "folder"):
        shown.add_column(name, justify="right" if name in ("done", "score", "time") else "left", overflow="fold")
    for job in states:
        score = "" if job.score is None else score_text(job.metric, job.score).partition(" ")[2]
        seconds = duration(job.seconds) if job.seconds else ""
        style = STYLES[job.state]
        shown.add_row(
            job.plan.label,
            Text(job.state, style),
            f"{job.share:.0%}",
            score,
            seconds,
            job.error or job.plan.folder.name,
        )
    return shown


class Board:
    """Tells of jobs as they start and end: a line each, and on a terminal a table that is redrawn as well."""

    def __init__(self, states: Callable[[], list[JobState]], at_once: int | None, interval: float = 1.0):
        self._states, self._at_once, self._interval = states, at_once, interval
        self._console = plain_console()
        is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, auto_refresh=False) if is_live else None
        self._before: dict[Path, str] = {job.plan.folder: job.state for job in states() if job.state in OVER}
        self._next = 0.0

    def update(self, is_forced: bool = False) -> None:
        """Look at the jobs again, once in an interval."""
        if not is_forced and time.monotonic() < self._next:
            return
        states = self._states()
        for number, job in enumerate(states, 1):
            if self._before.get(job.plan.folder, "waiting") != job.state:
                self._say(self._line(number, len(states), job))
            self._before[job.plan.folder] = job.state
        if self._live:
            self._live.update(self._renderable(states), refresh=True)
        self._next = time.monotonic() + self._interval

    def _line(self, number: int, total: int, job: JobState) -> str:
        said = {"running": "started", "stopped": "stopped, can be resumed"}.get(job.state, job.state)
        parts = [f"job {number} of {total} {said}: {job.plan.label}"]
        if job.state in ("done", "pruned") and job.score is not None:
            parts.append(score_text(job.metric, job.score))
        if job.state in ("done", "failed", "pruned"):
            parts.append(duration(job.seconds))
        return " · ".join([*parts, *([job.error] if job.error else [])])

    def _renderable(self, states: list[JobState]) -> RenderableType:
        running = [job for job in states if job.state == "running"][:MOST_ROWS]
        return Group(headline(states, self._at_once), *([table(running)] if running else []))

    def _say(self, text: str) -> None:
        if self._live:
            self._console.print(Text(text))
        else:
            say(text)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: Any, trace: TracebackType | None) -> None:
        if self._live:
            self._live.update(Text(""), refresh=True)
            self._live.stop()


class NoBoard(Board):
    """Shows nothing, where the only job shows itself."""

    def __init__(self):
        super().__init__(list, None)
        self._live = None

    def update(self, is_forced: bool = False) -> None:
        """Nothing."""


def show(parts: Sequence[RenderableType]) -> None:
    """Print lines and tables; a line is not broken, so that what it names can be copied."""
    console = plain_console()
    for part in parts:
        console.print(part, soft_wrap=not isinstance(part, Table))


# --- the end -----------------------------------------------------------------------------------------------------


def by_setting(states: Sequence[JobState]) -> list[tuple[str, int, Any]]:
    """Jobs that differ only in their seed together: (settings, number of jobs, mean with interval), the best first.

    All have one metric. The interval of a share is never narrower than Wilson's for the episodes of all jobs, and lies
    within 0 and 1.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for job in states:
        if job.score is not None:
            words = [word for word in job.plan.differs if not word.startswith(("seed=", "+seed="))]
            groups.setdefault(" ".join(words) or "all", []).append((job.score, job.episodes or math.nan))
    rows = []
    for name, jobs in groups.items():
        scores, episodes = zip(*jobs, strict=True)
        rows.append((name, len(jobs), seeds_interval(scores, sum(episodes) if is_share(states[0].metric) else None)))
    return sorted(rows, key=lambda row: -row[2].value)


def _scores(metric: str, states: Sequence[JobState]) -> Table:
    """The scores by setting of jobs with this metric."""
    scale, unit = (100, " %") if is_share(metric) else (1, "")
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("setting", "jobs", f"{metric}{unit}", "95 % interval"):
        shown.add_column(name, justify="left" if name == "setting" else "right", overflow="fold")
    for name, count, estimate in by_setting(states):
        value, low, high = (f"{scale * x:.4g}" for x in estimate)
        shown.add_row(Text(name), str(count), value, Text(f"[{low}, {high}]" if count > 1 else ""))
    return shown


def closing(states: Sequence[JobState], folder: Path) -> list[RenderableType]:
    """What a sweep shows at its end: scores by setting, a table for each metric, what failed, and what to do next."""
    parts: list[RenderableType] = [headline(states, None)]
    scored = [job for job in states if job.score is not None]
    if len(states) > 1:
        metrics = dict.fromkeys(job.metric for job in scored)
        parts += [_scores(metric, [job for job in scored if job.metric == metric]) for metric in metrics]
    parts += [Text(f"failed: {short(job.plan.folder)}: {job.error}", "red") for job in states if job.state == "failed"]
    place = short(folder)
    hints = {
        "failed": f"the same line with retry=failed runs failed jobs again; their output is in {place}/*/job.log",
        "stopped": f"the same line with hydra.sweep.dir={place} goes on",
    }
    parts += [Text(text) for state, text in hints.items() if any(job.state == state for job in states)]
    if scored:
        parts.append(Text(f"Next: qmix-jax report {place}"))
    return parts
