"""What training uses: CPU time, accelerator time and energy.

Energy is measured where the machine has counters. RAPL counts the energy of the CPU packages (Linux; often readable by
root alone): a run's part of it is its share of the CPU time of all processes. NVML (the package nvidia-ml-py) counts
that of NVIDIA GPUs: a run's part is all of it. Elsewhere energy is estimated by CPU_WATTS and ACCELERATOR_WATTS.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from qmix_jax.console import duration

CPU_WATTS = 10.0
"""Of a busy core, where RAPL is missing; an assumption."""
ACCELERATOR_WATTS = 300.0
"""Of a GPU or TPU, where NVML is missing; an assumption."""
POWERCAP = Path("/sys/class/powercap")
NOT_BUSY = ("idle", "iowait", "guest", "guest_nice")
"""Kinds of CPU time of a machine that are idle, or part of another kind."""


class Usage(NamedTuple):
    """Names are those of columns of metrics.jsonl."""

    cpu_seconds: float = 0.0
    """Of all threads, user and system."""
    accelerator_seconds: float = 0.0
    """Wall-clock seconds x GPUs or TPUs."""
    joules: float = 0.0

    def plus(self, others: Sequence["Usage"]) -> "Usage":
        """The sum with others."""
        return Usage(*map(sum, zip(self, *others, strict=True)))

    def divided(self, count: int) -> "Usage":
        """The share of one of `count` runs."""
        return Usage(*(value / count for value in self))

    def describe(self) -> str:
        """Times and energy in words."""
        times = [(self.cpu_seconds, "CPU"), (self.accelerator_seconds, "accelerator")]
        parts = [f"{duration(seconds)} of {kind} time" for seconds, kind in times if seconds]
        hours = self.joules / 3600
        energy = f"{hours:.1f} Wh" if hours < 100 else f"{hours / 1000:,.1f} kWh"
        return ", ".join([*parts, energy])


class Meter:
    """Usage of this process and its accelerators."""

    def __init__(self, devices: Sequence[Any]):
        """`devices` are those of JAX that this process trains on."""
        self._accelerators = [device for device in devices if device.platform != "cpu"]
        self._packages = _Packages()
        self._cards = _cards(self._accelerators)
        self._of_cards = 0.0
        self._last = self._read()

    @property
    def source(self) -> str:
        """Where joules come from."""
        cpu = "RAPL" if self._packages else f"{CPU_WATTS:g} W a busy core"
        card = "NVML" if self._cards else f"{ACCELERATOR_WATTS:g} W an accelerator"
        return f"{cpu}, {card}" if self._accelerators else cpu

    def lap(self) -> Usage:
        """Usage since the last call, or since the start."""
        before, self._last = self._last, self._read()
        own, busy, package, wall, cards = (now - then for now, then in zip(self._last, before, strict=True))
        accelerators = len(self._accelerators) * wall
        cpu_joules = package * min(1.0, own / max(busy, own, 1e-9)) if self._packages else CPU_WATTS * own
        return Usage(own, accelerators, cpu_joules + (cards if self._cards else ACCELERATOR_WATTS * accelerators))

    def _read(self) -> tuple[float, ...]:
        """Counters: CPU seconds of this process and of all, joules of packages, wall-clock seconds, joules of cards."""
        machine = psutil.cpu_times()._asdict() if self._packages else {}
        busy = sum(seconds for kind, seconds in machine.items() if kind not in NOT_BUSY)
        return time.process_time(), busy, self._packages.joules(), time.perf_counter(), self._joules_of_cards()

    def _joules_of_cards(self) -> float:
        with suppress(Exception):  # such as a lost GPU, which training itself will meet
            self._of_cards = sum(card() for card in self._cards)
        return self._of_cards


class _Packages:
    """The energy of all CPU packages by RAPL; false where it cannot be read."""

    def __init__(self):
        folders = sorted(path for path in POWERCAP.glob("*-rapl:*") if path.name.count(":") == 1)
        self._counters: list[Path] = []
        self._ranges: list[int] = []
        self._last: list[int] = []
        self._total = 0
        with suppress(OSError, ValueError):
            found = [path for path in folders if (path / "name").read_text().startswith("package")]
            self._ranges = [int((path / "max_energy_range_uj").read_text()) for path in found]
            self._last = [int((path / "energy_uj").read_text()) for path in found]
            self._counters = [path / "energy_uj" for path in found]

    def __bool__(self) -> bool:
        return bool(self._counters)

    def joules(self) -> float:
        """Since it was made; a counter that passed its range has begun at 0 again."""
        with suppress(OSError, ValueError):  # no longer readable: nothing more is counted
            now = [int(path.read_text()) for path in self._counters]
            for last, microjoules, largest in zip(self._last, now, self._ranges, strict=True):
                self._total += (microjoules - last) % (largest + 1)
            self._last = now
        return self._total / 1e6


def _cards(devices: Sequence[Any]) -> list[Callable[[], float]]:
    """For each NVIDIA GPU a function that returns its joules so far; empty where one of them does not tell."""
    if not any(device.platform in ("gpu", "cuda") for device in devices):
        return []
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
        handles = [_handle(pynvml, device.local_hardware_id) for device in devices]
        cards = [lambda handle=handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]
        for card in cards:
            card()
    except Exception:  # no such package, no driver, or a card without a counter: then the energy is estimated
        return []
    return cards


def _handle(pynvml, index: int | None):
    """NVML's handle of the GPU that has this index among those that CUDA shows."""
    index = index or 0
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    name = visible[index] if index < len(visible) else str(index)
    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)
