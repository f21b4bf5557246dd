"""The settings of a search. Imports no Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qmix_jax.settings import Count, Steps, check_ranges, require, shown

NAME = "optuna"
"""The choice of `hydra/sweeper`."""
PREFIX = "hydra.sweeper."


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search, `hydra.sweeper.NAME`."""

    trials: Count = 50
    """Trials in all, those of earlier starts and those that failed included."""
    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    """How the settings of a trial are chosen; grid: every combination."""
    pruner: Literal["none", "median", "halving", "hyperband"] = "none"
    """Which trials are stopped early, by their scores so far."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether a large score is good or a small one."""
    metric: str | None = None
    """The score, eval/NAME or train/NAME; null: checkpoint.metric."""
    seeds: Literal["mean", "iqm"] = "mean"
    """How the scores of num_seeds seeds become one: their mean, or their interquartile mean."""
    sampler_seed: Steps = 0
    """The seed of the sampler."""
    startup_trials: Count = 10
    """Trials with random settings before the first that follow from earlier ones; the median pruner waits as long."""
    at_once: Count | None = None
    """Trials at once; null: as many as the launcher runs, and 8 where it has no limit."""
    study: str = "search"
    """The name of the study in its storage."""
    storage: str | None = None
    """Optuna's storage: a file, or an address such as sqlite:///trials.db; null: optuna.journal in hydra.sweep.dir."""
    warm_start: str | None = None
    """The folder or the storage of an earlier search, whose trials the sampler knows."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Settings and their values or ranges, as on the command line."""

    def __post_init__(self):
        check_ranges(PREFIX, self)
        is_known = self.metric is None or self.metric.startswith(("eval/", "train/"))
        require(is_known, f"{PREFIX}metric={shown(self.metric)} must be eval/NAME or train/NAME")
