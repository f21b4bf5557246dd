"""Copies what is finished, compacted, to results/, and writes its tables and figures there.

python experiments/suite/report.py                # from runs/suite
python experiments/suite/report.py --runs DIR     # from another folder

Only results/ is needed to write them again. Of a run it keeps config.yaml, run.json and the evaluations.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import plan
import script
from run import RUNS, is_finished

from qmix_jax.analysis.comparison import compare
from qmix_jax.analysis.drawing import FAINT, MAIN
from qmix_jax.analysis.figure import draw_against_time, draw_bars, draw_comparisons
from qmix_jax.analysis.grid import Block, Panel, draw_grid
from qmix_jax.analysis.grouping import group_runs
from qmix_jax.analysis.report import to_markdown
from qmix_jax.analysis.runs import RunFolder, read_runs
from qmix_jax.analysis.tables import show
from qmix_jax.console import duration, warn
from qmix_jax.files import write_figure, write_file, write_json
from qmix_jax.records import format_rows, read_manifest, read_metrics
from qmix_jax.run.metrics import SUMS
from qmix_jax.run.usage import Usage
from qmix_jax.statistics import Estimate, interquartile_mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
KEPT = ("env_steps", *SUMS, "train/loss", "train/updates")
"""Of every evaluation, beside what was evaluated and what tells of NaN."""
DIGITS = 5
PACKAGES = ("jax", "jaxmarl")
"""Whose versions the table of runs names; run.json has all."""


# --- compacting --------------------------------------------------------------------------------------------------


def compact(runs: Path, results: Path, also: Sequence[str] = ()) -> None:
    """Copy every finished job of the plan, and those of `also` as far as they are; the rest of `results` stays."""
    for job in plan.PLAN:
        folder, out = runs / job.name, results / job.name
        if not is_finished(job, folder) and job.name not in also:
            continue
        write_file(out / "config.yaml", (folder / "config.yaml").read_text())
        write_json(out / "run.json", read_manifest(folder), indent=1)
        write_file(out / "metrics.jsonl", format_rows([shorten(row) for row in read_metrics(folder / "metrics.jsonl")]))


def shorten(row: dict) -> dict:
    """What the results keep of an evaluation."""
    wanted = {name: value for name, value in row.items() if name in KEPT or name.startswith("eval/") or "_nan" in name}
    return {name: _round(value) for name, value in wanted.items()}


def _round(value):
    if isinstance(value, list):
        return [_round(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


# --- reporting ---------------------------------------------------------------------------------------------------


def sections(found: Sequence[RunFolder]) -> Iterator[tuple[str, str, list[RunFolder]]]:
    """The name, the title and the runs of everything that is compared; nothing without runs."""
    sets = [run for run in found if run.folder.parent.name == plan.SETS]
    runs = [run for run in found if run not in sets]
    nine = [run for run in runs if run.base_task in plan.NINE]
    methods = [run.until(plan.SHORT) for run in nine]
    several = len({run.algorithm for run in nine}) > 1
    yield "nine", "QMIX on nine maps", [run for run in nine if run.algorithm == "qmix"]
    yield "others", "QMIX on random armies and large maps", [run for run in runs if run not in nine]
    beside = [run for run in runs if run.algorithm == "qmix" and run.base_task in {each.base_task for each in sets}]
    yield plan.SETS, "QMIX with entities as sets", [*beside, *sets] if sets else []
    yield "methods", f"Methods on nine maps, at {plan.SHORT:,} steps", methods if several else []


def report(results: Path) -> str:
    """Write report.md, report.json and the figures of every section to `results`; returns the text."""
    found, left_out = read_runs([Path(os.path.relpath(results))])  # the text names folders of the repository
    ablations = [run for run in found if run.folder.parent.name == plan.ABLATIONS]
    runs = [run for run in found if run not in ablations]
    parts, numbers = ["# SMAX, all maps", f"Written by `python {Path(*Path(__file__).parts[-3:])}`."], {}
    for name, title, members in sections(runs):
        if not members:
            continue
        comparisons = compare(group_runs(members))
        write_figure(results / f"{name}.png", draw_comparisons(comparisons))
        numbers[name] = [asdict(each) for each in comparisons]
        pictures = [f"![{title}: against steps, and at the end]({name}.png)"]
        if len(set(map(hardware_of, members))) == 1:  # hours of different machines do not compare
            write_figure(results / f"{name}_hours.png", draw_against_time(comparisons))
            pictures.append(f"![against hours]({name}_hours.png)")
        parts += [f"# {title}", to_markdown(comparisons).strip(), *pictures]
    for each in left_out:
        warn(f"left out: {each}")
    parts += report_ablations(ablations, results)
    parts += ["# Runs", table_of(found), total_usage(found), *[f"Left out: {each}" for each in left_out]]
    text = "\n\n".join(parts) + "\n"
    write_file(results / "report.md", text)
    write_json(results / "report.json", numbers, indent=1)
    return text


class Ablated(NamedTuple):
    """The interquartile mean win rate of one change on a map, with its interval."""

    change: str
    seeds: int
    at_end: Estimate
    whole: Estimate
    """Of the mean of all evaluations."""


def report_ablations(ablations: Sequence[RunFolder], results: Path) -> list[str]:
    """Draw what was changed, on every map, to `results`; returns the text, nothing without runs."""
    found = {env_map: ablated(env_map, ablations) for env_map in plan.ABLATION_MAPS}
    maps = {env_map: changes for env_map, changes in found.items() if changes}
    if not maps:
        return []
    write_figure(results / f"{plan.ABLATIONS}.png", draw_ablations(maps))
    title = f"# One change at a time, at {plan.ABLATED:,} steps"
    picture = f"![{title.strip('# ')}: interquartile mean of the win rate]({plan.ABLATIONS}.png)"
    return [title, *(ablation_table(env_map, changes) for env_map, changes in maps.items()), picture]


def ablated(env_map: str, ablations: Sequence[RunFolder]) -> list[Ablated]:
    """What was changed on a map, in the plan's order."""
    runs = {run.folder.name.partition("-")[2]: run for run in ablations if run.base_task == env_map}
    found = []
    for change in (each for each in plan.CHANGES if each in runs):
        curves = np.array(list(runs[change].evaluations("win_rate").values()), float)  # (evaluations, seeds)
        at_end = interquartile_mean_interval([curves[-1]], runs[change].episodes)
        whole = interquartile_mean_interval([curves.mean(axis=0)])
        found.append(Ablated(change, curves.shape[1], at_end, whole))
    return found


