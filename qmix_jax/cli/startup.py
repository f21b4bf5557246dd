"""What every command shares: how JAX is started, and how a mistake is reported."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from qmix_jax.config import ConfigError
from qmix_jax.exits import NOT_SAVED, USAGE_ERROR

AUTO = "auto"


def report(error: ConfigError | OSError) -> int:
    """Say on stderr, in one line, what is wrong; returns the exit status."""
    print(f"qmix-jax: error: {error}", file=sys.stderr)
    return USAGE_ERROR if isinstance(error, ConfigError) else NOT_SAVED


def start_jax(devices: Iterable[str]) -> None:
    """Make CPU cores devices, enough for every one of the settings `devices`, and keep compiled programs on disk.

    Whatever JAX_ENABLE_X64 says, numbers are of 32 bits.
    """
    import jax

    from qmix_jax.parallel import use_cpu_cores

    jax.config.update("jax_enable_x64", False)

    wanted = set(devices)
    use_cpu_cores(AUTO if AUTO in wanted else max(wanted, key=int))
    keep_compiled_programs()


def keep_compiled_programs() -> None:
    """Switch on JAX's compilation cache on disk, unless JAX_COMPILATION_CACHE_DIR says where it is already."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "qmix_jax" / "xla"))
