"""The space of a search: from overrides in Hydra's grammar to Optuna's distributions, and back to overrides."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from qmix_jax.settings import ConfigError, require

TAGS = ("log", "ordered")


@dataclass(frozen=True)
class Parameter:
    """A setting whose value each trial chooses."""

    key: str
    """The name as on the command line, `+` included."""
    distribution: BaseDistribution
    """Of its values; of an ordered choice, of the position in `texts`."""
    texts: tuple[str, ...] = ()
    """The values of an ordered choice."""

    def text(self, value: Any) -> str:
        """A value as written on a command line; a float with six digits, which is what the trial gets."""
        if self.texts:
            return self.texts[value]
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values that are tried before anything trains: the ends of a range, every choice."""
        if self.texts:
            return tuple(range(len(self.texts)))
        found: Any = self.distribution
        return found.choices if isinstance(found, CategoricalDistribution) else (found.low, found.high)

    @property
    def values(self) -> tuple[Any, ...] | None:
        """Every value; None where there is no end of them."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return choices
            case IntDistribution(low=low, high=high, step=step):
                return tuple(range(low, high + 1, step))
            case FloatDistribution(low=low, high=high, step=float(step)):
                return tuple(low + step * k for k in range(round((high - low) / step) + 1))
        return None


@dataclass(frozen=True)
class Space:
    """The parameters of a search, in the order of the command line."""

    parameters: tuple[Parameter, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Name -> distribution, as Optuna takes them."""
        return {each.key: each.distribution for each in self.parameters}

    def texts(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The values of a trial as written on a command line, by name."""
        return {each.key: each.text(values[each.key]) for each in self.parameters}

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial."""
        return [f"{key}={text}" for key, text in self.texts(values).items()]

    @property
    def extremes(self) -> Iterator[dict[str, Any]]:
        """Trials that together have every extreme value, the others of each being the first of their parameters."""
        first = {each.key: each.extremes[0] for each in self.parameters}
        yield first
        for each in self.parameters:
            yield from ({**first, each.key: value} for value in each.extremes[1:])

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the last parameter varying fastest; raises ConfigError where there is no end of them."""
        endless = [each.key for each in self.parameters if each.values is None]
        require(not endless, f"sampler=grid needs lists or range(...), but {', '.join(endless)} is an interval")
        every = itertools.product(*(each.values or () for each in self.parameters))
        return [dict(zip(self.distributions, values, strict=True)) for values in every]


def split(overrides: Iterable[Override]) -> tuple[list[str], Space]:
    """Overrides -> those that all trials share, and the space of the others; of two with one name the later counts."""
    shared: dict[str, str] = {}
    parameters: dict[str, Parameter] = {}
    for override in overrides:
        key = override.get_key_element()
        shared.pop(key, None)
        parameters.pop(key, None)
        if override.is_sweep_override():
            parameters[key] = parameter_of(override)
        else:
            shared[key] = f"{key}={override.get_value_element_as_str()}"
    return list(shared.values()), Space(tuple(parameters.values()))


def parameter_of(override: Override) -> Parameter:
    """The parameter of an override with several values.

    Raises:
        ConfigError: the range has no values, or the grammar says what a search cannot do.
    """
    key, sweep, line = override.get_key_element(), override.value(), override.input_line
    tags = getattr(sweep, "tags", set())
    unknown = [tag for tag in sorted(tags) if tag not in TAGS]
    require(not unknown, f"{line}: a search knows the tags log and ordered, not {', '.join(unknown)}")
    is_shuffled = getattr(sweep, "shuffle", False)
    require(not is_shuffled, f"{line}: a search chooses its values itself; leave out shuffle")
    is_list = not isinstance(sweep, IntervalSweep | RangeSweep)
    misfit = "log" if is_list else "ordered"
    require(misfit not in tags, f"{line}: tag({misfit}, ...) is for {'ranges' if is_list else 'lists of values'}")
    if is_list:
        return _choice(key, tuple(override.sweep_string_iterator()), "ordered" in tags)  # pyright: ignore[reportArgumentType]
    make = partial(_of_interval if isinstance(sweep, IntervalSweep) else _of_range, sweep, "log" in tags)
    return Parameter(key, _made(make, line))


def _choice(key: str, texts: tuple[str, ...], is_ordered: bool) -> Parameter:
    if is_ordered:
        return Parameter(key, IntDistribution(0, len(texts) - 1), texts)
    return Parameter(key, CategoricalDistribution(texts))


def _of_interval(sweep: IntervalSweep, is_log: bool) -> BaseDistribution:
    low, high = sweep.start, sweep.end
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, is_log)
    return FloatDistribution(float(low or 0), float(high or 0), is_log)


def _of_range(sweep: RangeSweep, is_log: bool) -> BaseDistribution:
    numbers = sorted(sweep.range())
    if not numbers:
        raise ValueError("it has no value")
    if all(isinstance(each, int) for each in (*numbers, sweep.step)):
        return IntDistribution(int(numbers[0]), int(numbers[-1]), is_log, abs(int(sweep.step)))
    low, high, step = (float(each) for each in (numbers[0], numbers[-1], abs(sweep.step)))
    return FloatDistribution(low, high, is_log, step)


def _made(make: Callable[[], BaseDistribution], line: str | None) -> BaseDistribution:
    """The distribution; Optuna's objections, also those that are warnings, become ConfigErrors."""
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            return make()
    except (ValueError, UserWarning) as error:
        raise ConfigError(f"{line}: {str(error).splitlines()[0]}") from error
