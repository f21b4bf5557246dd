"""What a run shows on the terminal: a live panel, plain lines, or nothing."""

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self, TextIO, cast

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from qmix_jax.analysis.statistics import seeds_interval
from qmix_jax.console import say
from qmix_jax.records import known

UNKNOWN = "–"  # noqa: RUF001  (a dash is what a reader expects)


def make_display(
    mode: str, *, title: str, total_env_steps: int, num_seeds: int, has_wins: bool, rows: Sequence[dict] = ()
) -> "Display":
    """The display of logging.display: auto (live on a terminal, otherwise plain), live, plain or none.

    An encoding without the characters of the live panel gets the plain one. `rows` are those of a resumed run from
    before.
    """
    if mode == "none":
        return Display()
    console = Console(file=cast(TextIO, _Lasting(sys.stdout)))
    if not console.encoding.startswith("utf") or (mode == "auto" and not _is_live_terminal(console)):
        mode = "plain"
    progress = Progress(title, total_env_steps, num_seeds, has_wins)
    for row in rows:
        progress.log(row)
    return PlainDisplay(progress) if mode == "plain" else LiveDisplay(progress, console)


def _is_live_terminal(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


class _Lasting:
    """A stream that goes on without an error where it can no longer be written to: a terminal that was closed, say."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Send it on."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Display:
    """Shows nothing; and the context manager that every display is."""

    def log(self, row: dict) -> None:
        """Show one row of metrics."""

    def message(self, text: str) -> None:
        """Show one line of news."""

    def close(self) -> None:
        """Give the terminal back; closing again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


# --- facts -------------------------------------------------------------------------------------------------------


class Progress:
    """The rows so far, and what they say about the run's past and future."""

    def __init__(
        self,
        title: str,
        total_env_steps: int,
        num_seeds: int,
        has_wins: bool,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.title, self.total, self.num_seeds, self.has_wins = title, total_env_steps, num_seeds, has_wins
        self.row: dict[str, Any] = {}
        self.scores: list[float] = []
        """Of each evaluation: the win rate where there are wins, otherwise the return."""
        self._clock = clock
        self._changed = clock()
        self._first: dict[str, Any] = {}

    def log(self, row: dict) -> None:
        """Take in a row."""
        self._first = self._first or row
        self.row, self._changed = row, self._clock()
        score = known_mean(row.get("eval/win_rate" if self.has_wins else "eval/return"))
        if score is not None:
            self.scores.append(score)

    @property
    def win_rate(self) -> str:
        """The newest win rate, as text."""
        return percent(self.row.get("eval/win_rate"), int(sum(known(self.row.get("eval/episodes")))))

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
        """Seconds since the run began, counted on since the last row."""
        return self.row.get("wall_seconds", 0.0) + self._since_row

    @property
    def left(self) -> float | None:
        """Seconds that training will still take at its speed since the first row; compiling does not count."""
        if not self.row:
            return None
        seconds = _training_seconds(self.row) - _training_seconds(self._first)
        steps = self.env_steps - self._first["env_steps"]
        if seconds <= 0 or steps <= 0:
            seconds, steps = self.num_seeds, self.row.get("train/steps_per_second") or 0
        remaining = max(0, self.total - self.env_steps)
        return max(0.0, remaining * seconds / steps - self._since_row) if steps else None

    @property
    def best(self) -> float | None:
        """The best score of all evaluations."""
        return max(self.scores, default=None)

    @property
    def _since_row(self) -> float:
        return self._clock() - self._changed


def _training_seconds(row: dict) -> float:
    return row["wall_seconds"] - row["compile_seconds"]


# --- live --------------------------------------------------------------------------------------------------------


class LiveDisplay(Display):
    """A panel that is drawn anew a few times a second, by a thread of rich."""

    def __init__(self, progress: Progress, console: Console):
        self.progress = progress
        self._console = console
        self._spinner = Spinner("dots", style="cyan")
        self._closed = False
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=5)
        self._live.start()

    def log(self, row: dict) -> None:
        """Show one row of metrics."""
        self.progress.log(row)

    def message(self, text: str) -> None:
        """Print one line above the panel."""
        self._console.print(Text(text))

    def close(self) -> None:
        """Draw the panel a last time and give the terminal back."""
        self._closed = True
        self._live.stop()

    def render(self) -> Panel:
        """The panel as of now."""
        facts = ["", self._facts(), "", self._history()] if self.progress.row else []
        width = min(self._console.width, 100)
        title = Text(self.progress.title, style="bold", overflow="ellipsis")
        body = Group(self._bar(), *facts)
        return Panel(body, title=title, title_align="left", box=box.ROUNDED, border_style="dim", width=width)

    def _bar(self) -> RenderableType:
        progress = self.progress
        line = Table.grid(padding=(0, 1), expand=True)
        if not progress.row and not self._closed:
            line.add_column()
            line.add_column(ratio=1)
            line.add_row(self._spinner, Text(f"compiling  {duration(progress.elapsed)}"))
            return line
        line.add_column(width=1)
        line.add_column(ratio=1)
        line.add_column(justify="right", no_wrap=True)
        line.add_row(
            self._mark(),
            ProgressBar(total=1.0, completed=progress.share, complete_style="cyan", finished_style="green"),
            Text.assemble(
                (f"{progress.share:4.0%}", "bold"), f"  {progress.env_steps:,} / {progress.total:,} env steps"
            ),
        )
        return line

    def _mark(self) -> RenderableType:
        if self.progress.share >= 1:
            return Text("✓", style="green")
        return Text("■", style="yellow") if self._closed else self._spinner

    def _facts(self) -> Table:
        progress, row = self.progress, self.progress.row
        score = {"win rate": progress.win_rate} if progress.has_wins else {}
        best = percent(progress.best) if progress.has_wins else number(progress.best)
        facts = {
            "steps/s": compact(row.get("train/steps_per_second")),
            "elapsed": duration(progress.elapsed),
            "left": duration(progress.left),
            "return": number(row.get("eval/return")),
            **score,
            "best": best,
            "loss": number(known_mean(row.get("train/loss"))),
            "epsilon": number(row.get("train/epsilon")),
            "compile": duration(row["compile_seconds"]),
        }
        table = Table.grid(padding=(0, 1), expand=True)
        for ratio in (4, 4, 3):
            table.add_column(width=8, style="dim")
            table.add_column(ratio=ratio, no_wrap=True)
        cells = [cell for fact in facts.items() for cell in fact]
        for start in range(0, len(cells), 6):
            table.add_row(*cells[start : start + 6])
        return table

    def _history(self) -> Table:
        progress = self.progress
        if progress.has_wins:
            name, low, high, scale = "win rate", 0.0, 1.0, "0 to 100%"
        else:
            low, high = min(progress.scores, default=0.0), max(progress.scores, default=0.0)
            name, scale = "return", f"{number(low)} to {number(high)}"
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=8, style="dim")
        line.add_column(ratio=1, no_wrap=True)
        line.add_column(justify="right", no_wrap=True, style="dim")
        line.add_row(name, Sparkline(progress.scores, low, high), scale if progress.scores else UNKNOWN)
        return line


