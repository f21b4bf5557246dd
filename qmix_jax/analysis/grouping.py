"""Groups of runs that differ only in their seeds, named by the settings in which they differ from the others."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qmix_jax.analysis.runs import RunFolder, natural
from qmix_jax.console import warn
from qmix_jax.import_path import MADE_IN_PYTHON
from qmix_jax.settings import require, shown

NO_DIFFERENCE = frozenset(
    ("seed", "num_seeds", "num_seeds_at_once", "devices", "checkpoint", "logging", "callbacks", "import_folders")
)
"""Settings (or sections) in which runs of one group may differ."""
COMMON = ("env.name", "env.starts_per_rollout", "env.shield", "agent.name")
"""Settings of a part that are not its own."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Group:
    """Runs of one algorithm on one task that differ only in their seeds."""

    environment: str
    task: str
    algorithm: str
    """Its name: the method and the settings in which groups differ; without the method if all groups have the same."""
    method: str
    """The algorithm without settings."""
    settings: dict[str, Any]
    """Those in which groups differ, by dotted name; those of the environment are part of the task."""
    runs: tuple[RunFolder, ...]

    @property
    def seeds(self) -> list[int]:
        """All seeds, run by run."""
        return [seed for run in self.runs for seed in run.seeds]

    @property
    def episodes(self) -> int | None:
        """The number of episodes of all seeds in one evaluation; None if the settings of a run do not name it."""
        counts = [run.episodes for run in self.runs]
        return sum(filter(None, counts)) if all(counts) else None

    @cached_property
    def env_steps(self) -> list[int]:
        """The steps at which every run was evaluated."""
        return sorted(set.intersection(*({row["env_steps"] for row in run.rows} for run in self.runs)))

    def evaluated(self, env_step: int) -> int:
        """The step of the last evaluation up to that one."""
        return max(step for step in self.env_steps if step <= env_step)

    def seconds(self, env_step: int) -> float:
        """From the start of a run to its last evaluation up to that step, with all its seeds: the mean over runs."""
        return float(np.mean([run.seconds()[self.evaluated(env_step)] for run in self.runs]))

    def scores(self, metric: str, env_steps: Sequence[int]) -> np.ndarray:
        """The metric (seeds, len(env_steps)) at the last evaluation up to each step; raises ConfigError if a value is
        missing.
        """
        found = [run.evaluations(metric) for run in self.runs]
        values = np.array([[x for each in found for x in each[self.evaluated(step)]] for step in env_steps], float).T
        require(
            bool(np.isfinite(values).all()), f"{self.runs[0].folder}: no eval/{metric} at some step; leave the run out"
        )
        return values


def group_runs(runs: Sequence[RunFolder]) -> list[Group]:
    """Runs by environment, task, algorithm and differing settings, in order of these: environments, tasks and
    algorithms as they first occur, settings by their values.

    Raises ConfigError if a group has a seed twice.
    """
    groups = [
        group
        for environment, alike in by_key(runs, lambda run: run.environment).items()
        for group in _groups_of(environment, alike)
    ]
    for group in groups:
        _refuse_repeated_seeds(group)
        _warn_of_unknown_settings(group)
    return groups


def _groups_of(environment: str, runs: Sequence[RunFolder]) -> list[Group]:
    """The groups of one environment.

    A setting of the environment is part of a task's name if runs on this base task differ in it. Another setting is
    part of a group's name if runs of its method differ in it on any task: it has the same name on every task.
    """
    tasks = {base: _differing(on_base, is_of_task) for base, on_base in by_key(runs, lambda run: run.base_task).items()}
    methods: dict[str, list[str]] = {}
    for (_, _, method), alike in by_key(
        runs, lambda run: (run.base_task, _order(run, tasks[run.base_task]), run.algorithm)
    ).items():
        methods.setdefault(method, []).extend(_differing(alike, lambda key: not is_of_task(key)))
    methods = {method: list(dict.fromkeys(keys)) for method, keys in methods.items()}
    texts = _setting_texts(runs, dict.fromkeys(key for keys in [*tasks.values(), *methods.values()] for key in keys))
    bases, algorithms = list(tasks), list(methods)

    def place(run: RunFolder) -> tuple:
        base, method = run.base_task, run.algorithm
        return bases.index(base), _order(run, tasks[base]), algorithms.index(method), _order(run, methods[method])

    groups = []
    for _, members in sorted(by_key(runs, place).items()):
        base, method = members[0].base_task, members[0].algorithm
        of_task, of_method = _values(members[0], tasks[base]), _values(members[0], methods[method])
        title = [] if of_method and len(methods) == 1 else [method]
        label = " ".join([*title, *(texts[key, value_text(value)] for key, value in of_method.items())])
        task = " ".join([base, *(texts[key, value_text(value)] for key, value in of_task.items())])
        groups.append(Group(environment, task, label, method, of_task | of_method, tuple(members)))
    return groups


