"""Scores of single episodes with their uncertainty, as tables and as JSON. Host only: NumPy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from qmix_jax.evaluate import Episodes

RESAMPLES = 1000
WIN_RATE, RETURN, LENGTH = "win_rate", "return", "length"


class Score(NamedTuple):
    """A mean over all episodes with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    """The mean of each seed's episodes."""


Scores = dict[str, Score]
"""By measure: win_rate (where episodes can be won), return, length."""


class Row(NamedTuple):
    """A line of a table."""

    severity: float | str
    scores: Scores


class Table(NamedTuple):
    """Scores against severity."""

    name: str
    """As in JSON."""
    title: str
    severity: str
    """What the severity is called."""
    rows: list[Row]


def bootstrap(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high (M,) of the 95 % interval of the mean of values (S, E, M): a percentile bootstrap.

    Seeds are strata: each resample draws S seeds, and for each of them E of its own episodes, with replacement. With
    one seed that is the bootstrap over its episodes. The generator is fixed: equal values give equal intervals.
    """
    generator = np.random.default_rng(0)
    seeds, episodes, _ = values.shape
    means = np.empty((RESAMPLES, values.shape[2]))
    for k in range(RESAMPLES):
        drawn = generator.integers(seeds, size=(seeds, 1))
        means[k] = values[drawn, generator.integers(episodes, size=(seeds, episodes))].mean(axis=(0, 1))
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    return low, high


def scores_of(played: "Sequence[Episodes]", has_wins: bool) -> Scores:
    """The scores of each seed's episodes, an equal number of each."""
    measures = {RETURN: [one.total for one in played], LENGTH: [one.length for one in played]}
    if has_wins:
        measures = {WIN_RATE: [one.won for one in played], **measures}
    values = np.stack([np.asarray(each, np.float64) for each in measures.values()], axis=-1)
    low, high = bootstrap(values)
    means = values.mean(axis=1)
    return {
        name: Score(float(means[:, m].mean()), float(low[m]), float(high[m]), tuple(means[:, m].tolist()))
        for m, name in enumerate(measures)
    }


def to_plain(scores: Scores) -> dict:
    """For JSON."""
    return {
        name: {"mean": score.mean, "interval": [score.low, score.high], "seeds": list(score.seeds)}
        for name, score in scores.items()
    }


# --- text --------------------------------------------------------------------------------------------------------


def show(name: str, value: float) -> str:
    """A mean as people read it."""
    return f"{value:.1%}" if name == WIN_RATE else f"{value:.2f}" if name == RETURN else f"{value:.1f}"


def format_scores(scores: Scores) -> str:
    """One line a measure: mean, interval, and each seed's mean where there are several."""
    lines = []
    for name, score in scores.items():
        bounds = f"[{show(name, score.low)}, {show(name, score.high)}]"
        seeds = ", ".join(show(name, value) for value in score.seeds) if len(score.seeds) > 1 else ""
        line = f"  {name.replace('_', ' '):<9} {show(name, score.mean):>8}  95 % interval {bounds:<18}"
        lines.append(f"{line}{'  seeds ' + seeds if seeds else ''}".rstrip())
    return "\n".join(lines)


def format_table(table: Table) -> str:
    """The title, then a line a severity: mean and interval of each measure."""
    cells = [[table.severity, *(name.replace("_", " ") for name in table.rows[0].scores)]]
    for severity, scores in table.rows:
        shown = severity if isinstance(severity, str) else f"{severity:g}"
        measures = [
            f"{show(name, score.mean)} [{show(name, score.low)}, {show(name, score.high)}]"
            for name, score in scores.items()
        ]
        cells.append([shown, *measures])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join([table.title, *(line.rstrip() for line in lines)])
