"""What reporters are, and rows as named series of numbers."""

from pathlib import Path
from typing import Protocol

from qmix_jax.records import count_episodes, known
from qmix_jax.statistics import seeds_interval


class Reporter(Protocol):
    """Receives the row of every evaluation."""

    def log(self, row: dict) -> None:
        """Take one row."""
        ...

    def close(self) -> None:
        """Release everything; no call follows."""
        ...


class Dashboard(Reporter, Protocol):
    """A reporter that takes pictures and checkpoints too."""

    def media(self, curve: Path | None, film: Path | None) -> None:
        """Take the learning curve (PNG) and the film (GIF), as far as they exist."""
        ...

    def checkpoint(self, path: Path) -> None:
        """Take a checkpoint that was just written."""
        ...


def lines(row: dict) -> dict[str, dict[str, float]]:
    """The numbers of a row by line and metric.

    The lines are `mean` and, of several seeds, `low` and `high` (the 95 % interval of the mean, see
    `statistics.mean_over_seeds`) and `seed_0`, `seed_1`, ...
    """
    found: dict[str, dict[str, float]] = {"mean": {}}
    for name, value in row.items():
        summary = seeds_interval(known(value), count_episodes(row, name))
        if name == "env_steps" or summary is None:
            continue
        found["mean"][name] = summary.value
        if isinstance(value, list) and len(value) > 1:
            edges = {"low": summary.low, "high": summary.high}
            seeds = {f"seed_{i}": numbers[0] for i, each in enumerate(value) if (numbers := known(each))}
            for line, number in {**edges, **seeds}.items():
                found.setdefault(line, {})[name] = number
    return found


def flatten(row: dict) -> dict[str, float]:
    """The numbers of a row by name: of several seeds the mean as NAME, also NAME/low, NAME/high, seed_0/NAME, ..."""
    flat: dict[str, float] = {}
    for line, numbers in lines(row).items():
        for name, number in numbers.items():
            place = {"mean": name, "low": f"{name}/low", "high": f"{name}/high"}.get(line, f"{line}/{name}")
            flat[place] = number
    return flat | {"env_steps": row["env_steps"]}


def of_seed(row: dict, index: int) -> dict:
    """The row of one of several seeds."""
    return {name: value[index] if isinstance(value, list) else value for name, value in row.items()}
