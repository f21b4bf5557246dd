"""Copies what is finished, compacted, to results/, and writes its tables and figures there.

python experiments/suite/report.py                # from runs/suite
python experiments/suite/report.py --runs DIR     # from another folder

Only results/ is needed to write them again. Of a run it keeps config.yaml, run.json and the evaluations.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import plan
import script
from run import RUNS, is_finished

from qmix_jax.analysis.comparison import compare
from qmix_jax.analysis.figure import draw_against_time, draw_comparisons
from qmix_jax.analysis.grouping import group_runs
from qmix_jax.analysis.report import to_markdown
from qmix_jax.analysis.runs import RunFolder, read_runs
from qmix_jax.analysis.tables import show
from qmix_jax.console import duration, warn
from qmix_jax.files import write_figure, write_file, write_json
from qmix_jax.records import format_rows, read_manifest, read_metrics
from qmix_jax.run.metrics import SUMS
from qmix_jax.run.usage import Usage
from qmix_jax.statistics import interquartile_mean_interval

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


def sections(runs: Sequence[RunFolder]) -> Iterator[tuple[str, str, list[RunFolder]]]:
    """The name, the title and the runs of everything that is compared; nothing without runs."""
    nine = [run for run in runs if run.base_task in plan.NINE]
    methods = [run.until(plan.SHORT) for run in nine]
    several = len({run.algorithm for run in nine}) > 1
    yield "nine", "QMIX on nine maps", [run for run in nine if run.algorithm == "qmix"]
    yield "others", "QMIX on random armies and large maps", [run for run in runs if run not in nine]
    yield "methods", f"Methods on nine maps, at {plan.SHORT:,} steps", methods if several else []


def report(results: Path) -> str:
    """Write report.md, report.json and the figures of every section to `results`; returns the text."""
    found, left_out = read_runs([results])
    ablations = [run for run in found if run.folder.parent.name == plan.ABLATIONS]
    runs = [run for run in found if run not in ablations]
    parts, numbers = ["# SMAX, all maps", f"Written by `python {Path(*Path(__file__).parts[-3:])}`."], {}
    for name, title, members in sections(runs):
        if not members:
            continue
        comparisons = compare(group_runs(members))
        write_figure(results / f"{name}.png", draw_comparisons(comparisons))
        write_figure(results / f"{name}_hours.png", draw_against_time(comparisons))
        numbers[name] = [asdict(each) for each in comparisons]
        pictures = [f"![{title}: against steps, and at the end]({name}.png)", f"![against hours]({name}_hours.png)"]
        parts += [f"# {title}", to_markdown(comparisons).strip(), *pictures]
    for each in left_out:
        warn(f"left out: {each}")
    if ablations:
        title = f"# One change at a time, at {plan.ABLATED:,} steps"
        parts += [title, *filter(None, (ablation_table(each, ablations) for each in plan.ABLATION_MAPS))]
    parts += ["# Runs", table_of(found), total_usage(found), *[f"Left out: {each}" for each in left_out]]
    text = "\n\n".join(parts) + "\n"
    write_file(results / "report.md", text)
    write_json(results / "report.json", numbers, indent=1)
    return text


def ablation_table(env_map: str, ablations: Sequence[RunFolder]) -> str:
    """Win rates on a map of the changes that were trained, at the end and the mean of all evaluations; '' without."""
    runs = {run.folder.name.partition("-")[2]: run for run in ablations if run.base_task == env_map}
    lines = [[env_map, "settings", "seeds", "at the end", "over the whole run"], ["---"] * 5]
    for change in (each for each in plan.CHANGES if each in runs):
        curves = np.array(list(runs[change].evaluations("win_rate").values()), float)  # (evaluations, seeds)
        at_end = interquartile_mean_interval([curves[-1]], runs[change].episodes)
        whole = interquartile_mean_interval([curves.mean(axis=0)])
        settings = f"`{' '.join(plan.CHANGES[change])}`" * bool(plan.CHANGES[change])
        name = change.replace("_", " ")
        lines.append([name, settings, str(curves.shape[1]), show(at_end, True), show(whole, True)])
    return _markdown(lines) if runs else ""


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


def total_usage(runs: Sequence[RunFolder]) -> str:
    """What all runs used that noted it."""
    known = [used for used in map(usage_of, runs) if used]
    left_out = f"; {len(runs) - len(known)} did not note it" * (len(known) < len(runs))
    return f"All runs together: {Usage().plus(known).describe()}{left_out}."


def _cells(run: RunFolder) -> list[str]:
    made, last, used = read_manifest(run.folder), run.rows[-1], usage_of(run)
    devices, git = made.get("devices") or {}, made.get("git") or {}
    kind = made.get("cpu", "?") if devices.get("platform") == "cpu" else devices.get("kind", "?")
    versions = made.get("versions") or {}
    return [
        run.base_task,
        run.algorithm,
        " ".join(map(str, run.seeds)),
        f"{last['env_steps']:,}",
        duration(last["wall_seconds"]),
        used.describe() if used else "?",
        str(made.get("energy", "?")),
        f"{devices.get('count', '?')} x {kind}",
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
