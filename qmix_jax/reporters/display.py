"""The display of a run: a live panel, a notebook's output, plain lines, or nothing."""

import itertools
import sys
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from typing import Any, Self, TextIO, cast

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from qmix_jax.console import duration, say
from qmix_jax.records import is_share, mean
from qmix_jax.reporters.base import Callback
from qmix_jax.reporters.progress import UNKNOWN, RunProgress, compact, number


def make_display(
    mode: str, *, title: str, total_env_steps: int, num_seeds: int, rows: Sequence[dict] = (), label: str = ""
) -> "Display":
    """The display for logging.display: auto (live on a terminal and in a notebook, else plain), live, plain or none.

    It is plain if the terminal's encoding lacks the characters of the live panel. `rows` are the earlier ones of a
    resumed run. A label, for one of several runs together, stands before plain lines. Without a stdout there is none.
    """
    if mode == "none" or sys.stdout is None:
        return Display()
    console = Console(file=cast(TextIO, _Unfailing(sys.stdout)))
    is_live = mode != "auto" or console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
    if not console.encoding.startswith("utf") or not is_live or label:
        mode = "plain"
    progress = RunProgress(title, total_env_steps, num_seeds)
    for row in rows:
        progress.log(row)
    if mode == "plain":
        return PlainDisplay(progress, label=label)
    return NotebookDisplay(progress) if console.is_jupyter else LiveDisplay(progress, console)


class _Unfailing:
    """A stream that ignores errors of writing, as when its terminal was closed."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, ignoring errors."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, ignoring errors."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Display(Callback):
    """Shows nothing. The base class of displays, which are context managers."""

    def on_evaluation(self, row: dict) -> None:
        """Show a row."""

    def message(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """Restore the terminal; may be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


# --- live --------------------------------------------------------------------------------------------------------


class LiveDisplay(Display):
    """A panel that a thread of rich redraws a few times a second."""

    def __init__(self, progress: RunProgress, console: Console):
        self.progress = progress
        self._console = console
        self._spinner = Spinner("dots", style="cyan")
        self._closed = False
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=5)
        self._live.start()

    def on_evaluation(self, row: dict) -> None:
        """Show a row."""
        self.progress.log(row)

    def message(self, text: str) -> None:
        """Print a line above the panel."""
        self._console.print(Text(text))

    def close(self) -> None:
        """Draw the panel a last time and restore the terminal."""
        self._closed = True
        self._live.stop()

    def render(self) -> Panel:
        """The current panel."""
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
        facts = {
            "steps/s": compact(row.get("train/steps_per_second")),
            "elapsed": duration(progress.elapsed),
            "left": progress.left_text,
            **progress.evaluation,
            "best": progress.best,
            "loss": number(mean(row.get("train/loss"))),
            "epsilon": number(row.get("train/epsilon")),
            "compile": duration(row["compile_seconds"]),
        }
        table = Table.grid(padding=(0, 1), expand=True)
        for ratio in (4, 4, 3):
            table.add_column(min_width=8, no_wrap=True, style="dim")
            table.add_column(ratio=ratio, no_wrap=True)
        cells = [cell for fact in facts.items() for cell in fact]
        for start in range(0, len(cells), 6):
            table.add_row(*cells[start : start + 6])
        return table

    def _history(self) -> Table:
        progress = self.progress
        low, high = min(progress.scores, default=0.0), max(progress.scores, default=0.0)
        scale = f"{number(low)} to {number(high)}"
        if is_share(progress.score_name):
            low, high, scale = 0.0, 1.0, "0 to 100%"
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(min_width=8, no_wrap=True, style="dim")
        line.add_column(ratio=1, no_wrap=True)
        line.add_column(justify="right", no_wrap=True, style="dim")
        line.add_row(
            progress.score_name.replace("_", " "),
            Sparkline(progress.scores, low, high),
            scale if progress.scores else UNKNOWN,
        )
        return line


