"""Which painter an environment has."""

from typing import Any

from qmix_jax.film.arrays import paint_arrays
from qmix_jax.film.recording import Painter
from qmix_jax.import_path import load


def painter_of(env: Any) -> Painter:
    """The function that the environment's `painter` names, or else `paint_arrays`.

    Raises:
        ConfigError: there is no such function.
    """
    return paint_arrays if env.painter is None else load(env.painter, f"{type(env).__name__}.painter", "function")
