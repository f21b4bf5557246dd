"""A report: runs compared, as text, tables, figures, JSON and a page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from qmix_jax.analysis.best import Best, best_of
from qmix_jax.analysis.charts import draw_charts
from qmix_jax.analysis.comparison import Comparison, compare
from qmix_jax.analysis.figure import draw_comparisons
from qmix_jax.analysis.grouping import group_runs
from qmix_jax.analysis.heatmap import draw_heat_maps
from qmix_jax.analysis.marl_eval import to_marl_eval
from qmix_jax.analysis.page import to_page
from qmix_jax.analysis.runs import read_runs
from qmix_jax.analysis.tables import tables_of, to_csv, to_latex
from qmix_jax.analysis.tables import to_markdown as table_to_markdown
from qmix_jax.console import warn
from qmix_jax.files import to_json, write_figure, write_file

PICTURES = ("png", "pdf", "svg")
FORMATS = (*PICTURES, "html")
FIGURES = {
    "report": "Learning curves, final scores, performance profiles and probabilities of improvement",
    "heatmap": "The final scores by two settings",
    "charts": "Every metric over environment steps: mean over seeds, 95 % interval shaded",
}
"""What the figures show, by the names of their files."""


class Report(NamedTuple):
    """What was written."""

    text: str
    files: list[str]


def write_report(
    paths: Sequence[Path],
    out: Path,
    metric: str | None = None,
    until: int | None = None,
    formats: Sequence[str] = ("png",),
) -> Report:
    """Compare the runs in and below the paths and write tables, figures and numbers to `out`. Runs that are damaged,
    failed, not ended or without evaluations are left out with a warning.

    Args:
        paths: folders of runs, or folders above them.
        out: the folder to write to.
        metric: what to compare; by default win_rate, or return without it.
        until: leave out what comes after the first evaluation at or after this environment step.
        formats: some of `FORMATS`, for the figures; html is a page with all of them.

    Returns:
        The text of report.md, and the names of the files.

    Raises:
        ConfigError: no run is left, or runs cannot be compared; nothing is written then.
    """
    runs, left_out = read_runs(paths, until)
    groups = group_runs(runs)
    comparisons = compare(groups, metric, until)
    best = [each for comparison in comparisons for each in best_of(comparison, groups)]
    for each in left_out:
        warn(f"left out: {each}")
    drawn = [draw_comparisons(comparisons), draw_heat_maps(comparisons), draw_charts(groups)]
    figures = {name: figure for name, figure in zip(FIGURES, drawn, strict=True) if figure is not None}
    text = to_markdown(comparisons) + _best_lines(best) + _left_out_lines(left_out)
    files = {
        "report.md": text,
        "report.csv": to_csv(comparisons),
        "report.tex": to_latex(comparisons),
        "report.json": to_json([asdict(each) for each in comparisons], indent=1) + "\n",
        "marl_eval.json": to_json(to_marl_eval(groups), indent=1) + "\n",
    }
    if "html" in formats:
        named = {FIGURES[name]: figure for name, figure in figures.items()}
        files["report.html"] = to_page(comparisons, groups, best, left_out, named)
    pictures = {f"{name}.{form}": each for name, each in figures.items() for form in PICTURES if form in formats}
    for name, content in files.items():
        write_file(out / name, content)
    for name, figure in pictures.items():
        write_figure(out / name, figure)
    return Report(text, [*files, *pictures])


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """The tables of every environment."""
    sections = []
    for comparison in comparisons:
        sections += [f"## {comparison.environment}", *map(table_to_markdown, tables_of(comparison))]
        sections += [f"- {note}" for note in comparison.notes]
    return "\n\n".join(sections) + "\n"


def _best_lines(best: Sequence[Best]) -> str:
    lines = [f"\n- {text}\n\n{''.join(f'      {command}{chr(10)}' for command in commands)}" for text, commands in best]
    return "".join(["\n## Best\n" * bool(best), *lines])


def _left_out_lines(left_out: Sequence[str]) -> str:
    return "".join(["\nLeft out:\n\n" * bool(left_out), *(f"- {each}\n" for each in left_out)])
