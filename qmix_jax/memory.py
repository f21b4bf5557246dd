"""Whether a run fits into this machine's memory, before anything of it is made."""

from pathlib import Path

import jax
import psutil

from qmix_jax.config import ConfigError, require
from qmix_jax.parallel import Program, describe_memory


def memory_at_hand() -> int:
    """Bytes that one device may still take: free on the GPU, or on the machine (or its container)."""
    stats = jax.devices()[0].memory_stats() or {} if jax.default_backend() != "cpu" else {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    available = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no container, or no limit
        return available
    return min(available, limit - used)


def refuse_what_cannot_fit(program: Program) -> None:
    """Raise ConfigError, with a capacity that would fit, where the training state is larger than the memory."""
    config, needs = program.config, describe_memory(program.shapes)
    is_cpu = jax.default_backend() == "cpu"
    room = 0.9 * memory_at_hand() * (1 if is_cpu else program.mesh.size)
    rest = sum(size for part, size in needs.items() if part != "replay")
    is_copied = is_cpu and config.checkpoint.replay  # a checkpoint is written from a copy
    replay = needs["replay"] * (2 if is_copied else 1)
    if replay + rest <= room:
        return
    require(
        replay > 0,
        f"networks and environments need {gib(rest)}, and only {gib(room)} of memory can be used; take fewer seeds, "
        f"fewer environments or smaller networks",
    )
    fitting = int((room - rest) / replay * config.replay.capacity)
    advice = f"try replay.capacity={fitting}" if fitting >= config.iteration_env_steps else "take fewer seeds"
    copied = " and its copy in a checkpoint (checkpoint.replay=false makes none)" if is_copied else ""
    raise ConfigError(
        f"replay.capacity={config.replay.capacity} needs {gib(replay)} for replay{copied}, and only {gib(room)} of "
        f"memory can be used; {advice}"
    )


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"
