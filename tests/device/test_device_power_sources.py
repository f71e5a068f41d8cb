"""INA3221, RAPL and NVML, each against a double of its documented interface."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.core.errors import MissingError
from edgedit.device.host_power import NvmlSource, RaplSource, unwrap
from edgedit.device.ina3221 import Ina3221Source, find_channels
from edgedit.device.power_source import Poller, PowerSample
from tests.fake_jetson import HWMON, build_tree, set_power, write


def test_ina3221_by_label_in_milliwatts(tmp_path: Path) -> None:
    source = Ina3221Source(build_tree(tmp_path, power_mw=8000.0))
    assert [c.label for c in source.channels] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]  # no sum of shunt voltages
    before, sample, after = time.monotonic_ns(), source.read(), time.monotonic_ns()
    assert sample is not None and before <= sample.t_ns <= after
    assert sample.rails_mw == {"VDD_IN": 8000.0, "VDD_CPU_GPU_CV": 3200.0, "VDD_SOC": 2000.0} and sample.gpu_mhz == 1020


def test_ina3221_follows_its_files_and_leaves_out_a_rail_that_fails(tmp_path: Path) -> None:
    source = Ina3221Source(build_tree(tmp_path))
    set_power(tmp_path, 10_000.0)
    (tmp_path / HWMON / "curr2_input").write_text("garbage")
    sample = source.read()
    assert sample is not None and sample.rails_mw == {"VDD_IN": 10_000.0, "VDD_SOC": 2500.0}
    for n in (1, 3):
        (tmp_path / HWMON / f"curr{n}_input").write_text("")
    assert source.read() is None


def test_ina3221_found_by_hwmon_class_whatever_its_number(tmp_path: Path) -> None:
    for chip, label in ((5, "VDD_GPU_SOC"), (9, "VIN_SYS_5V0")):  # AGX: two chips
        for name, text in (("name", "ina3221"), ("in1_label", label), ("in1_input", "5000"), ("curr1_input", "1000"),
                           ("in2_label", "NC"), ("in2_input", "0"), ("curr2_input", "0")):
            write(tmp_path, f"sys/class/hwmon/hwmon{chip}/{name}", text)
    write(tmp_path, "sys/class/hwmon/hwmon0/name", "nvme")
    write(tmp_path, "sys/class/hwmon/hwmon0/in1_label", "Composite")
    write(tmp_path, "sys/class/hwmon/hwmon0/curr1_input", "1")
    assert {c.label for c in find_channels(tmp_path)} == {"VDD_GPU_SOC", "VIN_SYS_5V0"}
    sample = Ina3221Source(tmp_path).read()
    assert sample is not None and sample.rails_mw == {"VDD_GPU_SOC": 5000, "VIN_SYS_5V0": 5000}


def test_ina3221_in_jetpack4_layout(tmp_path: Path) -> None:
    base = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    for n, (label, mw) in enumerate((("POM_5V_IN", 4321), ("POM_5V_GPU", 1010), ("NC", 0))):
        write(tmp_path, f"{base}/rail_name_{n}", label + "\n")
        write(tmp_path, f"{base}/in_power{n}_input", f"{mw}\n")
    source = Ina3221Source(tmp_path)
    sample = source.read()
    assert sample is not None and sample.rails_mw == {"POM_5V_IN": 4321, "POM_5V_GPU": 1010} and sample.gpu_mhz is None


def test_ina3221_that_is_missing_or_unreadable_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no INA3221"):
        Ina3221Source(tmp_path)
    build_tree(tmp_path)
    for n in (1, 2, 3):
        (tmp_path / HWMON / f"in{n}_input").write_text("")
    with pytest.raises(MissingError, match="cannot be read"):
        Ina3221Source(tmp_path)


def test_nothing_writes_to_the_tree(tmp_path: Path) -> None:
    root = build_tree(tmp_path)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}
    source = Ina3221Source(root, 0.01)
    source.start(lambda sample: None)
    time.sleep(0.05)
    source.stop()
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}


# --- the poller ---------------------------------------------------------------------------------------------------------------


def test_poller_counts_failures_and_survives_them() -> None:
    poller, got = Poller("x", 0.001, lambda: PowerSample(time.monotonic_ns(), {}) if poller.attempts % 2 else None), []
    poller.start(got.append)
    while poller.attempts < 20:
        time.sleep(0.001)
    assert poller.alive()
    poller.stop()
    assert not poller.alive() and poller.failures == poller.attempts // 2 and len(got) + poller.failures == poller.attempts
    assert [v.code for v in poller.verdicts()] == ["x-failed-reads"]


def test_poller_that_crashes_says_so() -> None:
    def read() -> PowerSample:
        raise ValueError("boom")

    poller = Poller("x", 0.001, read)
    poller.start(lambda sample: None)
    while poller.alive():
        time.sleep(0.001)
    poller.stop()
    assert "boom" in poller.verdicts()[0].text and poller.verdicts()[0].level == "error"


def test_poller_keeps_its_schedule_when_a_reading_is_slow() -> None:
    stamps: list[int] = []

    def read() -> PowerSample:
        stamps.append(time.monotonic_ns())
        time.sleep(0.03 if len(stamps) == 2 else 0)
        return PowerSample(stamps[-1], {})

    poller = Poller("x", 0.01, read)
    poller.start(lambda sample: None)
    while len(stamps) < 8:
        time.sleep(0.005)
    poller.stop()
    assert len(stamps) <= 3 + (stamps[-1] - stamps[2]) // 10_000_000 + 1  # missed ticks are not made up for in a burst
    assert stamps[2] - stamps[1] >= 29_000_000


# --- RAPL ---------------------------------------------------------------------------------------------------------------------


def rapl(root: Path, **uj: int) -> Path:
    names = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys"}
    for zone, name in names.items():
        write(root, f"sys/class/powercap/{zone}/name", name + "\n")
        write(root, f"sys/class/powercap/{zone}/max_energy_range_uj", "1000000\n")
        write(root, f"sys/class/powercap/{zone}/energy_uj", f"{uj.get(name.replace('-', ''), 0)}\n")
    return root


def test_rapl_counts_through_a_wraparound(tmp_path: Path) -> None:
    source = RaplSource(rapl(tmp_path, package0=900_000, dram=0))
    first = source.read()
    rapl(tmp_path, package0=100_000, dram=50_000)
    second = source.read()
    assert first is not None and second is not None and first.rails_mw == {}
    assert second.energy_mj["package-0"] - first.energy_mj["package-0"] == pytest.approx(200)
    assert second.energy_mj["package-0/dram"] == pytest.approx(50)
    assert second.rails_mw["package-0"] == pytest.approx(200 / ((second.t_ns - first.t_ns) / 1e9))


def test_rapl_total_leaves_out_what_lies_inside_or_around_a_package(tmp_path: Path) -> None:
    source = RaplSource(rapl(tmp_path))
    total = source.total(["package-0", "package-0/core", "package-0/dram", "psys"])
    assert total is not None and total.parts == ("package-0", "package-0/dram") and "GPU" in total.boundary


@given(st.lists(st.integers(0, 999), min_size=1, max_size=50))
def test_unwrap_counts_every_step(steps: list[int]) -> None:
    counter, total = [0], 0.0
    for step in steps:
        counter.append((counter[-1] + step) % 1000)
    for old, new in pairwise(counter):
        total += unwrap(old, new, 1000)
    assert total == sum(steps)


def test_rapl_that_is_missing_or_root_only(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no RAPL"):
        RaplSource(tmp_path)
    for file in rapl(tmp_path).rglob("energy_uj"):
        file.unlink()
        os.symlink("/nowhere", file)  # unreadable for root too
    with pytest.raises(MissingError) as caught:
        RaplSource(tmp_path)
    assert "root" in str(caught.value.fix)


# --- NVML ---------------------------------------------------------------------------------------------------------------------


class NvmlError(Exception):
    pass


def fake_nvml(gpus: int = 2, counter: bool = True, power: bool = True) -> Any:
    """The few functions of pynvml that are used; GPU i draws 100 (i + 1) W."""
    begin, log = time.monotonic_ns(), []

    def energy(gpu: int) -> int:
        if not counter:
            raise NvmlError("Not Supported")
        return round((time.monotonic_ns() - begin) / 1e9 * 100_000 * (gpu + 1))

    def usage(gpu: int) -> int:
        if not power:
            raise NvmlError("Not Supported")
        return 100_000 * (gpu + 1)

    return SimpleNamespace(
        NVMLError=NvmlError, NVML_CLOCK_SM=1, log=log,
        nvmlInit=lambda: log.append("init"), nvmlShutdown=lambda: log.append("shutdown"), nvmlDeviceGetCount=lambda: gpus,
        nvmlDeviceGetHandleByIndex=lambda i: i, nvmlDeviceGetName=lambda gpu: b"Fake GPU", nvmlDeviceGetPowerUsage=usage,
        nvmlDeviceGetTotalEnergyConsumption=energy, nvmlDeviceGetClockInfo=lambda gpu, kind: 1500)


def test_nvml_reads_power_counter_and_clock() -> None:
    source = NvmlSource(nvml=fake_nvml(), environ={})
    sample = source.read()
    assert sample is not None and sample.rails_mw == {"gpu-0": 100_000.0, "gpu-1": 200_000.0} and sample.gpu_mhz == 1500
    assert set(sample.energy_mj) == {"gpu-0", "gpu-1"}
    total = source.total(list(sample.rails_mw))
    assert total is not None and total.parts == ("gpu-0",) and "Fake GPU" in total.boundary and "counter" in total.boundary


def test_nvml_without_counter_and_with_chosen_gpu() -> None:
    source = NvmlSource(nvml=fake_nvml(counter=False), environ={"CUDA_VISIBLE_DEVICES": "1"})
    sample = source.read()
    assert sample is not None and sample.rails_mw == {"gpu-1": 200_000.0} and sample.energy_mj == {}
    assert source.total(["gpu-1"]).parts == ("gpu-1",)  # type: ignore[union-attr]


@pytest.mark.parametrize("nvml", [fake_nvml(gpus=0), fake_nvml(power=False)])
def test_nvml_without_a_readable_gpu_shuts_down_again(nvml: Any) -> None:
    with pytest.raises(MissingError, match="GPU"):
        NvmlSource(nvml=nvml, environ={})
    assert nvml.log == ["init", "shutdown"]


def test_nvml_without_driver() -> None:
    nvml = fake_nvml()

    def fail() -> None:
        raise NvmlError("Driver Not Loaded")

    nvml.nvmlInit = fail
    with pytest.raises(MissingError, match="driver"):
        NvmlSource(nvml=nvml, environ={})


def test_nvml_is_shut_down_once() -> None:
    nvml = fake_nvml()
    source = NvmlSource(0.001, nvml=nvml, environ={})
    source.start(lambda sample: None)
    source.stop()
    source.stop()
    assert nvml.log == ["init", "shutdown"]
