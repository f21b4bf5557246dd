"""What the environments that come from JaxMARL share."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def only_parts_of_jaxmarl() -> Iterator[None]:
    """Let `from jaxmarl.environments import smax` import that one module.

    `import jaxmarl` runs the modules of all its environments, which takes seconds, prints notes about optional packages
    and leaves sys.stdout replaced. An import of jaxmarl outside of this context still does.
    """
    names = [name for name in ("jaxmarl", "jaxmarl.environments") if name not in sys.modules]
    try:
        for name in names:
            spec = importlib.util.find_spec(name)
            if spec is not None:
                sys.modules[name] = importlib.util.module_from_spec(spec)
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def episode_limit(env: Any) -> int:
    """The largest number of steps in an episode of a JaxMARL environment, one more than its `max_steps`.

    JaxMARL tests the limit before it counts the step. That is kept, because returns must compare.
    """
    return env.max_steps + 1
