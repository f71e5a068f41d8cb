"""The doctor on boards, hosts and containers that each have one thing wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from edgedit.device.doctor import Finding, diagnose
from edgedit.device.python_facts import PythonFacts, read_python
from tests.fake_jetson import HWMON, build_tree, install_tegrastats, write

QUIET = {"ORT_DISABLE_TELEMETRY": "1"}


def facts(root: Path, **changes: object) -> PythonFacts:
    """A sound Python 3.10 on JetPack 6 with TensorRT, pycuda and a Jetson build of onnxruntime-gpu."""
    ort = write(root, "site/onnxruntime/capi/libonnxruntime_providers_tensorrt.so", "").parents[1]
    write(root, "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so", "")
    modules = {"tensorrt": root, "onnxruntime": ort, "pycuda": root, "numpy": root}
    packages = {"tensorrt": "10.3.0", "onnxruntime-gpu": "1.24.0", "numpy": "1.26.4"}
    sound = PythonFacts((3, 10), packages, modules, QUIET, True, True)
    return replace(sound, **changes)  # type: ignore[arg-type]


def without(python: PythonFacts, *modules: str) -> PythonFacts:
    return replace(python, modules={m: f for m, f in python.modules.items() if m not in modules})


def board(tmp_path: Path, release: str = "jp6") -> Path:
    root = build_tree(tmp_path, release)
    install_tegrastats(root)
    return root


def bad(found: list[Finding]) -> dict[str, Finding]:
    return {f.code: f for f in found if f.level != "ok"}


def check(root: Path, python: PythonFacts, free_gb: float = 50.0) -> dict[str, Finding]:
    return bad(diagnose(root, python=python, free_gb=free_gb))


def test_a_sound_board_has_nothing_to_fix(tmp_path: Path) -> None:
    root = board(tmp_path)
    found = diagnose(root, python=facts(root), free_gb=50)
    assert bad(found) == {} and all(f.fix == "" for f in found)
    assert {"python", "runtime", "jetpack", "tensorrt", "power-mode", "clocks", "power", "tegrastats", "memory", "disk"} == {
        f.code for f in found}


def test_python(tmp_path: Path) -> None:
    root = board(tmp_path)
    assert check(root, facts(root, version=(3, 9)))["python"].level == "error"
    assert "python3.10 -m venv" in check(root, facts(root, version=(3, 12)))["python-not-jetpacks"].fix


def test_runtimes(tmp_path: Path) -> None:
    root = board(tmp_path)
    assert "edgedit[jetson]" in check(root, without(facts(root), "tensorrt", "onnxruntime"))["no-runtime"].fix
    assert "edgedit[cpu]" in check(tmp_path / "host", PythonFacts((3, 11)))["no-runtime"].fix
    twice = {"onnxruntime": "1.24", "onnxruntime-gpu": "1.24", "tensorrt": "10.3"}
    assert "onnxruntime-twice" in check(root, facts(root, packages=twice))


@pytest.mark.parametrize(("release", "version", "index"), [("jp6", (3, 10), "jp6/cu126"), ("jp7", (3, 12), "sbsa/cu132")])
def test_onnxruntime_gpu_of_pypi_fails_on_orin(tmp_path: Path, release: str, version: tuple[int, int], index: str) -> None:
    root = board(tmp_path, release)
    python = facts(root, version=version, packages={"tensorrt": "10.16.2", "onnxruntime-gpu": "1.31.1"})
    (tmp_path / "site/onnxruntime/capi/libonnxruntime_providers_tensorrt.so").unlink()
    found = check(root, python)["onnxruntime-gpu-no-orin"]
    assert found.level == "error" and index in found.fix and "sm_87" in found.title


def test_telemetry(tmp_path: Path) -> None:
    root = board(tmp_path)
    python = facts(root, packages={"tensorrt": "10.3.0", "onnxruntime-gpu": "1.29.0"}, environ={})
    assert "ORT_DISABLE_TELEMETRY=1" in check(root, python)["onnxruntime-telemetry"].fix
    assert check(root, replace(python, packages={"tensorrt": "10.3.0", "onnxruntime-gpu": "1.24.0"})) == {}


def test_tensorrt_hidden_by_the_virtual_environment(tmp_path: Path) -> None:
    root = board(tmp_path)
    python = without(facts(root), "tensorrt")
    assert "apt install" in check(root, python)["no-tensorrt"].fix
    (root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    assert "--system-site-packages" in check(root, replace(python, system_site=False))["tensorrt-hidden"].fix
    assert "tensorrt-other-python" in check(root, python)


def test_what_tensorrt_needs(tmp_path: Path) -> None:
    root = board(tmp_path)
    python = facts(root)
    assert "no-cuda-binding" in check(root, without(python, "pycuda"))
    (root / "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so").unlink()
    assert "nvidia-l4t-dla-compiler" in check(root, python)["no-libnvdla"].fix


def test_jetpack7_does_not_need_libnvdla_but_refuses_jetpack6s_tensorrt(tmp_path: Path) -> None:
    root = board(tmp_path, "jp7")
    python = facts(root, version=(3, 12), packages={"tensorrt": "10.16.2.10"})
    (root / "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so").unlink()
    assert check(root, python) == {}
    assert set(check(root, replace(python, packages={"tensorrt": "10.11.0.33+jp6"}))) == {"tensorrt-jp6-on-jp7"}


@pytest.mark.parametrize(("line", "code"), [
    ("# R35 (release), REVISION: 4.1", "jetpack-old"), ("# R36 (release), REVISION: 3.0", "jetpack-old"),
    ("# R36 (release), REVISION: 9.9", "jetpack-unknown"), ("# R32 (release), REVISION: 7.1", "jetpack-old")])
def test_jetpack_releases(tmp_path: Path, line: str, code: str) -> None:
    root = board(tmp_path)
    write(root, "etc/nv_tegra_release", line + "\n")
    assert code in check(root, facts(root))


def test_modes_and_clocks(tmp_path: Path) -> None:
    root = board(tmp_path)
    build_tree(root, locked=False)
    assert "jetson_clocks" in check(root, facts(root))["clocks-free"].fix
    build_tree(root)
    write(root, "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n")
    write(root, "etc/nv_boot_control.conf", "TNSPEC 3767-300-0003--jetson-orin-nano-devkit-\n")
    found = check(root, facts(root))
    assert set(found) == {"power-mode-unknown", "no-super-mode"} and "TNSPEC" in found["no-super-mode"].saw


def test_in_a_container(tmp_path: Path) -> None:
    root = board(tmp_path)
    (root / "usr/bin/tegrastats").unlink()
    (root / "etc/nv_tegra_release").unlink()
    write(root, ".dockerenv", "")
    found = check(root, facts(root))
    assert set(found) == {"no-tegrastats", "jetpack-unknown"} and "-v /usr/bin/tegrastats" in found["no-tegrastats"].fix


def test_power_monitor_that_cannot_be_read(tmp_path: Path) -> None:
    root = board(tmp_path)
    for n in (1, 2, 3):
        (root / HWMON / f"curr{n}_input").write_text("")
    assert "root" in check(root, facts(root))["no-power-monitor"].fix


def test_memory_swap_disk(tmp_path: Path) -> None:
    root = board(tmp_path)
    write(root, "proc/meminfo", "MemTotal: 7800000 kB\nMemAvailable: 900000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    assert set(check(root, facts(root), free_gb=0.5)) == {"low-memory", "no-swap", "low-disk"}


def test_a_host(tmp_path: Path) -> None:
    host = PythonFacts((3, 12), {"onnxruntime": "1.31.1"}, {"onnxruntime": tmp_path}, QUIET)
    found = check(tmp_path, host)
    assert set(found) == {"no-power-source", "no-host-extras"} and "edgedit[host]" in found["no-host-extras"].fix
    zone = "sys/class/powercap/intel-rapl:0"
    write(tmp_path, f"{zone}/name", "package-0")
    os.symlink("/nowhere", tmp_path / zone / "energy_uj")
    assert "chmod a+r" in check(tmp_path, host)["no-power-source"].fix
    (tmp_path / zone / "energy_uj").unlink()
    write(tmp_path, f"{zone}/energy_uj", "5")
    assert "no-power-source" not in check(tmp_path, host)


def test_this_machine() -> None:
    python = read_python()
    assert "numpy" in python.modules and python.packages["numpy"]
    assert {"python", "disk"} <= {f.code for f in diagnose()}
