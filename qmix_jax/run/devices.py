"""Which devices a run uses, and how they share its seeds and each seed's environments, batch and evaluation."""

import math
import os
from contextlib import suppress

import jax
import numpy as np
from jax.sharding import Mesh

from qmix_jax.config import Config
from qmix_jax.run import hosts
from qmix_jax.settings import ConfigError

SEED, DATA = "seed", "data"
"""The axes of the device mesh."""


def use_cpu_cores(devices: str = "auto") -> int:
    """Make every CPU core a JAX device, or as many cores as `devices` says; returns that number. No effect once JAX
    has started.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = cores if devices == "auto" else max(int(devices), 1)
    with suppress(RuntimeError):  # JAX has started with the devices that it has
        jax.config.update("jax_num_cpu_devices", count)
    return count


def split_devices(config: Config, available: int, processes: int = 1) -> tuple[int, int]:
    """How many devices share the seeds, and how many share the work of each seed.

    `devices=auto` uses the largest number of devices that divides the work; a number of devices is used or refused.
    Each process has the same number of them: those of whole seeds, or of a part of the work of one seed.
    """

    def is_block(seeds: int, data: int) -> bool:
        own, rest = divmod(seeds * data, processes)
        return not rest and (own % data == 0 or data % own == 0)

    splits = [
        (seeds, data)
        for seeds in range(1, available + 1)
        for data in range(1, available // seeds + 1)
        if config.num_seeds % seeds == 0 and not any(number % data for number in _of_seed(config).values())
        if is_block(seeds, data)
    ]
    together = ", ".join(f"{name}={number}" for name, number in _of_seed(config).items())
    why = f"num_seeds={config.num_seeds}, or else {together} together, must be multiples of it"
    if not splits:
        raise ConfigError(f"{processes} processes cannot share the work: {why}; start fewer processes")
    if config.devices == "auto":
        return max(splits, key=lambda split: (math.prod(split), split[0]))
    wanted = int(config.devices)
    if wanted > available:
        raise ConfigError(f"devices={wanted}, but only {available} are available; use devices=auto")
    exact = [split for split in splits if math.prod(split) == wanted]
    if not exact:
        equally = f", and divide over {processes} processes" * (processes > 1)
        raise ConfigError(f"devices={wanted} cannot share the work: {why}{equally}; use devices=auto")
    return max(exact)


def _of_seed(config: Config) -> dict[str, int]:
    """What the devices of one seed share, by setting."""
    return {
        "rollout.num_envs": config.rollout.num_envs,
        "learner.batch_size": config.learner.batch_size,
        "evaluation.episodes": config.evaluation.episodes,
    }


def describe_idle(config: Config, available: int) -> str:
    """Why `devices=auto` leaves devices idle, and which settings would use all, in one line; '' where none is idle.

    Of all ways to share the work over every device, the text proposes the one that changes the fewest settings.
    """
    used = math.prod(split_devices(config, available, hosts.count()))
    if config.devices != "auto" or used == available:
        return ""
    ways = [
        available // seeds for seeds in range(available, 0, -1) if available % seeds == config.num_seeds % seeds == 0
    ]
    obstacles = [{name: (n, data) for name, n in _of_seed(config).items() if n % data} for data in ways]
    fewest = min(obstacles, key=len)
    now = " and ".join(f"{name}={n}" for name, (n, _) in fewest.items())
    better = " ".join(f"{name}={math.ceil(n / data) * data}" for name, (n, data) in fewest.items())
    return (
        f"{available - used} of {available} devices idle, since {now} cannot be split over all; {better} would use all"
    )


def part_of(mesh: Mesh, num_seeds: int) -> Mesh:
    """The devices of a mesh that share fewer seeds, each seed as before: as many as divide their number."""
    count = max(n for n in range(1, mesh.shape[SEED] + 1) if num_seeds % n == 0)
    return Mesh(mesh.devices[:count], mesh.axis_names)


def make_mesh(config: Config, devices: list | None = None) -> Mesh:
    """The mesh (seed, data) of the devices that share the run, process by process: seeds are split over processes
    first, which then pass nothing to each other while they train. Raises ConfigError where the devices cannot share it.
    """
    by_process: dict[int, list] = {}
    for device in devices or jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    processes = len(by_process)
    each = min(map(len, by_process.values()))
    seeds, data = split_devices(config, each * processes, processes)
    chosen = [device for _, own in sorted(by_process.items()) for device in own[: seeds * data // processes]]
    return Mesh(np.array(chosen).reshape(seeds, data), (SEED, DATA))


def share_of(mesh: Mesh) -> tuple[int, int]:
    """Which of the equal blocks of the mesh this process has, and how many blocks split the data of the same seeds."""
    own = mesh.local_mesh.devices
    first = mesh.devices.ravel().tolist().index(own.flat[0])
    return first // own.size, mesh.shape[DATA] // own.shape[1]