def by_key(items: Iterable[Item], key: Callable[[Item], Any]) -> dict[Any, list[Item]]:
    """Items by a key, in the order of its first occurrence."""
    found: dict[Any, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def is_of_task(name: str) -> bool:
    """Whether a setting is one of the environment, and so of the task."""
    return name.startswith("env.")


def _differing(runs: Sequence[RunFolder], counts: Callable[[str], bool]) -> list[str]:
    """The settings, among those for which `counts` is true, in which the runs differ; without those that only some
    choices of a part have, such as agent.heads of agent=transformer, where the part's name tells them already.
    """
    names = dict.fromkeys(key for run in runs for key in run.settings if counts(key))
    keys = [key for key in names if key.split(".")[0] not in NO_DIFFERENCE]
    differing = [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]

    def is_told(key: str) -> bool:
        part = f"{key.split('.')[0]}.name"
        alike = by_key(runs, lambda run: run.settings.get(part)).values()
        is_own = part in differing and key != part and any(key not in run.settings for run in runs)
        return is_own and all(run.settings.get(key) == some[0].settings.get(key) for some in alike for run in some)

    return [key for key in differing if not is_told(key)]


# --- names and order ---------------------------------------------------------------------------------------------


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted name, or the whole name where others end alike; `agent` for agent.name."""
    last = {key: key.removesuffix(".name").rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return {key: name if count[name] == 1 else key.removesuffix(".name") for key, name in last.items()}


def value_text(value: Any) -> str:
    """A setting's value as on the command line, a count such as 5e6 in digits."""
    is_count = isinstance(value, float) and abs(value) >= 1000 and value.is_integer()
    return shown(value) if value is None or isinstance(value, bool) else str(int(value) if is_count else value)


def value_labels(values: Sequence[Any]) -> list[str]:
    """Values as texts, of long floats only six digits if that keeps all values apart."""
    exact = [value_text(value) for value in values]
    short = [
        f"{v:.6g}" if isinstance(v, float) and len(text) > 8 else text for v, text in zip(values, exact, strict=True)
    ]
    return short if len(set(short)) == len(set(exact)) else exact


def value_order(value: Any) -> tuple:
    """A key that sorts values: null, numbers, then texts, in which numbers count as numbers too."""
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return (1, value)
    return (2, natural(str(value)))


def _values(run: RunFolder, keys: Iterable[str]) -> dict[str, Any]:
    return {key: run.settings[key] for key in keys if key in run.settings}


def _order(run: RunFolder, keys: Iterable[str]) -> tuple:
    """Equal for runs that have the same values; a missing value comes first."""
    return tuple((key in run.settings, value_order(run.settings.get(key))) for key in keys)


def _setting_texts(runs: Sequence[RunFolder], keys: Iterable[str]) -> dict[tuple[str, str], str]:
    """`gamma=0.9` by the setting's whole name and its value's whole text."""
    texts = {}
    for key, name in short_names(keys).items():
        values = [run.settings[key] for run in runs if key in run.settings]
        for value, label in zip(values, value_labels(values), strict=True):
            texts[key, value_text(value)] = f"{name}={label}"
    return texts


def _warn_of_unknown_settings(group: Group) -> None:
    """Runs with objects of which no settings are recorded may differ in them."""
    first, *others = group.runs
    for part in ("env", "agent"):
        name = str(first.settings.get(f"{part}.name"))
        known = [key for key in first.settings if key.startswith(f"{part}.") and key not in COMMON]
        if others and name.endswith(MADE_IN_PYTHON) and not known:
            folders = ", ".join(str(run.folder) for run in group.runs)
            warn(f"{folders} count as seeds of one algorithm, but the settings of {part}={name} are not recorded")


def _refuse_repeated_seeds(group: Group) -> None:
    owners: dict[int, Path] = {}
    for run in group.runs:
        for seed in run.seeds:
            both = f"{owners.get(seed)} and {run.folder} both hold seed {seed} of the same algorithm and settings"
            require(seed not in owners, f"{both}; leave one out")
            owners[seed] = run.folder
