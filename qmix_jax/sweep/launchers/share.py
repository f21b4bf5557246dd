"""How the CPU cores or GPUs of this machine are divided among jobs that run at once. Starts no JAX."""

import importlib.util
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qmix_jax.config import Config
from qmix_jax.settings import require


@dataclass(frozen=True)
class Share:
    """What one of the jobs that run at once may use."""

    cores: tuple[int, ...] = ()
    """CPU cores; empty: all."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that name its GPUs and its part of their memory."""


def divide(configs: Sequence[Config], wanted: int | None) -> tuple[list[Share], str]:
    """The shares of the jobs that run at once, and the division in words.

    Every share is as large as the others, so that a job's result does not depend on which it gets. With `wanted` None,
    as many jobs run at once as there are devices, where a job is told no number of them, and one job where it is alone.

    Raises:
        ConfigError: more jobs are wanted at once than this machine has cores.
    """
    cores, gpus = available_cores(), available_gpus()
    if is_tpu():
        require(
            wanted in (None, 1), "hydra.launcher.jobs: one process at a time can use a TPU; set hydra.launcher.jobs=1"
        )
        return [Share()], "on all TPU devices"
    each = max(int(config.devices) if config.devices != "auto" else 1 for config in configs)
    most = len(gpus or cores) // each or 1
    at_once = wanted or min(len(configs), most)
    require(at_once <= len(cores), f"hydra.launcher.jobs={at_once} is more than the {len(cores)} CPU cores here")
    if not gpus:
        parts = _parts(cores, at_once)
        return [Share(part) for part in parts], f"each on {_count(len(parts[0]), len(cores), 'CPU core')}"
    core_parts, shared = _parts(cores, at_once), math.ceil(at_once / len(gpus))
    memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / shared:.2f}"} if shared > 1 else {}
    gpu_parts = _parts(gpus, at_once) if shared == 1 else [(gpus[i % len(gpus)],) for i in range(at_once)]
    names = [{"CUDA_VISIBLE_DEVICES": ",".join(part), **memory} for part in gpu_parts]
    words = f"each on {_count(len(gpu_parts[0]), len(gpus), 'GPU')}" + f", {shared} on one" * (shared > 1)
    return [Share(part, name) for part, name in zip(core_parts, names, strict=True)], words


def _parts(items: Sequence, count: int) -> list[tuple]:
    """`count` equal parts of the items; what is left over is not used."""
    size = len(items) // count
    return [tuple(items[i * size : (i + 1) * size]) for i in range(count)]


def _count(number: int, total: int, name: str) -> str:
    return f"{number} of {total} {name}s" if total > 1 else f"the {name}"


def available_cores() -> list[int]:
    """The numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_gpus() -> list[str]:
    """The NVIDIA GPUs that JAX would use, as CUDA_VISIBLE_DEVICES names them; empty where it would use none."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    has_plugin = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    if not has_plugin or (platforms and not {"cuda", "gpu"} & set(platforms.split(","))):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []


def is_tpu() -> bool:
    """Whether JAX would use a TPU, which only one process can."""
    is_wanted = os.environ.get("JAX_PLATFORMS", "tpu") in ("", "tpu")
    return is_wanted and importlib.util.find_spec("libtpu") is not None and any(Path("/dev").glob("accel*"))
