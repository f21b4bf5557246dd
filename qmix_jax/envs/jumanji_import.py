"""Importing single environments of jumanji, an optional package."""

import contextlib
from collections.abc import Iterator

from qmix_jax.envs.partial_import import without_init
from qmix_jax.settings import ConfigError


@contextlib.contextmanager
def only_parts_of_jumanji() -> Iterator[None]:
    """Let `from jumanji.environments.routing.lbf.env import LevelBasedForaging` import that one environment.

    `import jumanji` runs the modules of all its environments, which takes seconds.
    """
    try:
        with without_init("jumanji", "jumanji.environments"):
            yield
    except ModuleNotFoundError as error:
        if error.name != "jumanji":
            raise
        raise ConfigError("this environment is jumanji's: install it with pip install 'qmix-jax[jumanji]'") from error
