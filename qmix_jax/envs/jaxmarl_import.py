"""What the environments that come from JaxMARL share."""

from contextlib import AbstractContextManager
from typing import Any

from qmix_jax.envs.partial_import import without_init


def only_parts_of_jaxmarl() -> AbstractContextManager[None]:
    """Let `from jaxmarl.environments import smax` import that one module.

    `import jaxmarl` runs the modules of all its environments, which takes seconds, prints notes about optional packages
    and leaves sys.stdout replaced. An import of jaxmarl outside of this context still does.
    """
    return without_init("jaxmarl", "jaxmarl.environments")


def episode_limit(env: Any) -> int:
    """The largest number of steps in an episode of a JaxMARL environment, one more than its `max_steps`.

    JaxMARL tests the limit before it counts the step. That is kept, because returns must compare.
    """
    return env.max_steps + 1
