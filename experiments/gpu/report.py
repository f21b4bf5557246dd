"""Tables and pictures of whatever measure.py has measured so far: OUT/report.md, speeds.png, learning.png."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean

from steps import TITLES

from qmix_jax.analysis.drawing import FAINT, INK, MAIN
from qmix_jax.bench.report import quantity, show, table
from qmix_jax.files import read_json, write_figure, write_file

LONGEST = 10
SIDES = "qmix_jax", "JaxMARL"
COLOURS = (MAIN, "#e2873b", "#4aa564")
USABLE = ("done", "cut off")


def write(out: Path) -> Path:
    """Write the report; returns its path."""
    steps = {step: read_step(out, step) for step in TITLES}
    everything = [each for found in steps.values() for each in found]
    parts = ["# Measured on a GPU", *machines(everything)]
    for step, found in steps.items():
        usable = [each for each in found if each["status"] in USABLE]
        if usable:
            parts += [f"## {step}. {TITLES[step]}", *TABLES[step](usable)]
    parts += missing(everything)
    parts += draw_speeds([each for each in steps[3] if each["status"] in USABLE], out / "speeds.png")
    parts += draw_learning([each for each in steps[5] if each["status"] in USABLE], out / "learning.png")
    path = out / "report.md"
    write_file(path, "\n\n".join(parts) + "\n")
    return path


def read_step(out: Path, step: int) -> list[dict]:
    """The files of a step, oldest first."""
    paths = sorted((out / f"step-{step}").glob("*.json"), key=lambda path: path.stat().st_mtime)
    found = [read_json(path) for path in paths]
    return [each for each in found if isinstance(each, dict) and "status" in each]


def machines(everything: list[dict]) -> list[str]:
    """Every card, with driver, versions and commit, once."""
    lines = []
    for each in everything:
        about = each["machine"]
        versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("jax", "jaxlib", "flax", "optax"))
        commit = (about["git"] or {}).get("commit") or "unknown"
        lines.append(
            f"{about['devices']['count']} x {about['devices']['kind']} ({about['driver'] or 'no NVIDIA driver'}), "
            f"{about['cpu']}, Python {about['python']}, {versions}, commit {commit[:10]}"
        )
    return ["  \n".join(dict.fromkeys(lines))] if lines else ["Nothing is measured yet."]


def missing(everything: list[dict]) -> list[str]:
    """What failed or was left out, and why."""
    rows = [
        [each["name"], each["status"], each.get("error") or each.get("reason", "")]
        for each in everything
        if each["status"] not in USABLE
    ]
    return ["## Not measured", plain_table(["what", "", "why"], rows)] if rows else []


def plain_table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of words."""
    cells = [[cell.replace("|", "/") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *cells])


# --- the steps' tables -------------------------------------------------------------------------------------------


def of_runs(found: list[dict]) -> list[str]:
    """Precision, kernels, tests."""
    precision, kernels, tests = [], [], []
    for each in found:
        name, result = each["name"], each["result"]
        for how, errors in result.get("errors", {}).items():
            precision.append([how, *(f"{errors[key]:.1e}" for key in ("product", "loss", "grad_norm"))])
        if "compiled" in result:
            traced = result.get("traced", {})
            seen = [f"{traced[key]:,.0f}" if traced else "" for key in ("kernels", "copies", "copies_to_host")]
            seen.append(f"{traced['kernel_ms']:.2f}" if "kernel_ms" in traced else "")
            compiled = result["compiled"]
            kernels.append([name, f"{compiled['kernels']:,.0f}", f"{compiled['waits']:,.0f}", *seen])
        if "passed" in result:
            tests.append([name, str(result["passed"]), str(result["skipped"]), ", ".join(result["failed"]) or "none"])
    parts = []
    if precision:
        heads = ["precision of float32 products", "error of a product", "of the loss", "of the gradient's norm"]
        parts += ["Relative errors against the CPU (a product: against float64):", table(heads, precision)]
    if kernels:
        heads = [
            "an iteration of",
            "kernels",
            "waits for the host",
            "traced: kernels",
            "copies",
            "of them to the host",
            "ms",
        ]
        parts += ["Compiled here, and (counted) for an H100 as gpu_kernels.py does:", table(heads, kernels)]
    if tests:
        parts += [plain_table(["tests", "passed", "skipped", "failed"], tests)]
    return parts


def of_benches(found: list[dict]) -> list[str]:
    """Speed, utilisation, shares, memory; then the longest kernels of each."""
    measures = {
        "steps/s": "training/env_steps_per_second",
        "updates/s": "learner/updates_per_second",
        "rollout": "share_of_training/rollout",
        "learner": "share_of_training/learner",
        "evaluation": "share_of_training/evaluation",
        "rest": "share_of_training/rest",
        "of a product's FLOP/s": "learner/share_of_matrix_product",
        "memory": "memory/peak_bytes",
    }
    rows, parts = [], []
    for each in found:
        figures, profile = each["result"]["figures"], each["result"]["profile"]
        shown = [show(measure, figures[measure]["median"]) for measure in measures.values()]
        rows.append([each["name"], *shown, f"{profile['busy']:.0%}"])
        longest = [
            [f"{item['name']}: {item['origin']}", f"{item['runs']:,}", f"{item['share']:.1%}"]
            for item in profile["operations"][:LONGEST]
        ]
        parts += [f"The longest kernels of {each['name']}:", table(["kernel", "runs", "share"], longest)]
    return [table(["run", *measures, "device busy"], rows), *parts]


