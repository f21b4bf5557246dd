"""A bench against an earlier one: ratios, and figures that became worse beyond the spread of both."""

from pathlib import Path
from typing import NamedTuple

from qmix_jax.bench.report import show, table
from qmix_jax.files import read_json
from qmix_jax.settings import ConfigError, flatten, require

MARGINS = {0: 0.0, 1: 0.25}
"""Relative change that counts as noise, by the number of repeats: a counted figure has no noise, one that is measured
once (compiling, peak memory) has much."""
MARGIN = 0.05  # of repeated measurements: two processes differ by more than the repeats within one


class Change(NamedTuple):
    """A figure that both benches have."""

    name: str
    old: dict
    new: dict
    ratio: float
    verdict: str
    """worse, better, or '': within the noise, or neither good nor bad."""


def read(path: Path) -> dict:
    """The results in a bench.json; raises ConfigError where there are none."""
    require(path.is_file(), f"cannot read {path}: No such file")
    results = read_json(path)
    if not isinstance(results, dict) or "figures" not in results:
        raise ConfigError(f"{path} is no bench.json")
    return results


def is_more_better(name: str) -> bool | None:
    """Whether more of a figure is better, or less; None where neither is."""
    measure = name.rpartition("/")[2]
    if measure.endswith("_per_second"):
        return True
    return False if measure.endswith(("seconds", "bytes", "seconds_per_iteration", "flops_per_update")) else None


def compare(old: dict, new: dict) -> list[Change]:
    """Every figure that both have, in the new one's order."""
    changes = []
    for name, now in new["figures"].items():
        if before := old["figures"].get(name):
            ratio = now["median"] / before["median"] if before["median"] else float("nan")
            changes.append(Change(name, before, now, ratio, _verdict(name, before, now)))
    return changes


def _verdict(name: str, old: dict, new: dict) -> str:
    more_is_better = is_more_better(name)
    if more_is_better is None:
        return ""
    margin = 1 + MARGINS.get(min(old["repeats"], new["repeats"]), MARGIN)
    if new["low"] > old["high"] and new["median"] > old["median"] * margin:
        return "better" if more_is_better else "worse"
    if new["high"] < old["low"] and new["median"] * margin < old["median"]:
        return "worse" if more_is_better else "better"
    return ""


def markdown(old: dict, new: dict) -> str:
    """The table of ratios, what differs in the circumstances, and the regressions by name."""
    changes = compare(old, new)
    rows = [
        [name, show(name, before["median"]), show(name, now["median"]), f"{ratio:.2f}", verdict]
        for name, before, now, ratio, verdict in changes
    ]
    worse = [f"{change.name} ({change.ratio:.2f} times)" for change in changes if change.verdict == "worse"]
    verdict = f"Worse beyond the spread of both: {', '.join(worse)}." if worse else "No regression."
    parts = [
        f"## Against {old['title']} of {old['started']}",
        *_differences(old, new),
        table(["figure", "old", "new", "new/old", "verdict"], rows),
        verdict,
    ]
    return "\n\n".join(parts) + "\n"


def _differences(old: dict, new: dict) -> list[str]:
    """A line for each difference that makes the two hard to compare."""
    machine = [key for key in ("cpu", "cpu_cores", "devices") if old["machine"][key] != new["machine"][key]]
    lines = [f"Another machine ({', '.join(machine)} differ): only ratios within one bench mean something."] * bool(
        machine
    )
    if old["settings"] != new["settings"]:
        before, now = flatten(old["settings"]), flatten(new["settings"])
        names = [name for name in before | now if before.get(name) != now.get(name)]
        lines.append(f"Other settings: {', '.join(f'{x} {before.get(x)} -> {now.get(x)}' for x in names)}.")
    return lines
