"""The Markdown report of a bench.

`results` is the content of bench.json: title, started, seconds, load, machine, program, settings, figures, growth, and
profile where a trace was made.
"""

from collections.abc import Sequence

PARTS = (
    "training",
    "training_without_evaluation",
    "rollout",
    "environment",
    "learner",
    "matrix_product",
    "evaluation",
    "memory",
)
SHARES = ("rollout", "learner", "evaluation", "rest")
AXES = {
    "num_envs": "environments",
    "num_seeds": "seeds",
    "agents": "agents",
    "hidden_size": "hidden size",
    "num_steps": "sequence length",
}
"""The name of each axis of growth."""
IDLE_LOAD = 0.25  # of each core, on average over the minute before


# --- numbers -------------------------------------------------------------------------------------------------------


def quantity(value: float) -> str:
    """Three digits with M, G or T from ten million on; whole numbers from 100 on."""
    for least, unit, letter in ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e7, 1e6, "M")):
        if value >= least:
            return f"{value / unit:.3g} {letter}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    """Seconds, or milliseconds below one."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def show(name: str, value: float) -> str:
    """A figure's value in the unit that its name implies."""
    measure = name.rpartition("/")[2]
    if "share_of" in name:
        return f"{value:.1%}"
    if measure.endswith("bytes"):
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    if measure in ("seconds", "compile_seconds", "seconds_per_iteration"):
        return seconds(value)
    return f"{value:.2f}" if measure == "slope" else quantity(value)


def plain_name(name: str) -> str:
    """`env_steps_per_second` as `env steps/s`."""
    return name.replace("_per_second", "/s").replace("_", " ").replace("flops", "FLOP").replace("limit ", "limit, ")


# --- tables --------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, also aligned as plain text: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        return " | ".join([f"| {first.strip():<{widths[0]}}", *others]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def markdown(results: dict) -> str:
    """The whole report."""
    parts = [
        f"# Benchmark: {results['title']}",
        _circumstances(results),
        _speeds(results["figures"]),
        "Where the time of training goes, and how far it is from what bounds it:",
        _shares(results["figures"]),
    ]
    if results["growth"]:
        parts += [
            "How the cost of a training iteration grows, one setting enlarged at a time (slope 1: in proportion):",
            _growth(results),
        ]
    if profile := results.get("profile"):
        parts += [
            f"In the trace devices compute {profile['busy']:.0%} of the time. The longest operations (tracing makes "
            "short ones longer):",
            _operations(profile),
        ]
    return "\n\n".join(parts) + "\n"


def _circumstances(results: dict) -> str:
    """The program, the machine, and a warning where the machine was busy."""
    machine, versions = results["machine"], results["machine"]["versions"]
    devices = machine["devices"]
    commit = (machine["git"] or {}).get("commit", "")[:10]
    lines = [
        results["program"],
        f"{devices['count']} x {devices['kind']}, {machine['cpu']} ({machine['cpu_cores']} cores), "
        f"jax {versions['jax']}, Python {machine['python']}{', commit ' + commit if commit else ''}, "
        f"{results['started']}, {results['seconds']:.0f} s",
    ]
    if results["load"] > IDLE_LOAD * machine["cpu_cores"]:
        lines.append(
            f"**Other work was running** (load {results['load']:.1f} before the start, {machine['cpu_cores']} cores): "
            "the figures are unreliable."
        )
    return "  \n".join(lines)


def _speeds(figures: dict[str, dict]) -> str:
    rows = []
    for part in PARTS:
        compiled = figures.get(f"{part}/compile_seconds")
        compiling = seconds(compiled["median"]) if compiled else ""
        for name, figure in figures.items():
            if name.startswith(f"{part}/") and not name.endswith("compile_seconds") and "share_of" not in name:
                measure = plain_name(name.removeprefix(f"{part}/"))
                rows.append([plain_name(part), measure, show(name, figure["median"]), spread(name, figure), compiling])
                compiling = ""  # in the first row only
    return table(["part", "measure", "median", "spread", "compiling"], rows)


def spread(name: str, figure: dict) -> str:
    """The lowest and the highest repeat; empty where there was only one."""
    if figure["repeats"] < 2:
        return ""
    return f"{show(name, figure['low'])} to {show(name, figure['high'])}"


def _shares(figures: dict[str, dict]) -> str:
    rows = [[f"{share}, of training's time", f"share_of_training/{share}"] for share in SHARES]
    rows += [
        ["training, of environment-only steps/s", "training/share_of_environment"],
        ["training, of the learner's arithmetic limit", "training/share_of_learner_limit"],
        ["learner, of a matrix product's FLOP/s", "learner/share_of_matrix_product"],
    ]
    return table(["what", "share"], [[text, show(name, figures[name]["median"])] for text, name in rows])


def _operations(profile: dict) -> str:
    rows = [
        [f"{each['name']}: {each['origin']}", f"{each['runs']:,}", seconds(each["seconds"]), f"{each['share']:.1%}"]
        for each in profile["operations"]
    ]
    return table(["operation", "runs", "together", "share"], rows)


def label_of(point: dict) -> str:
    """A point of growth: its size, and its name where that differs."""
    return point["label"] if point["label"] == str(point["size"]) else f"{point['size']} ({point['label']})"


def _growth(results: dict) -> str:
    figures, rows = results["figures"], []
    for axis, points in results["growth"].items():
        slope = figures.get(f"{axis}/slope")
        for point in points:
            name = f"{axis}={point['label']}/seconds_per_iteration"
            figure = figures[name]
            speed = quantity(point["env_steps"] / figure["median"])
            exponent = show("slope", slope["median"]) if slope and point is points[-1] else ""
            rows.append(
                [f"{AXES[axis]} {label_of(point)}", show(name, figure["median"]), spread(name, figure), speed, exponent]
            )
    return table(["enlarged", "iteration", "spread", "env steps/s", "slope"], rows)
