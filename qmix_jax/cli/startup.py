"""What every command shares: how JAX is started, how a mistake is reported, and exit statuses."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from qmix_jax.config import ConfigError

AUTO = "auto"
USAGE_ERROR, INTERRUPTED = 2, 130


def report(error: ConfigError) -> int:
    """Say on stderr, in one line, what is wrong; returns the exit status."""
    print(f"qmix-jax: error: {error}", file=sys.stderr)
    return USAGE_ERROR


def start_jax(devices: Iterable[str]) -> None:
    """Make CPU cores devices, enough for every one of the settings `devices`, and keep compiled programs on disk."""
    from qmix_jax.parallel import use_cpu_cores

    wanted = set(devices)
    use_cpu_cores(AUTO if AUTO in wanted else max(wanted, key=int))
    keep_compiled_programs()


def keep_compiled_programs() -> None:
    """Switch on JAX's compilation cache on disk, unless JAX_COMPILATION_CACHE_DIR says where it is already."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "qmix_jax" / "xla"))
