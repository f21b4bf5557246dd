"""Scores over single episodes with their intervals, as tables and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qmix_jax.records import is_share
from qmix_jax.statistics import nested_bootstrap, share_interval, widen
from qmix_jax.types import Behaviour


class Score(NamedTuple):
    """A mean over all episodes with its 95 % interval."""

    mean: float
    low: float
    high: float
    """NaN, as `low`, for a single episode."""
    method: str
    """How the interval was computed."""
    episodes: tuple[tuple[float, ...], ...]
    """The values of each seed's episodes."""

    @property
    def seeds(self) -> tuple[float, ...]:
        """The mean of each seed's episodes."""
        return tuple(float(np.mean(each)) for each in self.episodes)


Scores = dict[str, Score]
"""By metric: return, length, and those of the environment."""


class SeverityRow(NamedTuple):
    """A line of a `SeverityTable`."""

    severity: float | str
    scores: Scores


class SeverityTable(NamedTuple):
    """Scores under disturbances of one kind, by their severity."""

    name: str
    """The key in JSON."""
    title: str
    severity: str
    """The heading of the severities."""
    rows: list[SeverityRow]


def scores_of(episodes: Mapping[str, Sequence[Any]]) -> Scores:
    """The scores of each metric, given as one array per seed with the values of its episodes, equally many of each."""
    values = np.stack([np.asarray(each, np.float64) for each in episodes.values()], axis=-1)
    lows, highs = nested_bootstrap(values)
    scores = {}
    for m, (name, each) in enumerate(episodes.items()):
        mean = float(values[..., m].mean())
        interval = _interval(mean, float(lows[m]), float(highs[m]), values.shape[:2], is_share(name))
        scores[name] = Score(mean, *interval, tuple(tuple(np.asarray(seed).tolist()) for seed in each))
    return scores


def _interval(mean: float, low: float, high: float, shape: tuple[int, ...], is_share: bool) -> tuple[float, float, str]:
    """Low, high and method of the interval of S x E episodes, given that of the bootstrap.

    A share of the episodes of one seed has Wilson's interval; that of several seeds is no narrower than Wilson's of all
    episodes pooled. A single episode has no interval.
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
    """The scores for JSON; a missing interval is None."""
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
    """A mean as text."""
    if np.isnan(value):
        return "?"
    return f"{value:.1%}" if is_share(name) else f"{value:.1f}" if name == "length" else f"{value:.2f}"


def format_scores(scores: Scores) -> str:
    """One line per metric: mean, interval with its method, and the means of several seeds."""
    lines, width = [], max(9, *map(len, scores))
    for name, score in scores.items():
        line = (
            f"  {name.replace('_', ' '):<{width}} {show(name, score.mean):>8}  95 % interval {_bounds(name, score):<18}"
        )
        seeds = f"; seeds {', '.join(show(name, value) for value in score.seeds)}" if len(score.seeds) > 1 else ""
        lines.append(f"{line}  {score.method}{seeds}")
    return "\n".join(lines)


def _bounds(name: str, score: Score) -> str:
    return f"[{show(name, score.low)}, {show(name, score.high)}]"


def format_table(table: SeverityTable) -> str:
    """The title, then a line per severity with mean and interval of each metric."""
    cells = [[table.severity, *(name.replace("_", " ") for name in table.rows[0].scores)]]
    for severity, scores in table.rows:
        shown = severity if isinstance(severity, str) else f"{severity:g}"
        measures = [f"{show(name, score.mean)} {_bounds(name, score)}" for name, score in scores.items()]
        cells.append([shown, *measures])
    return "\n".join([table.title, *_columns(cells)])


# --- agents ------------------------------------------------------------------------------------------------------

SHOWN_ACTIONS = 6
"""Actions of each agent in the table, the most common first; JSON has all."""


def agents_to_plain(behaviour: Behaviour, names: Sequence[str]) -> list[dict]:
    """For JSON: the mean over seeds and the value of each seed, by agent; None where it never could choose."""

    def plain(values: np.ndarray) -> dict:
        return {"mean": _to_list(_mean(values)), "seeds": [_to_list(each) for each in values]}

    credit = behaviour.credit
    return [
        {
            "agent": name,
            "steps": [int(count) for count in behaviour.steps[:, i]],
            "q": plain(behaviour.q[:, i]),
            "credit": None if credit is None else plain(credit[:, i]),
            "action_shares": plain(behaviour.actions[:, i]),
        }
        for i, name in enumerate(names)
    ]


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the seeds (first axis) that have a value; NaN if none has."""
    has = ~np.isnan(values)
    return np.where(has.any(0), np.where(has, values, 0.0).sum(0) / np.maximum(has.sum(0), 1), np.nan)


def _to_list(values: np.ndarray) -> Any:
    """Nested lists, with None for NaN."""
    return np.where(np.isnan(values), np.array(None), values).tolist()


def format_agents(behaviour: Behaviour, names: Sequence[str]) -> str:
    """A line per agent: means over seeds of its Q-value, its credit, and the share of each action by number."""
    credit = behaviour.credit
    cells = [["agent", "Q", "credit", "actions (number: share)"]]
    for i, name in enumerate(names):
        worth = "none" if credit is None else f"{_mean(credit[:, i]):.2f}"
        if not behaviour.steps[:, i].any():
            cells.append([name, "?", "?", "could never choose"])
            continue
        cells.append([name, f"{_mean(behaviour.q[:, i]):.2f}", worth, _most_common(_mean(behaviour.actions[:, i]))])
    title = "Each agent, over the steps at which it could choose: Q of its action, credit dQ_tot / dQ_i, its actions"
    return "\n".join([title, *_columns(cells)])


def _most_common(shares: np.ndarray) -> str:
    order = [k for k in np.argsort(-shares, kind="stable") if shares[k] > 0]
    more = f", {len(order) - SHOWN_ACTIONS} more" if len(order) > SHOWN_ACTIONS else ""
    return ", ".join(f"{k}: {shares[k]:.1%}" for k in order[:SHOWN_ACTIONS]) + more


def _columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