def of_speeds(found: list[dict]) -> list[str]:
    """One line a measurement."""
    rows = []
    for each in found:
        result = each["result"]
        figure = result["env_steps_per_second"]
        spread = f"{quantity(figure['low'])} to {quantity(figure['high'])}"
        memory, compiling = show("peak_bytes", result["peak_bytes"]), f"{result['compile_seconds']:.1f}"
        rows.append([each["name"], quantity(figure["median"]), spread, compiling, memory])
    return [table(["run", "environment steps/s", "spread", "compile s", "peak memory"], rows)]


def of_comparisons(found: list[dict]) -> list[str]:
    """Both sides' speed, and both sides' time to a score."""
    speeds, scores = [], []
    for each in found:
        for comparison in each["result"]["comparisons"]:
            ours, peer = (comparison["runs"][side][0] for side in SIDES)
            if "steps_per_second" in ours:
                rates = ours["steps_per_second"], peer["steps_per_second"]
                compiling = [f"{side['compile_seconds']:.1f}" for side in (ours, peer)]
                speeds.append([each["name"], *map(quantity, rates), f"{rates[0] / rates[1]:.2f}", *compiling])
            else:
                scores.append([each["name"], str(comparison["goal"]), *map(score, (ours, peer))])
    parts = []
    if speeds:
        heads = ["case", *(f"{side} steps/s" for side in SIDES), "ratio", *(f"{side} compile s" for side in SIDES)]
        parts.append(table(heads, speeds))
    if scores:
        parts.append(table(["case", "goal", *SIDES], scores))
    return parts


def score(side: dict) -> str:
    """Seconds to the goal, or how far it came."""
    if side["reached"]:
        return f"{side['seconds']:.1f} s ({side['env_steps']:,} steps)"
    return f"not within {side['seconds']:.0f} s ({side['env_steps']:,} steps), best {side['best']}"


def of_learning(found: list[dict]) -> list[str]:
    """How far each run came, and where it stood then."""
    rows = []
    for each in found:
        curve = each["result"]["curve"]
        if curve:
            last = curve[-1]
            seconds = f"{last['wall_seconds']:.0f}"
            rows.append(
                [each["name"], f"{last['env_steps']:,}", str(len(scores_of(last))), seconds, f"{mean_of(last):.3g}"]
            )
    return [table(["run", "environment steps of a seed", "seeds", "seconds", "mean win rate or return"], rows)]


def scores_of(row: dict) -> list[float]:
    """Every seed's score at an evaluation."""
    return [value for value in row.get("eval/win_rate", row.get("eval/return", [])) if value is not None]


def mean_of(row: dict) -> float:
    """Over seeds; NaN where nothing is known."""
    return mean(scores_of(row) or [float("nan")])


TABLES: dict[int, Callable[[list[dict]], list[str]]] = {
    1: of_runs,
    2: of_benches,
    3: of_speeds,
    4: of_comparisons,
    5: of_learning,
}


# --- pictures ----------------------------------------------------------------------------------------------------


def draw_speeds(found: list[dict], path: Path) -> list[str]:
    """Steps/s against the number of seeds, environments and the width, as far as they were measured."""
    series: dict[str, list[tuple[float, float]]] = {}
    for each in found:
        name, _, size = each["name"].rpartition("-")
        if size.isdigit():
            series.setdefault(name, []).append((int(size), each["result"]["env_steps_per_second"]["median"]))
    lines = {name.replace("-", ", "): sorted(points) for name, points in series.items()}
    return draw(lines, path, "seeds, environments or hidden size", "environment steps/s, all seeds", log=True)


def draw_learning(found: list[dict], path: Path) -> list[str]:
    """The mean score against seconds."""
    lines = {each["name"]: [(row["wall_seconds"], mean_of(row)) for row in each["result"]["curve"]] for each in found}
    return draw(lines, path, "seconds, compiling included", "mean win rate or return", log=False)


def draw(lines: dict[str, list[tuple[float, float]]], path: Path, across: str, up: str, log: bool) -> list[str]:
    """A picture of lines, and the Markdown that shows it; nothing where there is no line."""
    from matplotlib.figure import Figure

    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return []
    figure = Figure(figsize=(8, 4.5), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(lines.items()):
        style = "--" if i >= len(COLOURS) else "-"
        axes.plot(*zip(*points, strict=True), style, marker="o", color=COLOURS[i % len(COLOURS)], label=name)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.grid(color=FAINT, alpha=0.2)
    axes.legend(frameon=False)
    write_figure(path, figure)
    return [f"![{up}]({path.name})"]
