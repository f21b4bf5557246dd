"""Whether an environment keeps the contract (`envs.base.TeamEnv`): one line for each mistake.

A line names the class, the method and the field, what is and what must be. `shape_problems` traces each method, which
takes a fraction of a second and needs no compiling; `play_problems` plays some hundred random legal steps.
"""

from typing import Any

import jax

from qmix_jax.envs.check.random_play import Play, play, play_problems
from qmix_jax.envs.check.shapes import shape_problems
from qmix_jax.settings import ConfigError

__all__ = ["Play", "play", "play_problems", "problems", "refuse_wrong_shapes", "shape_problems"]


def problems(env: Any) -> list[str]:
    """A line for each mistake: those that tracing shows, or else those that random play shows."""
    return shape_problems(env) or play_problems(env, jax.random.key(0))


def refuse_wrong_shapes(env: Any, name: str, settings: Any = None) -> None:
    """Raise ConfigError with the first mistake that tracing shows; `name` is what `env=` names the environment, and
    `settings` as in `shape_problems`.
    """
    if mistakes := shape_problems(env, settings):
        more = f" (and {len(mistakes) - 1} more: qmix-jax check-env env={name})" if mistakes[1:] else ""
        raise ConfigError(mistakes[0] + more)
