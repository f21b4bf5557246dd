"""The best algorithm or setting of a comparison, and the command that trains it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qmix_jax.analysis.comparison import Comparison, Entry
from qmix_jax.analysis.grouping import Group, by_key, value_text
from qmix_jax.analysis.runs import TASKS, RunFolder
from qmix_jax.analysis.tables import show
from qmix_jax.records import is_share
from qmix_jax.settings import ConfigError
from qmix_jax.untrusted import read_yaml

MORE_IS_BETTER = ("win_rate", "return")
"""Of other metrics, the largest is not called the best."""


class Best(NamedTuple):
    """The best on a task, or on all tasks together."""

    text: str
    commands: list[str]


def best_of(comparison: Comparison, groups: Sequence[Group]) -> list[Best]:
    """For each task on which several were compared, and for all tasks together."""
    own = [group for group in groups if group.environment == comparison.environment]
    rankings = [*by_key(comparison.tasks, lambda entry: entry.task).values(), comparison.together]
    found = []
    for entries in rankings:
        if len(entries) > 1:
            ranked = sorted(entries, key=lambda entry: -entry.final.value)
            same = [group for group in own if group.algorithm == ranked[0].algorithm]
            of_task = [group for group in same if group.task == ranked[0].task]
            found.append(Best(_text(comparison, ranked), commands(of_task or same)))
    return found


def _text(comparison: Comparison, ranked: Sequence[Entry]) -> str:
    best, second = ranked[:2]
    percent = is_share(comparison.metric)
    word = "best" if comparison.metric in MORE_IS_BETTER else f"highest {comparison.metric_name}"
    texts = [f"{entry.algorithm}: {show(entry.final, percent)}" for entry in (best, second)]
    overlaps = best.final.low <= second.final.high
    doubt = " (their intervals overlap)" if overlaps else ""
    return f"{best.task}: {word}: {texts[0]}; the next: {texts[1]}{doubt}"


def commands(groups: Sequence[Group]) -> list[str]:
    """The command that trains these groups, which have the same algorithm; several where one cannot."""
    each = [overrides_of(group.runs[0], group) for group in groups]
    names = {tuple(line.partition("=")[0] for line in lines) for lines in each}
    if len(each) > 1 and len(names) == 1:
        values = [list(dict.fromkeys(line.partition("=")[2] for line in lines)) for lines in zip(*each, strict=True)]
        if sum(len(some) > 1 for some in values) == 1:  # more than one would be swept in every combination
            swept = [f"{name}={','.join(some)}" for name, some in zip(*names, values, strict=True)]
            return [shlex.join(["qmix-jax", "train", "-m", *swept])]
    return [shlex.join(["qmix-jax", "train", *lines]) for lines in each]


def overrides_of(run: RunFolder, group: Group) -> list[str]:
    """The overrides that the run was started with, but for its seed; where none are recorded, those of its parts and
    of the settings in which groups differ.
    """
    recorded = _recorded(run.folder)
    if recorded is not None:
        return [line for line in recorded if line.partition("=")[0].lstrip("+") != "seed"]
    names = ["env.name", *(f"env.{name}" for name in TASKS), "algorithm.name", "replay.capacity", *group.settings]
    is_said = {name: name != "replay.capacity" or run.settings.get(name) == 0 for name in names}
    is_said |= dict.fromkeys(group.settings, True)
    return [
        f"{name.removesuffix('.name')}={value_text(run.settings[name])}"
        for name, said in is_said.items()
        if said and run.settings.get(name) is not None
    ]


def _recorded(folder: Path) -> list[str] | None:
    """What Hydra recorded; None if nothing, or the file is damaged."""
    try:
        lines = read_yaml(folder / ".hydra" / "overrides.yaml")
    except ConfigError:
        return None
    return lines if isinstance(lines, list) and all(isinstance(line, str) for line in lines) else None
