"""A report: runs compared, as text, figures and JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from qmix_jax.analysis.charts import draw_charts
from qmix_jax.analysis.comparison import Comparison, Entry, compare
from qmix_jax.analysis.figure import draw_comparisons
from qmix_jax.analysis.grouping import group_runs
from qmix_jax.analysis.marl_eval import to_marl_eval
from qmix_jax.analysis.runs import read_runs
from qmix_jax.console import duration, warn
from qmix_jax.files import write_figure, write_file, write_json
from qmix_jax.records import is_share
from qmix_jax.statistics import Estimate

IMPROVEMENT = (
    "Probability that a run of one scores higher than a run of another [95 % stratified bootstrap interval; if that "
    "has no width, Wilson's for the number of pairs without a run in common]:"
)


def write_report(paths: Sequence[Path], out: Path, metric: str | None = None, until: int | None = None) -> str:
    """Compare the runs in and below the paths and write report.md, report.png, charts.png, report.json and
    marl_eval.json to `out`. Runs that are damaged, failed or without evaluations are left out with a warning.

    Args:
        paths: folders of runs, or folders above them.
        out: the folder to write to.
        metric: what to compare; by default win_rate, or return without it.
        until: leave out what comes after the first evaluation at or after this environment step.

    Returns:
        The table.

    Raises:
        ConfigError: no run is left, or runs cannot be compared; nothing is written then.
    """
    runs, left_out = read_runs(paths)
    groups = group_runs(runs if until is None else [run.until(until) for run in runs])
    comparisons = compare(groups, metric)
    table = to_markdown(comparisons) + "".join(["\nLeft out:\n\n"] * bool(left_out) + [f"- {x}\n" for x in left_out])
    for each in left_out:
        warn(f"left out: {each}")
    write_file(out / "report.md", table)
    write_json(out / "report.json", [asdict(each) for each in comparisons], indent=1)
    write_json(out / "marl_eval.json", to_marl_eval(groups), indent=1)
    write_figure(out / "report.png", draw_comparisons(comparisons))
    write_figure(out / "charts.png", draw_charts(groups))
    return table


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """The table of every environment."""
    return "\n\n".join(section for comparison in comparisons for section in _sections(comparison)) + "\n"


def _sections(comparison: Comparison) -> list[str]:
    percent = is_share(comparison.metric)
    scale = " (0: smallest, 1: largest evaluation on each task)" if comparison.is_normalised else ""
    name = comparison.metric_name + " %" * percent
    columns = ["seeds", "steps", f"IQM {name}", "mean", "wall clock"]
    parts = [
        f"## {comparison.environment}",
        f"Greedy {name} at the last evaluation: interquartile mean over seeds [{comparison.interval_method}].",
        _table(["task", "algorithm", *columns], [_cells(entry, percent, entry.task) for entry in comparison.tasks]),
    ]
    if comparison.together:
        rows = [_cells(entry, percent, None) for entry in comparison.together]
        parts += [f"All tasks together{scale}:", _table(["algorithm", *columns], rows)]
    if comparison.improvements:
        rows = [[f"{it.algorithm} > {it.other}", show(it.probability, percent=True)] for it in comparison.improvements]
        parts += [IMPROVEMENT, _table(["", "probability %"], rows)]
    return parts + [f"- {note}" for note in comparison.notes]


def _cells(entry: Entry, percent: bool, task: str | None) -> list[str]:
    mean = f"{100 * entry.mean:.1f}" if percent else f"{entry.mean:.2f}"
    steps = f"{entry.env_steps[-1]:,}" if entry.env_steps else "several"
    scores = [show(entry.final, percent), mean]
    return [*([task] if task else []), entry.algorithm, str(entry.num_seeds), steps, *scores, duration(entry.seconds)]


def show(estimate: Estimate, percent: bool) -> str:
    """`94.1 [91.6, 96.9]`."""
    texts = [f"{100 * x:.1f}" if percent else f"{x:.2f}" for x in estimate]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
