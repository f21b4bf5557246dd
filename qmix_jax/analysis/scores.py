"""Scores of single episodes with their uncertainty, as tables and as JSON. Host only: NumPy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qmix_jax.analysis.statistics import share_interval, widen

if TYPE_CHECKING:
    from qmix_jax.learning.behaviour import Behaviour
    from qmix_jax.learning.evaluate import Episodes

RESAMPLES = 1000
WIN_RATE, RETURN, LENGTH = "win_rate", "return", "length"


class Score(NamedTuple):
    """A mean over all episodes with its 95 % interval."""

    mean: float
    low: float
    high: float
    """NaN, as `low`, where a single episode says nothing of others."""
    method: str
    """How the interval was made."""
    episodes: tuple[tuple[float, ...], ...]
    """Each seed's value of every episode."""

    @property
    def seeds(self) -> tuple[float, ...]:
        """The mean of each seed's episodes."""
        return tuple(float(np.mean(each)) for each in self.episodes)


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
        measures = {WIN_RATE: [one.metrics[WIN_RATE] for one in played], **measures}
    values = np.stack([np.asarray(each, np.float64) for each in measures.values()], axis=-1)
    lows, highs = bootstrap(values)
    scores = {}
    for m, (name, each) in enumerate(measures.items()):
        mean = float(values[..., m].mean())
        interval = _interval(mean, float(lows[m]), float(highs[m]), values.shape[:2], name == WIN_RATE)
        scores[name] = Score(mean, *interval, tuple(tuple(np.asarray(seed).tolist()) for seed in each))
    return scores


def _interval(mean: float, low: float, high: float, shape: tuple[int, ...], is_share: bool) -> tuple[float, float, str]:
    """Low, high and method of the interval of S x E episodes, from that of the bootstrap.

    A share of one seed's episodes has Wilson's, and one of several seeds is no narrower than that of all episodes
    pooled. A single episode has none: its bootstrap would be without width.
    """
    seeds, episodes = shape
    if is_share and seeds == 1:
        return *share_interval(mean * episodes, episodes)[1:], "Wilson over episodes"
    method = "bootstrap over seeds and their episodes" if seeds > 1 else "bootstrap over episodes"
    if is_share:
        low, high = map(float, widen(np.array(mean), np.array(low), np.array(high), seeds * episodes))
        return low, high, f"{method}, no narrower than Wilson over all episodes"
    if seeds * episodes == 1:
        return float("nan"), float("nan"), "none: a single episode"
    return low, high, method


def to_plain(scores: Scores) -> dict:
    """For JSON; an interval that there is not is null."""
    return {
        name: {
            "mean": score.mean,
            "interval": None if np.isnan(score.low) else [score.low, score.high],
            "interval_method": score.method,
            "seeds": list(score.seeds),
            "episodes": [list(each) for each in score.episodes],
        }
        for name, score in scores.items()
    }


# --- text --------------------------------------------------------------------------------------------------------


def show(name: str, value: float) -> str:
    """A mean as people read it."""
    if np.isnan(value):
        return "?"
    return f"{value:.1%}" if name == WIN_RATE else f"{value:.2f}" if name == RETURN else f"{value:.1f}"


def format_scores(scores: Scores) -> str:
    """One line a measure: mean, interval with its method, and each seed's mean where there are several."""
    lines = []
    for name, score in scores.items():
        line = f"  {name.replace('_', ' '):<9} {show(name, score.mean):>8}  95 % interval {_bounds(name, score):<18}"
        seeds = f"; seeds {', '.join(show(name, value) for value in score.seeds)}" if len(score.seeds) > 1 else ""
        lines.append(f"{line}  {score.method}{seeds}")
    return "\n".join(lines)


def _bounds(name: str, score: Score) -> str:
    return f"[{show(name, score.low)}, {show(name, score.high)}]"


def format_table(table: Table) -> str:
    """The title, then a line a severity: mean and interval of each measure."""
    cells = [[table.severity, *(name.replace("_", " ") for name in table.rows[0].scores)]]
    for severity, scores in table.rows:
        shown = severity if isinstance(severity, str) else f"{severity:g}"
        measures = [f"{show(name, score.mean)} {_bounds(name, score)}" for name, score in scores.items()]
        cells.append([shown, *measures])
    return "\n".join([table.title, *_columns(cells)])


# --- agents ------------------------------------------------------------------------------------------------------

SHOWN_ACTIONS = 6
"""Of each agent in the table, the commonest first; JSON has all."""


def agents_to_plain(behaviour: "Behaviour", names: Sequence[str]) -> list[dict]:
    """For JSON: of each agent the mean over seeds and each seed's value; null where it could never choose."""

    def plain(values: np.ndarray) -> dict:
        return {"mean": _to_list(_mean(values)), "seeds": [_to_list(each) for each in values]}

    steps, q, credit, actions = behaviour
    return [
        {
            "agent": name,
            "steps": [int(count) for count in steps[:, i]],
            "q": plain(q[:, i]),
            "credit": None if credit is None else plain(credit[:, i]),
            "action_shares": plain(actions[:, i]),
        }
        for i, name in enumerate(names)
    ]


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the seeds (the first axis) that have a value; NaN where none has."""
    has = ~np.isnan(values)
    return np.where(has.any(0), np.where(has, values, 0.0).sum(0) / np.maximum(has.sum(0), 1), np.nan)


def _to_list(values: np.ndarray) -> Any:
    """Nested lists, with None for NaN."""
    return np.where(np.isnan(values), np.array(None), values).tolist()


def format_agents(behaviour: "Behaviour", names: Sequence[str]) -> str:
    """A line an agent: means over seeds of its Q-value, its credit, and the share of each action by number."""
    steps, q, credit, actions = behaviour
    cells = [["agent", "Q", "credit", "actions (number: share)"]]
    for i, name in enumerate(names):
        worth = "none" if credit is None else f"{_mean(credit[:, i]):.2f}"
        if not steps[:, i].any():
            cells.append([name, "?", "?", "could never choose"])
            continue
        cells.append([name, f"{_mean(q[:, i]):.2f}", worth, _commonest(_mean(actions[:, i]))])
    title = "Each agent, over the steps at which it could choose: Q of its action, credit dQ_tot / dQ_i, its actions"
    return "\n".join([title, *_columns(cells)])


def _commonest(shares: np.ndarray) -> str:
    order = [k for k in np.argsort(-shares, kind="stable") if shares[k] > 0]
    more = f", {len(order) - SHOWN_ACTIONS} more" if len(order) > SHOWN_ACTIONS else ""
    return ", ".join(f"{k}: {shares[k]:.1%}" for k in order[:SHOWN_ACTIONS]) + more


def _columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, in columns."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
