"""How the suite's scripts end: an error in one line, and Ctrl-C without a traceback."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from qmix_jax.run.exits import INTERRUPTED
from qmix_jax.settings import ConfigError


def exit_with(main: Callable[[], int], file: str) -> NoReturn:
    """Call a script's `main` and exit with its status; `file` is the script's `__file__`."""
    try:
        sys.exit(main())
    except ConfigError as error:
        sys.exit(f"{Path(file).name}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
