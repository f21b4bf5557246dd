"""The tables of a report, as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from qmix_jax.analysis.comparison import Comparison, Entry
from qmix_jax.analysis.grouping import short_names, value_text
from qmix_jax.console import READABLE, duration
from qmix_jax.records import is_share
from qmix_jax.statistics import Estimate

MANY_PAIRS = 10
"""Of more pairs of algorithms than this, only those with the best one are listed."""
IMPROVEMENT = (
    "Probability that a run of one scores higher than a run of another [95 % stratified bootstrap interval; if that "
    "has no width, Wilson's for the number of pairs without a run in common]"
)


class Cell(NamedTuple):
    """A place in a table."""

    text: str
    value: float | None = None
    """What it is sorted by, where that is a number."""


class Table(NamedTuple):
    """Rows of cells below a head."""

    title: str
    head: list[str]
    rows: list[list[Cell]]


def tables_of(comparison: Comparison) -> list[Table]:
    """By task, over all tasks, and the probabilities of improvement."""
    percent = is_share(comparison.metric)
    name = comparison.metric_name + " %" * percent
    columns = [_algorithm_head(comparison), "seeds", "steps", f"IQM {name}", "mean", "wall clock"]
    title = f"Greedy {name} after these environment steps: interquartile mean over seeds [{comparison.interval_method}]"
    rows = [[Cell(entry.task), *_cells(entry, percent)] for entry in comparison.tasks]
    tables = [Table(title, ["task", *columns], rows)]
    if comparison.together:
        scale = " (0: smallest, 1: largest evaluation on each task)" if comparison.is_normalised else ""
        rows = [_cells(entry, percent) for entry in comparison.together]
        tables.append(Table(f"All tasks together{scale}", columns, rows))
    if comparison.improvements:
        tables.append(_improvements(comparison))
    return tables


def _algorithm_head(comparison: Comparison) -> str:
    """What the groups are: algorithms, or the settings of one."""
    names = [(entry.method, entry.algorithm) for entry in comparison.tasks]
    is_one = len({method for method, _ in names}) == 1 and any(method != name for method, name in names)
    return f"settings of {names[0][0]}" if is_one else "algorithm"


def _cells(entry: Entry, percent: bool) -> list[Cell]:
    last = entry.env_steps[-1] if entry.env_steps else None
    return [
        Cell(entry.algorithm),
        Cell(str(entry.num_seeds), entry.num_seeds),
        Cell("several" if last is None else f"{last:,}", last),
        Cell(show(entry.final, percent), entry.final.value),
        Cell(f"{100 * entry.mean:.1f}" if percent else f"{entry.mean:.2f}", entry.mean),
        Cell(duration(entry.seconds), entry.seconds),
    ]


def _improvements(comparison: Comparison) -> Table:
    best = max(comparison.together or comparison.tasks, key=lambda entry: entry.final.value).algorithm
    is_long = len(comparison.improvements) > MANY_PAIRS
    rows = [
        [Cell(f"{each.algorithm} > {each.other}"), Cell(show(each.probability, True), each.probability.value)]
        for each in comparison.improvements
        if not is_long or best in (each.algorithm, each.other)
    ]
    return Table(f"{IMPROVEMENT}{f'; all pairs with {best}' * is_long}", ["pair", "probability %"], rows)


def show(estimate: Estimate, percent: bool) -> str:
    """`94.1 [91.6, 96.9]`."""
    texts = [f"{100 * x:.1f}" if percent else f"{x:.2f}" for x in estimate]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


# --- formats -----------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """A title and a table."""
    lines = [table.head, ["---"] * len(table.head), *([cell.text for cell in row] for row in table.rows)]
    text = "\n".join(f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |" for cells in lines)
    return f"{table.title}:\n\n{text}".replace("<", "&lt;")


def to_latex(comparisons: Sequence[Comparison]) -> str:
    """The tables of scores, which need no package; each can be taken out and put into a document."""
    tables = [table for each in comparisons for table in tables_of(each) if table.title[:11] != IMPROVEMENT[:11]]
    return "\n".join(line for table in tables for line in _latex_lines(table))


def _latex_lines(table: Table) -> Iterator[str]:
    yield f"% {_latex(table.title)}"
    yield f"\\begin{{tabular}}{{{'l' * (len(table.head) - 5)}{'r' * 5}}}"
    yield "\\hline"
    yield " & ".join(map(_latex, table.head)) + " \\\\"
    yield "\\hline"
    for row in table.rows:
        yield " & ".join(_latex(cell.text) for cell in row) + " \\\\"
    yield "\\hline"
    yield "\\end{tabular}\n"


def _latex(text: str) -> str:
    """Text for LaTeX without packages; characters outside ASCII become similar ones, or `?`."""
    special = {character: f"\\{character}" for character in "_%&#${}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"${character}$" for character in "<>|"}
    return text.encode("ascii", READABLE).decode("ascii").translate(str.maketrans(special))


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """A row for each algorithm on each task, with a column for every setting in which groups differ."""
    entries = [(comparison, entry) for comparison in comparisons for entry in comparison.tasks]
    names = short_names(dict.fromkeys(key for _, entry in entries for key in entry.settings))
    measures = ["metric", "seeds", "steps", "iqm", "low", "high", "mean", "seconds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["environment", "task", "algorithm", *names.values(), *measures])
    for comparison, entry in entries:
        settings = [value_text(entry.settings[key]) if key in entry.settings else "" for key in names]
        scores: list[Any] = [*entry.final, entry.mean, entry.seconds]
        counts = [comparison.metric, entry.num_seeds, entry.env_steps[-1]]
        writer.writerow([comparison.environment, entry.task, entry.method, *settings, *counts, *scores])
    return text.getvalue()
