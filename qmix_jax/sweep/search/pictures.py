"""The pictures of a search: its history, and how much each setting matters."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qmix_jax.analysis.drawing import COLOURS, FAINT, INK, MAIN, PANEL_TITLE, style
from qmix_jax.files import write_figure
from qmix_jax.records import is_share
from qmix_jax.sweep.search.study import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes


def draw_history(trials: Sequence[Trial], ranking: Sequence[Trial], metric: str, path: Path) -> None:
    """Write a PNG with the score of each complete trial, the best so far, and marks where others ended.

    `ranking` are the complete trials, the best first.
    """
    complete = [trial for trial in trials if trial.score is not None]
    rank = {trial.number: place for place, trial in enumerate(ranking)}
    best = [min(complete[: k + 1], key=lambda trial: rank[trial.number]) for k in range(len(complete))]
    scale, unit = (100, " (%)") if is_share(metric) else (1, "")
    with _axes(path, f"{metric}{unit} of each trial") as axes:
        axes.plot([t.number for t in complete], [scale * (t.score or 0) for t in complete], "o", color=MAIN, alpha=0.7)
        axes.step(
            [trial.number for trial in complete],
            [scale * (trial.score or 0) for trial in best],
            where="post",
            color=COLOURS[1],
            linewidth=1.8,
            label="best so far",
        )
        for state, mark in {"PRUNED": "|", "FAIL": "x"}.items():
            numbers = [trial.number for trial in trials if trial.state.name == state]
            place, label = axes.get_xaxis_transform(), state.lower() if numbers else None
            axes.plot(numbers, [0.02] * len(numbers), mark, color=FAINT, transform=place, label=label)
        axes.set_xlabel("trial", color=INK)
        axes.legend(frameon=False, fontsize=PANEL_TITLE - 2)


def draw_importance(importance: Mapping[str, float], path: Path) -> None:
    """Write a PNG with a bar for each setting, the most important at the top."""
    names = sorted(importance, key=lambda name: importance[name])
    with _axes(path, "importance of each setting for a high rank (PED-ANOVA)") as axes:
        axes.barh(names, [importance[name] for name in names], color=MAIN)


@contextmanager
def _axes(path: Path, title: str) -> "Iterator[Axes]":
    """Axes to draw on; written at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots()
    style(axes, title, PANEL_TITLE)
    yield axes
    write_figure(path, figure)
