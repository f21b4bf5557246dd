"""What is called while a run trains (the contract of callbacks), and rows as named series of numbers."""

from pathlib import Path
from typing import Any, NamedTuple

from qmix_jax.records import count_episodes, known
from qmix_jax.statistics import seeds_interval


class RunStart(NamedTuple):
    """A run that is about to train."""

    title: str
    """Algorithm and environment."""
    folder: Path
    settings: dict[str, Any]
    """As plain containers, nested as in config.yaml."""
    rows: list[dict]
    """Those of a resumed run so far."""


class RunEnd(NamedTuple):
    """How a run ended."""

    status: int
    """The exit status (docs/resume.md); 0: all is trained, or a callback stopped it."""
    curve: Path | None
    """The learning curve (PNG), where there is one."""
    film: Path | None
    """The film (GIF), where there is one."""


STOP = "stop"


class Callback:
    """Called on the host while a run trains, between its compiled chunks. Derive from it, and override what you need.

    An exception is a warning, after which this callback is not called again; training continues.
    """

    def on_start(self, start: RunStart) -> None:
        """Before the program is compiled."""

    def on_evaluation(self, row: dict) -> str | None:
        """After every chunk, with its row of metrics.jsonl (docs/run-folder.md).

        Returns:
            "stop" to end the run here, with everything saved.
        """

    def on_checkpoint(self, path: Path) -> None:
        """After a checkpoint was written to the folder `path`."""

    def on_end(self, end: RunEnd) -> None:
        """After training, when all files are written."""

    def close(self) -> None:
        """Release everything; no call follows."""


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
