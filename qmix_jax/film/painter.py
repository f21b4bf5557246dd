"""Which painter an environment has."""

from importlib import import_module
from typing import Any

from qmix_jax.film.arrays import paint_arrays
from qmix_jax.film.recording import Painter


def painter_of(env: Any) -> Painter:
    """The function that the environment's `painter` names, or else `paint_arrays`."""
    if env.painter is None:
        return paint_arrays
    module, _, name = env.painter.partition(":")
    return getattr(import_module(module), name)