class Sparkline:
    """A row of blocks, one a value; values are averaged where there are more than columns."""

    def __init__(self, values: list[float], low: float, high: float):
        self.values, self.low, self.high = values, low, high

    def __rich_console__(self, console: Console, options: Any):
        yield Text(sparkline(self.values, self.low, self.high, options.max_width), style="cyan")


def sparkline(values: list[float], low: float, high: float, width: int) -> str:
    """`values` drawn between `low` and `high` with blocks of eight heights, in at most `width` characters."""
    count = min(len(values), width)
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    blocks = "▁▂▃▄▅▆▇█"
    span = high - low or 1.0
    return "".join(blocks[min(7, max(0, int(8 * (mean - low) / span)))] for mean in means)


# --- plain -------------------------------------------------------------------------------------------------------


class PlainDisplay(Display):
    """One line an evaluation, for logs."""

    HEADER_EVERY = 20

    def __init__(self, progress: Progress, stream: TextIO | None = None):
        self.progress = progress
        self._stream = stream or sys.stdout
        self._lines = 0
        self.message(f"{progress.title}: {progress.total:,} env steps; compiling")

    def log(self, row: dict) -> None:
        """Print the row's facts in one line, now and then under a header."""
        self.progress.log(row)
        columns = self._columns()
        if self._lines % self.HEADER_EVERY == 0:
            self.message(" ".join(name.rjust(width) for name, width, _ in columns))
        self.message(" ".join(text.rjust(width) for _, width, text in columns))
        self._lines += 1

    def message(self, text: str) -> None:
        """Print one line."""
        say(text, self._stream)

    def _columns(self) -> list[tuple[str, int, str]]:
        """Name, width and text of each column."""
        progress, row = self.progress, self.progress.row
        show = percent if progress.has_wins else number
        spread = 7 if progress.num_seeds > 1 else 0  # room for the ± of several seeds
        wins = [("win rate", 8 + spread, progress.win_rate)] if progress.has_wins else []
        return [
            ("env steps", 11, f"{progress.env_steps:,}"),
            ("done", 4, f"{progress.share:.0%}"),
            ("steps/s", 7, compact(row.get("train/steps_per_second"))),
            ("elapsed", 7, duration(progress.elapsed)),
            ("left", 6, duration(progress.left)),
            ("return", 7 + spread, number(row.get("eval/return"))),
            *wins,
            ("best", 6, show(progress.best)),
            ("epsilon", 7, number(row.get("train/epsilon"))),
            ("loss", 8, number(known_mean(row.get("train/loss")))),
        ]


# --- numbers as text ---------------------------------------------------------------------------------------------


def known_mean(value: Any) -> float | None:
    """The mean over the seeds that have a value."""
    values = known(value)
    return sum(values) / len(values) if values else None


def number(value: Any) -> str:
    """A number, or the mean ± half of the 95 % interval over seeds (Student's t)."""
    return _with_interval(value, _short)


def percent(value: Any, episodes: int | None = None) -> str:
    """A share as a percentage, likewise.

    With `episodes`, those of all seeds together, ± has width also where all seeds score alike: the larger part of the
    interval of `statistics.seeds_interval`.
    """
    text = _with_interval(value, lambda share: f"{100 * share:.1f}", episodes)
    return text if text == UNKNOWN else text + "%"


def _with_interval(value: Any, show: Callable[[float], str], episodes: int | None = None) -> str:
    values = known(value)
    summary = seeds_interval(values, episodes)
    if summary is None:
        return UNKNOWN
    mean, low, high = summary
    return f"{show(mean)} ± {show(max(mean - low, high - mean))}" if len(values) > 1 else show(mean)


def _short(value: float) -> str:
    """About four characters of a number."""
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


def duration(seconds: float | None) -> str:
    """A time in its two largest units: 42s, 12m03s, 1h02m, 3d04h."""
    if seconds is None:
        return UNKNOWN
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02d}h"
    if hours:
        return f"{hours}h{minute:02d}m"
    return f"{minutes}m{second:02d}s" if minutes else f"{second}s"
