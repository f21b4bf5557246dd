"""The figure of the games: shares of solved seeds, Q_tot of QTRAN's game, returns by punishment."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qmix_jax.analysis.drawing import draw_numbers

HUNT = "predator_prey_"


def draw_games(results: Sequence, path: Path) -> None:
    """Draw `run.Result`s."""
    tables = [result for result in results if result.game == "qtran" and result.tables]
    hunts = [result for result in results if result.game.startswith(HUNT)]
    figure = Figure(figsize=(12, 9 if tables else 6), dpi=110, layout="constrained")
    top, bottom = np.array(figure.subfigures(2, 1, height_ratios=(2, 1))) if tables else (figure, None)
    shares, *rest = np.atleast_1d(top.subplots(1, 2 if hunts else 1))
    draw_shares(results, shares)
    for axes in rest:
        draw_hunts(hunts, axes)
    if bottom:
        bottom.suptitle("Q_tot in QTRAN's game (payoff 8 in the corner, -12 beside it), mean over seeds", fontsize=11)
        for axes, result in zip(np.atleast_1d(bottom.subplots(1, len(tables))), tables, strict=True):
            draw_table(result.tables[0], result.algorithm, axes)
    figure.savefig(path)


def draw_shares(results: Sequence, axes: Axes) -> None:
    """Games by algorithms: the share of seeds that solved the game."""
    games = list(dict.fromkeys(result.game for result in results))
    algorithms = list(dict.fromkeys(result.algorithm for result in results))
    shares = np.full((len(games), len(algorithms)), np.nan)
    for result in results:
        shares[games.index(result.game), algorithms.index(result.algorithm)] = 100 * result.share.value
    axes.set_title("Seeds that solved the game (%)", fontsize=11)
    draw_numbers(shares, "{:.0f}", axes, colours="Blues", low=0, high=150)
    axes.set_xticks(range(len(algorithms)), algorithms, rotation=30, ha="right")
    axes.set_yticks(range(len(games)), games)


def draw_table(table: np.ndarray, title: str, axes: Axes) -> None:
    """One Q_tot table."""
    axes.set_title(title, fontsize=10)
    draw_numbers(table, "{:z.1f}", axes, colours="RdYlBu", low=-20, high=20)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_hunts(results: Sequence, axes: Axes) -> None:
    """Greedy return in predator-prey against the punishment, by algorithm."""
    axes.set_title("Predator-prey: greedy return, IQM and 95 % interval", fontsize=11)
    for algorithm in dict.fromkeys(result.algorithm for result in results):
        own = [result for result in results if result.algorithm == algorithm]
        punishment = [float(result.game.removeprefix(HUNT)) for result in own]
        value, low, high = np.array([result.greedy_return for result in own]).T
        (line,) = axes.plot(punishment, value, marker="o", label=algorithm)
        axes.fill_between(punishment, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xticks(sorted({float(result.game.removeprefix(HUNT)) for result in results}))
    axes.set_xlabel("punishment for a capture tried alone")
    axes.invert_xaxis()
    axes.legend(frameon=False, fontsize=9)