class Sparkline:
    """A line of blocks, one per value; neighbouring values are averaged if there are more than columns."""

    def __init__(self, values: list[float], low: float, high: float):
        self.values, self.low, self.high = values, low, high

    def __rich_console__(self, console: Console, options: Any):
        yield Text(sparkline(self.values, self.low, self.high, options.max_width), style="cyan")


def sparkline(values: list[float], low: float, high: float, width: int) -> str:
    """Blocks of eight heights for values between `low` and `high`, in at most `width` characters."""
    count = min(len(values), width)
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    heights = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    blocks = "▁▂▃▄▅▆▇█"
    span = high - low or 1.0
    return "".join(blocks[min(7, max(0, int(8 * (height - low) / span)))] for height in heights)


# --- in a notebook -----------------------------------------------------------------------------------------------


class NotebookDisplay(Display):
    """A bar and the facts of the newest row as one output of the cell, which every row replaces."""

    def __init__(self, progress: RunProgress):
        from IPython.display import display  # pyright: ignore[reportMissingImports]  (what runs a notebook has it)

        self.progress = progress
        self._output = display(self._shown(), raw=True, display_id=True)

    def on_evaluation(self, row: dict) -> None:
        """Show a row."""
        self.progress.log(row)
        self._output.update(self._shown(), raw=True)

    def message(self, text: str) -> None:
        """Print a line of text below."""
        say(text)

    def _shown(self) -> dict[str, str]:
        """The output by its kind; text is for viewers that show no HTML."""
        progress = self.progress
        done = f"{progress.share:.0%} of {progress.total:,} env steps"
        facts = {"elapsed": duration(progress.elapsed), "left": progress.left_text}
        facts |= {**progress.evaluation, "best": progress.best} if progress.row else {"compiling": "…"}
        names, values = ("".join(f"<td>{escape(word)}</td>" for word in words) for words in (facts, facts.values()))
        bar = f'<progress value="{progress.share:.4f}" max="1" style="width: 30em"></progress> {done}'
        page = f"<b>{escape(progress.title)}</b><br>{bar}<table><tr>{names}</tr><tr>{values}</tr></table>"
        text = ", ".join([f"{progress.title}: {done}", *(f"{name} {value}" for name, value in facts.items())])
        return {"text/html": page, "text/plain": text}


# --- plain -------------------------------------------------------------------------------------------------------


class PlainDisplay(Display):
    """One line per evaluation, for logs."""

    HEADER_EVERY = 20

    def __init__(self, progress: RunProgress, stream: TextIO | None = None, label: str = ""):
        self.progress, self._label = progress, label
        self._stream = stream or sys.stdout
        self._lines = 0
        self.message(f"{progress.title}: {progress.total:,} env steps; compiling")

    def on_evaluation(self, row: dict) -> None:
        """Print a row as one line; every `HEADER_EVERY` rows, a header before it."""
        self.progress.log(row)
        columns = self._columns()
        if self._lines % self.HEADER_EVERY == 0:
            self.message(" ".join(name.rjust(width) for name, width, _ in columns))
        self.message(" ".join(text.rjust(width) for _, width, text in columns))
        self._lines += 1

    def message(self, text: str) -> None:
        """Print a line of text."""
        say(self._label + text, self._stream)

    def _columns(self) -> list[tuple[str, int, str]]:
        """Name, width and text of each column."""
        progress, row = self.progress, self.progress.row
        spread = 7 if progress.num_seeds > 1 else 0  # room for the ± of several seeds
        evaluation = [(name, max(7, len(name)) + spread, text) for name, text in progress.evaluation.items()]
        return [
            ("env steps", 11, f"{progress.env_steps:,}"),
            ("done", 4, f"{progress.share:.0%}"),
            ("steps/s", 7, compact(row.get("train/steps_per_second"))),
            ("elapsed", 7, duration(progress.elapsed)),
            ("left", 6, progress.left_text),
            *evaluation,
            ("best", 6, progress.best),
            ("epsilon", 7, number(row.get("train/epsilon"))),
            ("loss", 8, number(mean(row.get("train/loss")))),
        ]
