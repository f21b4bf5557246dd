"""The figure of a report: learning curves by task and together, final scores, probabilities of improvement."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qmix_jax.analysis.comparison import Comparison, Entry
from qmix_jax.analysis.drawing import FAINT, draw_line, draw_numbers
from qmix_jax.analysis.grid import PANEL_HEIGHT, Block, Panel, draw_grid
from qmix_jax.analysis.grouping import by_key
from qmix_jax.analysis.looks import Look, cut, looks_of, ticks
from qmix_jax.records import is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_PAIRS = 10
"""More pairs of algorithms than this are a table, not bars."""
WIDE_TABLE = 10
"""A table of more algorithms than this has the width of two panels; of more than twice as many, of three."""
LABEL = 36
"""The most characters beside a bar."""

Looks = Mapping[str, Look]


def draw_comparisons(comparisons: Sequence[Comparison]) -> "Figure":
    """The panels of every environment, each on rows of its own."""
    looks = [looks_of(comparison.tasks) for comparison in comparisons]
    pairs = zip(comparisons, looks, strict=True)
    return draw_grid([Block(_panels(each, own), [*own.values()]) for each, own in pairs])


def draw_against_time(comparisons: Sequence[Comparison]) -> "Figure":
    """The learning curves of every environment against hours of wall clock."""
    looks = [looks_of(comparison.tasks) for comparison in comparisons]
    pairs = zip(comparisons, looks, strict=True)
    return draw_grid([Block(_curve_panels(each, own, against_time=True), [*own.values()]) for each, own in pairs])


def _curve_panels(comparison: Comparison, looks: Looks, against_time: bool = False) -> list[Panel]:
    """The learning curves on each task, and on all tasks together."""
    curves = list(by_key(comparison.tasks, lambda entry: entry.task).values())
    curves += [comparison.together] * any(entry.curve for entry in comparison.together)
    name = comparison.environment
    return [
        Panel(
            task if (task := entries[0].task).startswith(name) else f"{name}: {task}",
            partial(_draw_curves, comparison, entries, looks, against_time),
        )
        for entries in curves
    ]


def _panels(comparison: Comparison, looks: Looks) -> list[Panel]:
    """The panels of one environment."""
    name, overall = comparison.environment, comparison.together or comparison.tasks
    panels = _curve_panels(comparison, looks)
    if comparison.profiles:
        panels.append(Panel(f"{name}: performance profile at the end", partial(_draw_profiles, comparison, looks)))
    title = f"{name}: {_scale(comparison, overall == comparison.together)[1]} at the end"
    panels.append(Panel(title, partial(_draw_scores, comparison, overall, looks), height=_bars_height(len(overall))))
    if comparison.improvements:
        panels.append(_improvements_panel(comparison, looks))
    return panels


def _bars_height(count: int) -> float:
    """The height, in inches, that so many bars with labels need."""
    return max(PANEL_HEIGHT, 1.0 + 0.2 * count)


def _scale(comparison: Comparison, is_together: bool) -> tuple[float, str]:
    """The factor of scores in the figure, and their name."""
    name = cut(comparison.metric_name, LABEL)
    if is_share(comparison.metric):
        return 100.0, f"IQM {name} (%)"
    return 1.0, f"IQM {'normalised ' * (is_together and comparison.is_normalised)}{name}"


def _draw_curves(comparison: Comparison, entries: list[Entry], looks: Looks, against_time: bool, axes: "Axes") -> None:
    """Interquartile mean against environment steps or hours, with its interval."""
    factor, name = _scale(comparison, entries == comparison.together)
    for entry in entries:
        estimates, look = factor * np.array(entry.curve).T, looks[entry.algorithm]
        times = np.array(entry.curve_seconds) / 3600 if against_time else entry.env_steps
        draw_line(axes, times, estimates, look.colour, look.line, len(entries))
    axes.set_ylabel(name, color=FAINT, fontsize=9)
    axes.set_xlabel("hours" if against_time else "environment steps", color=FAINT, fontsize=9)


def _draw_profiles(comparison: Comparison, looks: Looks, axes: "Axes") -> None:
    """The share of runs that score more than each threshold, with its interval."""
    factor, name = _scale(comparison, is_together=True)
    for profile in comparison.profiles:
        thresholds, shares = factor * np.array(profile.thresholds), 100 * np.array(profile.shares).T
        look = looks[profile.algorithm]
        draw_line(axes, thresholds, shares, look.colour, look.line, len(comparison.profiles))
    axes.set_ylabel("runs with more (%)", color=FAINT, fontsize=9)
    axes.set_xlabel(name.removeprefix("IQM "), color=FAINT, fontsize=9)


def _draw_scores(comparison: Comparison, entries: list[Entry], looks: Looks, axes: "Axes") -> None:
    """Final scores with their intervals."""
    factor, _ = _scale(comparison, entries == comparison.together)
    several = len({entry.task for entry in entries}) > 1
    tasks = [f"{cut(entry.task, LABEL // 2)}: " if several else "" for entry in entries]
    names = ticks([looks[entry.algorithm] for entry in entries], LABEL - max(map(len, tasks)))
    labels = [task + name for task, name in zip(tasks, names, strict=True)]
    estimates = [tuple(factor * x for x in entry.final) for entry in entries]
    draw_bars(axes, labels, estimates, [looks[entry.algorithm].colour for entry in entries])


def _improvements_panel(comparison: Comparison, looks: Looks) -> Panel:
    """The probability that a run of one algorithm scores higher than a run of another: a bar for each of a few pairs,
    a table of many.
    """
    pairs = [(looks[each.algorithm].key, looks[each.other].key) for each in comparison.improvements]
    title, count = comparison.environment, len(_compared(comparison))
    if len(pairs) <= MANY_PAIRS:
        is_long = max(len(one) + len(other) for one, other in pairs) > LABEL - 3
        labels = [f"{one} >{chr(10) if is_long else ' '}{other}" for one, other in pairs]
        draw, height = partial(_draw_improvements, comparison, labels, looks), _bars_height(len(pairs) * (1 + is_long))
        return Panel(f"{title}: probability (%) that a run scores higher", draw, height=height)
    columns = 1 + (count > WIDE_TABLE) + (count > 2 * WIDE_TABLE + 5)
    draw = partial(_draw_all_pairs, comparison, looks)
    return Panel(f"{title}: % of runs (left) that score higher", draw, columns, _bars_height(count) + 0.4)


def _compared(comparison: Comparison) -> list[str]:
    """The algorithms that have probabilities of improvement."""
    return list(dict.fromkeys(name for each in comparison.improvements for name in (each.algorithm, each.other)))


def _draw_improvements(comparison: Comparison, labels: list[str], looks: Looks, axes: "Axes") -> None:
    """With intervals."""
    estimates = [tuple(100 * x for x in each.probability) for each in comparison.improvements]
    axes.axvline(50, color=FAINT, linewidth=0.8, linestyle="--")
    draw_bars(axes, labels, estimates, [looks[each.algorithm].colour for each in comparison.improvements])
    axes.set_xlim(-3, 103)


def _draw_all_pairs(comparison: Comparison, looks: Looks, axes: "Axes") -> None:
    """Without intervals, each algorithm (row) against each other one (column)."""
    names = _compared(comparison)
    chances = np.full((len(names), len(names)), np.nan)
    for each in comparison.improvements:
        row, column = names.index(each.algorithm), names.index(each.other)
        chances[row, column] = 100 * each.probability.value
        chances[column, row] = 100 - chances[row, column]
    axes.grid(visible=False)
    draw_numbers(chances, "{:.0f}", axes, colours="RdBu", low=-25, high=125, size=9 if len(names) <= MANY_PAIRS else 7)
    keys = [looks[name].key for name in names]
    axes.set_xticks(range(len(names)), keys, rotation=0 if max(map(len, keys)) < 4 else 90)
    axes.set_yticks(range(len(names)), ticks([looks[name] for name in names], LABEL))
    axes.tick_params(length=0, labelsize=8)


def draw_bars(axes: "Axes", labels: list[str], estimates: Sequence[tuple], colours: list) -> None:
    """One interval (value, low, high) per row, from the top, with a mark at the value."""
    from matplotlib.ticker import MaxNLocator

    axes.use_sticky_edges = False
    places = np.arange(len(labels))[::-1]
    for place, (value, low, high), colour in zip(places, estimates, colours, strict=True):
        axes.barh(place, high - low, left=low, height=0.55, color=colour, alpha=0.35)
        axes.plot([value, value], [place - 0.28, place + 0.28], color=colour, linewidth=2.5)
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(-0.7, len(labels) - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter("{x:g}")
