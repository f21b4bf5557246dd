"""The trials of a search: Optuna's study, with its samplers and pruners by name, kept on disk."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna import pruners, samplers
from optuna.distributions import check_distribution_compatibility
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from qmix_jax.console import reason
from qmix_jax.settings import ConfigError, require
from qmix_jax.sweep.search.settings import PREFIX, SearchSettings
from qmix_jax.sweep.search.space import Space

JOURNAL = "optuna.journal"
SCORE, SHARED, EARLIER = "score", "shared", "earlier"
"""Attributes of a study: how it is scored, the overrides of all trials, the number of trials of an earlier search."""
FOLDER, PRUNED, ERROR = "folder", "pruned", "error"
"""Attributes of a trial: its folder, that it is to end early, why it failed."""
FEWEST = 4
"""Complete trials below which no importance is estimated."""
_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Trial(NamedTuple):
    """A trial of this search."""

    number: int
    """Counted from 0; the number of its job."""
    values: Mapping[str, Any]
    """By name of the setting, as the distributions have them."""
    state: TrialState
    score: float | None
    """Of a complete trial."""
    folder: str = ""
    """In that of the sweep; '' where it had none."""
    error: str = ""
    is_to_end: bool = False
    """Whether the pruner has decided to end it."""


class Study:
    """Optuna's study of a search, which goes on where it is in the storage already.

    Args:
        folder: that of the sweep.
        scored: how a trial is scored, in words; equal for all trials, those of an earlier search included.
        shared: the overrides of all trials.
        first_step: the environment step of a trial's first evaluation.
        last_step: that of its last.

    Raises:
        ConfigError: the storage cannot be used, or holds a search that differs in more than the ends of its ranges.
    """

    def __init__(
        self,
        folder: Path,
        settings: SearchSettings,
        space: Space,
        scored: str,
        shared: Sequence[str],
        first_step: int,
        last_step: int,
    ):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._settings, self.space = settings, space
        self._storage = _storage(settings.storage or str(folder / JOURNAL))
        self.optuna = optuna.create_study(
            storage=self._storage,
            study_name=settings.study,
            direction=settings.direction,
            pruner=_pruner(settings, first_step, last_step),
            load_if_exists=True,
        )
        self._begin(scored, list(shared))
        self._trials: dict[int, optuna.Trial] = {}

    def _begin(self, scored: str, shared: list[str]) -> None:
        """Note what the study is of, or look whether that is the same as before."""
        known = self.optuna.user_attrs
        if EARLIER in known:
            self._require_same(scored, shared)
            return
        self.optuna.set_user_attr(SCORE, scored)
        self.optuna.set_user_attr(SHARED, shared)
        earlier = _earlier_trials(self._settings.warm_start, scored, self.space) if self._settings.warm_start else []
        self.optuna.add_trials(earlier)
        self.optuna.set_user_attr(EARLIER, len(self.optuna.trials))

    def _require_same(self, scored: str, shared: list[str]) -> None:
        known, way_out = self.optuna.user_attrs, "repeat its line, or name another folder, hydra.sweep.dir=FOLDER"
        require(known[SCORE] == scored, f"the search here has the score {known[SCORE]}, not {scored}: {way_out}")
        others = sorted(set(known[SHARED]) ^ set(shared))
        require(not others, f"the search here differs in {' '.join(others)}: {way_out}")
        for trial in self._frozen():
            for name in self.space.distributions.keys() & trial.distributions.keys():
                try:
                    check_distribution_compatibility(trial.distributions[name], self.space.distributions[name])
                except ValueError as error:
                    text = "a list cannot change, nor can a range become another kind; only the ends of ranges can"
                    raise ConfigError(f"the search here has other values of {name} ({text}): {way_out}") from error

    # --- trials ----------------------------------------------------------------------------------------------------

    @property
    def num_earlier(self) -> int:
        """The number of trials that come from an earlier search."""
        return self.optuna.user_attrs[EARLIER]

    @property
    def trials(self) -> list[Trial]:
        """Those of this search, in order; without any that a crash kept from having all its values."""
        return [
            Trial(
                trial.number - self.num_earlier,
                trial.params,
                trial.state,
                trial.value if trial.state == TrialState.COMPLETE else None,
                str(trial.user_attrs.get(FOLDER, "")),
                str(trial.user_attrs.get(ERROR, "")),
                PRUNED in trial.user_attrs,
            )
            for trial in self._frozen()
            if trial.params.keys() >= self.space.distributions.keys() or trial.state in _OVER
        ]

    @property
    def ranking(self) -> list[Trial]:
        """The complete trials, the best first."""
        sign = -1 if self._settings.direction == "maximize" else 1
        scored = [(trial.score, trial) for trial in self.trials if trial.score is not None]
        return [trial for _, trial in sorted(scored, key=lambda pair: sign * pair[0])]

    @property
    def best(self) -> Trial | None:
        """The best complete trial."""
        return next(iter(self.ranking), None)

    def importance(self) -> dict[str, float]:
        """How much each setting matters for a high rank, with the sum 1; raises ConfigError where that is not known."""
        require(len(self.space.parameters) > 1, "there is one parameter alone")
        require(len(self.ranking) >= FEWEST, f"fewer than {FEWEST} trials are complete")
        require(len({trial.score for trial in self.ranking}) > 1, "all trials have the same score")
        try:
            with warnings.catch_warnings(action="ignore"):
                return get_param_importances(self.optuna, evaluator=PedAnovaImportanceEvaluator())
        except (ValueError, RuntimeError) as error:
            raise ConfigError(reason(error)) from error

    @property
    def most_trials(self) -> int:
        """The number of trials that the search has in all."""
        return min(self._settings.trials, len(self._grid)) if self._grid else self._settings.trials

    def ask(self) -> Trial:
        """A new trial. Its values depend on the trials before it and its number alone, not on when the search began."""
        number = len(self.optuna.trials) - self.num_earlier
        self.optuna.sampler = self._sampler(number)
        with warnings.catch_warnings(action="ignore"):
            trial = self.optuna.ask(self.space.distributions)
        self._trials[number] = trial
        return Trial(number, trial.params, TrialState.RUNNING, None)

    def begin(self, number: int, folder: str) -> None:
        """Note the folder of a trial."""
        self._trial(number).set_user_attr(FOLDER, folder)

    def report(self, number: int, scores: Sequence[tuple[int, float]]) -> bool:
        """Tell the trial's scores by environment step, those told before included; returns whether it is to end."""
        trial = self._trial(number)
        known = trial.storage.get_trial(trial._trial_id).intermediate_values
        new = [(step, score) for step, score in scores if step not in known]
        for step, score in new:
            trial.report(score, step)
        is_to_end = bool(new) and trial.should_prune()
        if is_to_end:
            trial.set_user_attr(PRUNED, True)
        return is_to_end

    def is_to_end(self, number: int) -> bool:
        """Whether the pruner has decided to end a trial."""
        return PRUNED in self._trial(number).user_attrs

    def tell(self, number: int, score: float | None, error: str = "") -> None:
        """End a trial: with its score, as failed where there is an error, or else as pruned."""
        trial = self._trial(number)
        if error:
            trial.set_user_attr(ERROR, error)
            self.optuna.tell(trial, state=TrialState.FAIL)
        elif score is None:
            self.optuna.tell(trial, state=TrialState.PRUNED)
        else:
            self.optuna.tell(trial, score)

    def _frozen(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)[self.num_earlier :]

    def _trial(self, number: int) -> optuna.Trial:
        if number not in self._trials:
            self._trials[number] = optuna.Trial(self.optuna, self._frozen()[number]._trial_id)
        return self._trials[number]

    # --- by name ---------------------------------------------------------------------------------------------------

    @cached_property
    def _grid(self) -> list[dict[str, Any]]:
        return self.space.grid if self._settings.sampler == "grid" else []

    def _sampler(self, number: int) -> samplers.BaseSampler:
        """The sampler of a trial, with a seed of its own: a search that goes on draws no number twice."""
        seed = int(np.random.SeedSequence((self._settings.sampler_seed, number)).generate_state(1)[0])
        startup = self._settings.startup_trials
        match self._settings.sampler:
            case "grid":
                values = self._grid[number % len(self._grid)]
                return samplers.PartialFixedSampler(values, samplers.RandomSampler(seed))
            case "random":
                return samplers.RandomSampler(seed)
            case "gp":
                return samplers.GPSampler(seed=seed, n_startup_trials=startup)
            case "cmaes":
                return samplers.CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        return samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)