def ablation_table(env_map: str, changes: Sequence[Ablated]) -> str:
    """Win rates at the end and over the whole run."""
    lines = [[env_map, "settings", "seeds", "at the end", "over the whole run"], ["---"] * 5]
    for each in changes:
        settings = f"`{' '.join(plan.CHANGES[each.change])}`" * bool(plan.CHANGES[each.change])
        scores = [show(estimate, True) for estimate in (each.at_end, each.whole)]
        lines.append([each.change.replace("_", " "), settings, str(each.seeds), *scores])
    return _markdown(lines)


def draw_ablations(maps: dict[str, list[Ablated]]) -> "Figure":
    """Interquartile means, a panel a map: a row for the end and one for the whole run."""
    blocks = []
    for title, field in (("at the end", "at_end"), ("over the whole run", "whole")):
        panels = [
            Panel(f"{env_map}: % wins, {title}", partial(_draw_changes, changes, field))
            for env_map, changes in maps.items()
        ]
        blocks.append(Block(panels))
    return draw_grid(blocks)


def _draw_changes(changes: Sequence[Ablated], field: str, axes: "Axes") -> None:
    """A bar for each change, and a line through the value without one."""
    estimates = {each.change: tuple(100 * x for x in getattr(each, field)) for each in changes}
    if "none" in estimates:
        axes.axvline(estimates["none"][0], color=FAINT, linewidth=0.8, linestyle="--")
    labels = [change.replace("_", " ") for change in estimates]
    draw_bars(axes, labels, [*estimates.values()], [FAINT if each == "none" else MAIN for each in estimates])


def table_of(runs: Sequence[RunFolder]) -> str:
    """How each run was made."""
    head = ["map", "algorithm", "seeds", "steps", "wall clock", "used", "energy from"]
    head += ["hardware", "versions", "commit", "command"]
    lines = [head, ["---"] * len(head), *(_cells(run) for run in runs)]
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def usage_of(run: RunFolder) -> Usage | None:
    """What a run used; None where it was made before that was noted."""
    found = [run.rows[-1].get(name) for name in Usage._fields]
    return None if None in found else Usage(*found)


def hardware_of(run: RunFolder) -> str:
    """The number and the kind of the devices that a run used."""
    made = read_manifest(run.folder)
    devices = made.get("devices") or {}
    kind = made.get("cpu", "?") if devices.get("platform") == "cpu" else devices.get("kind", "?")
    return f"{devices.get('count', '?')} x {kind}"


def total_usage(runs: Sequence[RunFolder]) -> str:
    """What all runs used that noted it."""
    known = [used for used in map(usage_of, runs) if used]
    left_out = f"; {len(runs) - len(known)} did not note it" * (len(known) < len(runs))
    return f"All runs together: {Usage().plus(known).describe()}{left_out}."


def _cells(run: RunFolder) -> list[str]:
    made, last, used = read_manifest(run.folder), run.rows[-1], usage_of(run)
    git, versions = made.get("git") or {}, made.get("versions") or {}
    return [
        run.base_task,
        run.algorithm,
        " ".join(map(str, run.seeds)),
        f"{last['env_steps']:,}",
        duration(last["wall_seconds"]),
        used.describe() if used else "?",
        str(made.get("energy", "?")),
        hardware_of(run),
        ", ".join(f"{name} {versions.get(name, '?')}" for name in PACKAGES),
        str(git.get("commit", "?"))[:10] + " and changes" * bool(git.get("dirty")),
        f"`{' '.join(made.get('command', ['?']))}`",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"the folder of the runs (default: {RUNS})")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to (default: results/ here)")
    parser.add_argument("--also", nargs="+", default=(), metavar="JOB", help="jobs that ended early too, as they are")
    options = parser.parse_args(arguments)
    compact(options.runs, options.out, options.also)
    print(report(options.out))
    return 0


if __name__ == "__main__":
    script.exit_with(main, __file__)
