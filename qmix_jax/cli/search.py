"""From a command line with `hydra/sweeper=optuna` to a search."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override

from qmix_jax.settings import ConfigError, make_settings
from qmix_jax.sweep.jobs import Job, JobList
from qmix_jax.sweep.search.settings import PREFIX, SearchSettings

if TYPE_CHECKING:
    from qmix_jax.sweep.search.loop import Search

READY = "+search="
"""Begins the choice of a ready space, of which a run alone has no use."""


def make_search(
    sweeper: Mapping[str, Any],
    overrides: Sequence[Override],
    job: Callable[[int, Sequence[str]], Job],
    common: JobList,
    words: Sequence[str],
) -> "Search":
    """The search of the settings `hydra.sweeper`.

    Args:
        sweeper: those settings.
        overrides: those of its params, and then the command line's.
        job: from a trial's number and its overrides to its job.
        common: the sweep without its jobs.
        words: what stands before the overrides of the best trial's command line.

    Raises:
        ConfigError: a setting is wrong, or Optuna is not installed.
    """
    try:
        from qmix_jax.sweep.search import space
        from qmix_jax.sweep.search.loop import Search
    except ImportError as error:
        raise ConfigError(f"hydra/sweeper=optuna: {error}; install it with pip install 'qmix-jax[search]'") from error
    values = {key: value for key, value in sweeper.items() if key != "name"}
    shared, found = space.split(overrides)
    command = [*words, *(line for line in shared if not line.startswith(READY))]
    return Search(make_settings(SearchSettings, values, PREFIX), found, tuple(shared), job, common, tuple(command))
