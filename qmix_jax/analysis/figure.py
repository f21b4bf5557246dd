"""The figure of a report: learning curves by task and together, final scores, probabilities of improvement."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qmix_jax.analysis.comparison import Comparison, Entry
from qmix_jax.analysis.drawing import COLOURS, FAINT, INK, DrawPanel, draw_grid, draw_line, draw_numbers, in_rows, tidy
from qmix_jax.records import is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY_CURVES = 6
"""More curves than this get a legend of two columns and fainter intervals."""
MANY_PAIRS = 10
"""More pairs of algorithms than this are a table, not bars."""


def draw_comparisons(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the panels of every environment, each on rows of its own."""
    draw_grid([row for comparison in comparisons for row in in_rows(_panels(comparison))], path)


def draw_against_time(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the learning curves of every environment against hours of wall clock."""
    panels = [_curve_panels(comparison, _colours(comparison), against_time=True) for comparison in comparisons]
    draw_grid([row for each in panels for row in in_rows(each)], path)


def _colours(comparison: Comparison) -> dict[str, str]:
    """The colour of each algorithm."""
    names = dict.fromkeys(entry.algorithm for entry in comparison.tasks)
    return {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}


def _curve_panels(comparison: Comparison, colours: dict[str, str], against_time: bool = False) -> list[DrawPanel]:
    """The learning curves on each task, and on all tasks together."""
    tasks = dict.fromkeys(entry.task for entry in comparison.tasks)
    curves = [[entry for entry in comparison.tasks if entry.task == task] for task in tasks]
    curves += [comparison.together] * any(entry.curve for entry in comparison.together)
    return [partial(_draw_curves, comparison, entries, colours, against_time) for entries in curves]


def _panels(comparison: Comparison) -> list[DrawPanel]:
    """The panels of one environment."""
    colours = _colours(comparison)
    overall = comparison.together or comparison.tasks
    panels = _curve_panels(comparison, colours)
    panels += [partial(_draw_profiles, comparison, colours)] * bool(comparison.profiles)
    panels.append(partial(_draw_scores, comparison, overall, colours))
    if comparison.improvements:
        is_long = len(comparison.improvements) > MANY_PAIRS
        panels.append(partial(_draw_all_pairs if is_long else _draw_improvements, comparison, colours))
    return panels


def _scale(comparison: Comparison, is_together: bool) -> tuple[float, str]:
    """The factor of scores in the figure, and their name."""
    if is_share(comparison.metric):
        return 100.0, f"IQM {comparison.metric_name} (%)"
    return 1.0, f"IQM {'normalised ' * (is_together and comparison.is_normalised)}{comparison.metric_name}"


def _draw_curves(
    comparison: Comparison, entries: list[Entry], colours: dict[str, str], against_time: bool, axes: "Axes"
) -> None:
    """Interquartile mean against environment steps or hours, with its interval."""
    factor, name = _scale(comparison, entries == comparison.together)
    task = entries[0].task
    tidy(axes, task if task.startswith(comparison.environment) else f"{comparison.environment}: {task}")
    is_crowded = len(entries) > MANY_CURVES
    for entry in entries:
        estimates, alpha = factor * np.array(entry.curve).T, 0.06 if is_crowded else 0.15
        times = np.array(entry.curve_seconds) / 3600 if against_time else entry.env_steps
        draw_line(axes, times, estimates, colours[entry.algorithm], entry.algorithm, alpha)
    axes.set_ylabel(name, color=FAINT, fontsize=9)
    axes.set_xlabel("hours" if against_time else "environment steps", color=FAINT, fontsize=9)
    style = {"fontsize": 6.5, "ncols": 2} if is_crowded else {"fontsize": 8}
    axes.legend(frameon=False, labelcolor=INK, **style)


def _draw_profiles(comparison: Comparison, colours: dict[str, str], axes: "Axes") -> None:
    """The share of runs that score more than each threshold, with its interval."""
    factor, name = _scale(comparison, is_together=True)
    tidy(axes, f"{comparison.environment}: performance profile at the end")
    for profile in comparison.profiles:
        thresholds, shares = factor * np.array(profile.thresholds), 100 * np.array(profile.shares).T
        draw_line(axes, thresholds, shares, colours[profile.algorithm], profile.algorithm)
    axes.set_ylabel("runs with more (%)", color=FAINT, fontsize=9)
    axes.set_xlabel(name.removeprefix("IQM "), color=FAINT, fontsize=9)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)


def _draw_scores(comparison: Comparison, entries: list[Entry], colours: dict[str, str], axes: "Axes") -> None:
    """Final scores with their intervals."""
    factor, name = _scale(comparison, entries == comparison.together)
    tidy(axes, f"{comparison.environment}: {name} at the end")
    several = len({entry.task for entry in entries}) > 1
    labels = [f"{entry.task}: {entry.algorithm}" if several else entry.algorithm for entry in entries]
    estimates = [tuple(factor * x for x in entry.final) for entry in entries]
    _draw_bars(axes, labels, estimates, [colours[entry.algorithm] for entry in entries])


def _draw_improvements(comparison: Comparison, colours: dict[str, str], axes: "Axes") -> None:
    """The probability that a run of one algorithm scores higher than a run of another."""
    tidy(axes, f"{comparison.environment}: probability (%) that a run scores higher")
    labels = [f"{each.algorithm} > {each.other}" for each in comparison.improvements]
    estimates = [tuple(100 * x for x in each.probability) for each in comparison.improvements]
    axes.axvline(50, color=FAINT, linewidth=0.8, linestyle="--")
    _draw_bars(axes, labels, estimates, [colours[each.algorithm] for each in comparison.improvements])
    axes.set_xlim(-3, 103)


def _draw_all_pairs(comparison: Comparison, _: dict[str, str], axes: "Axes") -> None:
    """The same without intervals, as a table: each algorithm (row) against each other one (column)."""
    tidy(axes, f"{comparison.environment}: % of runs (left) that score higher")
    pairs = {(each.algorithm, each.other): 100 * each.probability[0] for each in comparison.improvements}
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    chances = np.full((len(names), len(names)), np.nan)
    for (row, column), chance in pairs.items():
        chances[names.index(row), names.index(column)] = chance
        chances[names.index(column), names.index(row)] = 100 - chance
    axes.grid(visible=False)
    draw_numbers(chances, "{:.0f}", axes, colours="RdBu", low=-25, high=125)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=8)


def _draw_bars(axes: "Axes", labels: list[str], estimates: Sequence[tuple], colours: list[str]) -> None:
    """One interval per row, from the top, with a mark at the value."""
    places = np.arange(len(labels))[::-1]
    for place, (value, low, high), colour in zip(places, estimates, colours, strict=True):
        axes.barh(place, high - low, left=low, height=0.55, color=colour, alpha=0.35)
        axes.plot([value, value], [place - 0.28, place + 0.28], color=colour, linewidth=2.5)
    axes.set_yticks(places, labels)
    axes.set_ylim(-0.7, len(labels) - 0.3)
    axes.xaxis.set_major_formatter("{x:g}")
