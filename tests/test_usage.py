"""What a run uses: CPU time, accelerator time and energy, from counters that the tests set."""

from collections import namedtuple
from types import SimpleNamespace

import jax
import pytest

from qmix_jax.run import usage
from qmix_jax.run.usage import ACCELERATOR_WATTS, CPU_WATTS, Meter, Usage


class Machine:
    """The counters of a machine."""

    def __init__(self, monkeypatch, powercap):
        self.own = self.busy = self.wall = 0.0
        self.powercap = powercap
        monkeypatch.setattr(usage, "POWERCAP", powercap)
        monkeypatch.setattr(usage.time, "process_time", lambda: self.own)
        monkeypatch.setattr(usage.time, "perf_counter", lambda: self.wall)
        times = namedtuple("times", ["user", "system", "idle", "iowait", "guest"])
        monkeypatch.setattr(
            usage.psutil, "cpu_times", lambda: times(self.busy, 0.0, 7.0 * self.wall, self.wall, self.busy)
        )

    def add_rapl(self, name, microjoules, kind="package-0"):
        folder = self.powercap / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{kind}\n")
        (folder / "max_energy_range_uj").write_text("9999999\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")

    def run(self, own, busy, wall):
        self.own, self.busy, self.wall = self.own + own, self.busy + busy, self.wall + wall


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path / "powercap")


def test_without_counters_the_energy_of_busy_cores_is_estimated(machine):
    meter = Meter(jax.local_devices())
    machine.run(own=30.0, busy=90.0, wall=20.0)
    assert meter.lap() == Usage(30.0, 0.0, 30.0 * CPU_WATTS)
    assert meter.lap() == Usage()
    assert meter.source == "10 W a busy core"


def test_a_run_is_charged_its_share_of_all_cpu_packages(machine):
    machine.add_rapl("intel-rapl:0", 1_000_000)
    machine.add_rapl("intel-rapl:1", 2_000_000, "package-1")
    machine.add_rapl("intel-rapl:0:0", 0, "core")  # a part of package 0
    machine.add_rapl("intel-rapl:2", 0, "psys")  # the whole board
    meter = Meter(jax.local_devices())
    assert meter.source == "RAPL"
    machine.run(own=30.0, busy=90.0, wall=20.0)
    for name, microjoules in ("intel-rapl:0", 4_000_000), ("intel-rapl:1", 5_000_000), ("intel-rapl:2", 9_000_000):
        machine.add_rapl(name, microjoules, (machine.powercap / name / "name").read_text().strip())
    assert meter.lap() == pytest.approx(Usage(30.0, 0.0, 6.0 / 3))


def test_a_counter_of_energy_begins_anew_after_its_range(machine):
    machine.add_rapl("intel-rapl:0", 9_000_000)
    meter = Meter(jax.local_devices())
    machine.run(own=1.0, busy=1.0, wall=1.0)
    machine.add_rapl("intel-rapl:0", 2_000_000)  # 1 J to the end of the range of 10 J, and 2 J
    assert meter.lap().joules == pytest.approx(3.0)


def test_accelerators_without_counters_are_estimated_by_time(machine):
    meter = Meter([SimpleNamespace(platform="tpu")] * 4)
    machine.run(own=2.0, busy=2.0, wall=10.0)
    assert meter.lap() == Usage(2.0, 40.0, 2.0 * CPU_WATTS + 40.0 * ACCELERATOR_WATTS)
    assert meter.source == "10 W a busy core, 300 W an accelerator"


@pytest.mark.parametrize(("visible", "names"), [("", [0, 1]), ("3,5", [3, 5]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])])
def test_the_energy_of_nvidia_gpus_is_that_of_those_that_cuda_shows(machine, monkeypatch, visible, names):
    millijoules = {0: 1e3, 1: 2e3, 3: 3e3, 5: 4e3, "GPU-a": 5e3, "GPU-b": 6e3}
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: millijoules[handle],
    )
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter = Meter([SimpleNamespace(platform="gpu", local_hardware_id=i) for i in range(2)])
    assert meter.source == "10 W a busy core, NVML"
    machine.run(own=0.0, busy=0.0, wall=10.0)
    for name in names:
        millijoules[name] += 7_000
    assert meter.lap() == pytest.approx(Usage(0.0, 20.0, 14.0))


def test_usage_of_runs_that_train_together_is_divided_and_adds_up():
    share = Usage(6.0, 4.0, 60.0).divided(2)
    assert share == Usage(3.0, 2.0, 30.0)
    assert share.plus([share, Usage(1.0, 1.0, 1.0)]) == Usage(7.0, 5.0, 61.0)


def test_usage_in_words():
    assert Usage(62.0, 0.0, 620.0).describe() == "1m02s of CPU time, 0.2 Wh"
    assert Usage(360.0, 1234 * 3600.0, 3.6e7).describe() == "6m00s of CPU time, 51d10h of accelerator time, 10.0 kWh"
