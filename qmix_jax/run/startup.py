"""How JAX is started, and how an error becomes one line and an exit status."""

import logging
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from qmix_jax.console import say, warn
from qmix_jax.run.exits import (
    INTERRUPTED,
    NOT_SAVED,
    OUT_OF_MEMORY,
    REQUEUE,
    USAGE_ERROR,
    HostLostError,
    is_out_of_memory,
)
from qmix_jax.run.lock import InUseError
from qmix_jax.settings import ConfigError, require

AUTO = "auto"


def report(error: Exception) -> int:
    """Report an error on stderr, in one line; returns the exit status.

    Raises:
        Exception: the error itself, where neither the settings nor the machine are its cause.
    """
    status = status_of(error)
    if status is None:
        raise error
    is_memory = status == OUT_OF_MEMORY
    text = f"out of memory: {first_line(error)}; take fewer episodes or smaller settings" if is_memory else error
    say(f"qmix-jax: error: {text}", sys.stderr)
    return status


def status_of(error: BaseException) -> int | None:
    """The exit status for an error; None where neither the settings nor the machine are its cause."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    kinds = {InUseError: REQUEUE, HostLostError: REQUEUE}  # these come first: they are kinds of the next
    kinds |= {ConfigError: USAGE_ERROR, OSError: NOT_SAVED, KeyboardInterrupt: INTERRUPTED}
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), None)


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def require_current_folder() -> None:
    """Raise ConfigError where the current folder was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError("the current folder was deleted; go to another one") from error


def import_jax() -> None:
    """Import JAX for the first time; raises ConfigError where it refuses one of its environment variables.

    A module that starts JAX while it is imported gets every CPU core as a device, unless a number was set.
    """
    try:
        import jax
    except ValueError as error:
        raise ConfigError(f"JAX refuses an environment variable: {first_line(error)}") from error
    from qmix_jax.run.devices import use_cpu_cores

    if jax.config.jax_num_cpu_devices < 1:  # pyright: ignore[reportAttributeAccessIssue]
        use_cpu_cores(AUTO)


def leave_accelerators_free() -> None:
    """Keep this process, whose jobs run in others, from occupying GPUs, should a module start JAX."""
    import_jax()
    import jax

    with suppress(RuntimeError):  # JAX has started already
        jax.config.update("jax_platforms", "cpu")


def start_jax(devices: Iterable[str]) -> None:
    """Start JAX with 32-bit numbers, and with enough CPU cores as devices for each of the settings `devices`, of which
    each process of a run on several hosts has its part.

    Compiled programs are kept on disk.

    Raises:
        ConfigError: JAX does not start with the environment variables as they are.
    """
    refuse_xla_flags(os.environ.get("XLA_FLAGS", ""))
    import_jax()
    import jax

    from qmix_jax.run import hosts
    from qmix_jax.run.devices import use_cpu_cores

    jax.config.update("jax_enable_x64", False)
    is_disabled = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
    require(not is_disabled, "JAX_DISABLE_JIT is set, but everything here is compiled; unset it")
    wanted = set(devices)
    count = use_cpu_cores(AUTO if AUTO in wanted else str(math.ceil(max(map(int, wanted)) / hosts.count())))
    keep_compiled_programs()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion where no plugin for the platform is installed
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error) and f" ({first_line(error)})"
        raise ConfigError(
            f"JAX finds no device with JAX_PLATFORMS={platforms}{reason}; unset it, or set it to cpu"
        ) from error
    if jax.default_backend() == "cpu" and jax.local_device_count() < count:
        _warn_of_idle_cores(jax.local_device_count(), count)


@cache
def _warn_of_idle_cores(devices: int, cores: int) -> None:
    warn(
        f"JAX had started before with {devices} of {cores} CPU cores as devices: use a name of qmix_jax before the "
        f"first array is made, or set JAX_NUM_CPU_DEVICES={cores}"
    )


@cache
def refuse_xla_flags(flags: str) -> None:
    """Raise ConfigError where XLA does not know one of the flags; XLA itself would end the process."""
    if not flags:
        return
    script = "from jaxlib import _jax; _jax.CompileOptions()"  # 0.2 s
    tried = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    reason = tried.stderr.strip().rpartition("\n")[2].partition("] ")[2]
    require(tried.returncode == 0 or not reason, f"XLA_FLAGS='{flags}': {reason}; correct it, or unset it")


def keep_compiled_programs() -> None:
    """Switch on JAX's compilation cache on disk, in JAX_COMPILATION_CACHE_DIR if that is set.

    A folder that is not writable is a warning, and programs are compiled anew.
    """
    import jax

    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(_cache_home() / "qmix_jax" / "xla"))
    place = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if "://" in place:
        return
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        is_kept = os.access(place, os.W_OK | os.X_OK)
    except OSError:
        is_kept = False
    if not is_kept:
        warn(f"compiled programs are not kept, {place} is not writable; JAX_COMPILATION_CACHE_DIR=FOLDER names another")


def _cache_home() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return Path("/nonexistent/.cache")


def hush_libraries() -> None:
    """Silence matplotlib's warning that it has no writable folder for its settings: it makes a temporary one."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