def require_possible(settings: SearchSettings, space: Space) -> None:
    """Raise ConfigError where there is nothing to search, or the sampler cannot do it here."""
    require(bool(space.parameters), "this search has no parameter: give a setting a range, NAME=interval(LOW,HIGH)")
    name = settings.sampler
    package = {"gp": "torch", "cmaes": "cmaes"}.get(name)
    is_there = package is None or find_spec(package) is not None
    require(is_there, f"{PREFIX}sampler={name} needs {package}: pip install {package}")
    if name == "grid":
        _ = space.grid


def _pruner(settings: SearchSettings, first_step: int, last_step: int) -> pruners.BasePruner:
    match settings.pruner:
        case "median":
            return pruners.MedianPruner(n_startup_trials=settings.startup_trials)
        case "halving":
            return pruners.SuccessiveHalvingPruner(min_resource=first_step)
        case "hyperband":
            return pruners.HyperbandPruner(min_resource=first_step, max_resource=last_step)
    return pruners.NopPruner()


def _storage(place: str) -> BaseStorage:
    """The storage at an address, or in a file: Optuna's journal, which works on NFS too."""
    try:
        if "://" in place:
            return get_storage(place)
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(path)
        return JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:  # of Optuna, SQLAlchemy and the drivers of databases
        raise ConfigError(f"{PREFIX}storage={place} cannot be used: {reason(error)}") from error


def _drop_half_line(path: Path) -> None:
    """Cut off the end of a journal that a crash left incomplete: a line behind it could not be read."""
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)


def _earlier_trials(place: str, scored: str, space: Space) -> list[FrozenTrial]:
    """The complete trials of earlier searches that have a value in this space for each of its parameters.

    Raises:
        ConfigError: there is no such search, or it is scored in another way.
    """
    setting = f"{PREFIX}warm_start={place}"
    path = Path(place, JOURNAL) if Path(place).is_dir() else Path(place)
    require("://" in place or path.is_file(), f"{setting}: there is no search ({path})")
    storage = _storage(place if "://" in place else str(path))
    found: list[FrozenTrial] = []
    for summary in optuna.get_all_study_summaries(storage):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        before = study.user_attrs.get(SCORE)
        require(before == scored, f"{setting} has the score {before}, not {scored}: its trials say nothing here")
        found += study.get_trials(states=(TrialState.COMPLETE,))
    return [trial for each in found if (trial := _in_space(each, space)) is not None]


def _in_space(trial: FrozenTrial, space: Space) -> FrozenTrial | None:
    own = {name: trial.params.get(name) for name in space.distributions}
    if not all(_contains(each, own[name]) for name, each in space.distributions.items()):
        return None
    return create_trial(params=own, distributions=space.distributions, value=trial.value)


def _contains(distribution: Any, value: Any) -> bool:
    try:
        return value is not None and distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # no such choice, or no number
        return False
