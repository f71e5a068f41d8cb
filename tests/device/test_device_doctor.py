"""The doctor on boards, hosts and containers that each have one thing wrong."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgedit.core.errors import MissingError
from edgedit.device import mode_state as kept
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.doctor import Finding, User, diagnose
from edgedit.device.python_facts import PythonFacts, read_python
from tests.fake_jetson import HWMON, MATRIX, build_board, build_tree, install_dmesg, install_tegrastats, write

QUIET = {"ORT_DISABLE_TELEMETRY": "1", "PATH": "/usr/bin:/usr/local/cuda/bin"}
USER = User(1000, frozenset({1000}))
NVIDIA = "usr/lib/aarch64-linux-gnu/nvidia"


def facts(root: Path, **changes: object) -> PythonFacts:
    """A sound Python 3.10 on JetPack 6 with TensorRT, pycuda, cuda-python and a Jetson build of onnxruntime-gpu."""
    ort = write(root, "site/onnxruntime/capi/libonnxruntime_providers_tensorrt.so", "").parents[1]
    write(root, f"{NVIDIA}/libnvdla_compiler.so", "ELF")
    modules = {"tensorrt": root, "onnxruntime": ort, "pycuda": root, "cuda": root, "numpy": root}
    packages = {"tensorrt": "10.3.0", "onnxruntime-gpu": "1.24.0", "numpy": "1.26.4", "cuda-python": "12.6.2"}
    sound = PythonFacts((3, 10), packages, modules, QUIET, True, True)
    return replace(sound, **changes)  # type: ignore[arg-type]


def facts7(root: Path, **changes: object) -> PythonFacts:
    """The same for JetPack 7.2."""
    sound = facts(root, version=(3, 12), packages={"tensorrt": "10.16.2.10", "numpy": "2.3.0", "cuda-python": "13.2.1"})
    (root / f"{NVIDIA}/libnvdla_compiler.so").unlink()
    return replace(sound, **changes)  # type: ignore[arg-type]


def having(python: PythonFacts, **packages: str) -> PythonFacts:
    """Other versions; "_" stands for "-"."""
    return replace(python, packages={**python.packages, **{name.replace("_", "-"): version for name, version in packages.items()}})


def without(python: PythonFacts, *modules: str) -> PythonFacts:
    return replace(python, modules={m: f for m, f in python.modules.items() if m not in modules})


def board(tmp_path: Path, release: str = "jp6") -> Path:
    root = build_tree(tmp_path, release)
    install_tegrastats(root)
    return root


def bad(found: list[Finding]) -> dict[str, Finding]:
    return {f.code: f for f in found if f.level != "ok"}


def check(root: Path, python: PythonFacts, free_gb: float = 50.0, user: User = USER) -> dict[str, Finding]:
    found = bad(diagnose(root, python=python, free_gb=free_gb, user=user))
    assert all(f.fix for f in found.values()), "every finding says what to type"
    return found


def test_a_sound_board_has_nothing_to_fix(tmp_path: Path) -> None:
    root = board(tmp_path)
    orin = GpuFacts("Orin", (8, 7), 8, 7620, 5000, True, "12.6")
    found = diagnose(root, python=facts(root), free_gb=50, user=USER, gpu=lambda: orin)
    assert bad(found) == {} and all(f.fix == "" for f in found)
    assert {f.code for f in found} == {"python", "runtime", "jetpack", "tensorrt", "attention", "precision", "gpu", "power-mode", "clocks",
                                       "power", "tegrastats", "memory", "disk"}
    assert "sm_87, 8 SM" in next(f.saw for f in found if f.code == "gpu")


@pytest.mark.parametrize(("name", "jetpack"), [pair for pair in MATRIX if pair[1] in ("6.2", "6.2.2", "7.2", "7.2.1")])
def test_every_board_of_a_supported_jetpack_is_sound_up_to_its_own_notes(tmp_path: Path, name: str, jetpack: str) -> None:
    root = build_board(tmp_path, name, jetpack, locked=True)
    install_tegrastats(root)
    python = facts(root) if jetpack.startswith("6") else facts7(root)
    own = {"orin-nano-8gb": {"no-super-mode"}, "orin-nano-4gb": {"no-super-mode"}, "agx-orin": {"gpu-parts-off"}}
    found = check(root, python)
    assert set(found) == own.get(name, set())


def test_python(tmp_path: Path) -> None:
    root = board(tmp_path)
    assert check(root, facts(root, version=(3, 9)))["python"].level == "error"
    assert "python3.10 -m venv" in check(root, facts(root, version=(3, 12)))["python-not-jetpacks"].fix


def test_runtimes(tmp_path: Path) -> None:
    root = board(tmp_path)
    assert "edgedit[jetson]" in check(root, without(facts(root), "tensorrt", "onnxruntime"))["no-runtime"].fix
    assert "edgedit[cpu]" in check(tmp_path / "host", PythonFacts((3, 11)))["no-runtime"].fix
    assert "onnxruntime-twice" in check(root, having(facts(root), onnxruntime="1.24"))
    cpu = replace(without(facts(root), "tensorrt"), packages={"onnxruntime": "1.23.2"})
    assert "python3-libnvinfer" in check(root, cpu)["cpu-only"].fix


@pytest.mark.parametrize(("release", "version", "index"), [("jp6", (3, 10), "jp6/cu126"), ("jp7", (3, 12), "sbsa/cu132")])
def test_onnxruntime_gpu_of_pypi_fails_on_orin(tmp_path: Path, release: str, version: tuple[int, int], index: str) -> None:
    root = board(tmp_path, release)
    python = having(facts(root, version=version), tensorrt="10.16.2", onnxruntime_gpu="1.31.1")
    (tmp_path / "site/onnxruntime/capi/libonnxruntime_providers_tensorrt.so").unlink()
    found = check(root, python)["onnxruntime-gpu-no-orin"]
    assert found.level == "error" and index in found.fix and "sm_87" in found.title


def test_jetson_wheels_of_onnxruntime_want_numpy_1(tmp_path: Path) -> None:
    root = board(tmp_path)
    assert "numpy<2" in check(root, having(facts(root), numpy="2.2.6"))["numpy-too-new"].fix
    assert check(root, having(facts(root), numpy="2.2.6", onnxruntime_gpu="1.26.0")) == {}


def test_telemetry(tmp_path: Path) -> None:
    root = board(tmp_path)
    python = having(facts(root, environ={"PATH": QUIET["PATH"]}), onnxruntime_gpu="1.29.0")
    assert "ORT_DISABLE_TELEMETRY=1" in check(root, python)["onnxruntime-telemetry"].fix
    assert check(root, having(python, onnxruntime_gpu="1.24.0")) == {}


def test_tensorrt_hidden_by_the_virtual_environment(tmp_path: Path) -> None:
    root = board(tmp_path)
    python = without(facts(root), "tensorrt")
    assert "apt install" in check(root, python)["no-tensorrt"].fix
    (root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    assert "--system-site-packages" in check(root, replace(python, system_site=False))["tensorrt-hidden"].fix
    assert "tensorrt-other-python" in check(root, python)


def test_what_tensorrt_loads(tmp_path: Path) -> None:
    root = board(tmp_path)
    python, library = facts(root), root / f"{NVIDIA}/libnvdla_compiler.so"
    write(root, "etc/ld.so.cache", "glibc-ld.so.cache1.1 libcuda.so.1\0")
    assert check(root, python)["libnvdla-not-cached"].fix == "sudo ldconfig"
    write(root, "etc/ld.so.cache", "glibc-ld.so.cache1.1 libcuda.so.1\0libnvdla_compiler.so\0")
    assert check(root, python) == {}
    library.write_text("")
    assert "on the board itself" in check(root, python)["libnvdla-empty"].fix
    library.unlink()
    assert "nvidia-l4t-dla-compiler" in check(root, python)["no-libnvdla"].fix


def test_bindings(tmp_path: Path) -> None:
    root = board(tmp_path)
    python = facts(root)
    assert "PATH=/usr/local/cuda/bin" in check(root, without(python, "pycuda"))["no-pycuda"].fix
    shut = check(root, replace(without(python, "pycuda"), environ={**QUIET, "PATH": "/usr/bin"}))
    assert "nvcc is not on PATH" in shut["no-pycuda"].title
    bare = replace(without(python, "cuda"), packages={k: v for k, v in python.packages.items() if k != "cuda-python"})
    assert "cuda-python==12.6.*" in check(root, bare)["no-cuda-python"].fix
    assert "cuda-python==12.6.*" in check(root, having(python, cuda_python="13.5.0"))["cuda-python-other-cuda"].fix
    (root / "usr/local/cuda/bin/nvcc").unlink()
    assert "cuda-toolkit-12-6" in check(root, python)["no-nvcc"].fix


def test_versions_of_tensorrt(tmp_path: Path) -> None:
    root = board(tmp_path)
    python = facts(root)
    assert set(check(root, having(python, tensorrt="8.6.2"))) == {"tensorrt-old"}
    assert set(check(root, having(python, tensorrt="12.0.0"))) == {"tensorrt-new"}
    assert set(check(root, having(python, tensorrt="11.4.1"))) == {"tensorrt-jp7-on-jp6"}
    assert check(root, having(python, tensorrt="10.7.0.23")) == {}
    root = board(tmp_path / "seven", "jp7")
    assert check(root, facts7(root)) == {} == check(root, having(facts7(root), tensorrt="11.4.1"))
    assert set(check(root, having(facts7(root), tensorrt="10.11.0.33+jp6"))) == {"tensorrt-jp6-on-jp7"}


@pytest.mark.parametrize(("jetpack", "name"), [("5.1.2", "orin-nano-8gb"), ("6.0", "agx-orin")])
def test_older_jetpacks_are_refused_with_the_one_to_flash(tmp_path: Path, jetpack: str, name: str) -> None:
    root = build_board(tmp_path, name, jetpack)
    found = check(root, facts(root))["jetpack-old"]
    assert found.level == "error" and "fuses no attention" in found.title and "JetPack 6.2" in found.fix


@pytest.mark.parametrize(("line", "code"), [
    ("# R35 (release), REVISION: 4.1", "jetpack-old"), ("# R36 (release), REVISION: 3.0", "jetpack-old"),
    ("# R36 (release), REVISION: 9.9", "jetpack-unknown"), ("# R32 (release), REVISION: 7.1", "jetpack-old")])
def test_jetpack_releases(tmp_path: Path, line: str, code: str) -> None:
    root = board(tmp_path)
    write(root, "etc/nv_tegra_release", line + "\n")
    assert code in check(root, facts(root))


# --- the GPU ------------------------------------------------------------------------------------------------------------------


def no_devices(root: Path) -> None:
    shutil.rmtree(root / "dev")


def test_a_container_without_nvidias_runtime(tmp_path: Path) -> None:
    root = board(tmp_path)
    no_devices(root)
    (root / f"{NVIDIA}/libcuda.so.1.1").unlink()
    write(root, ".dockerenv", "")
    found = check(root, facts(root))
    assert set(found) == {"no-nvidia-runtime", "no-libcuda"} and "--runtime nvidia" in found["no-nvidia-runtime"].fix
    assert found["no-nvidia-runtime"].level == "error"


def test_a_board_without_its_gpu(tmp_path: Path) -> None:
    root = board(tmp_path)
    no_devices(root)
    assert "nvidia-l4t-core" in check(root, facts(root))["no-gpu"].fix
    whole = board(tmp_path / "whole")

    def fail() -> GpuFacts:
        raise MissingError("CUDA finds no GPU", saw="error 100", fix="reboot")

    assert bad(diagnose(whole, python=facts(whole), free_gb=50, user=USER, gpu=fail))["no-gpu"].fix == "reboot"


def test_a_user_outside_the_groups_of_the_device_nodes(tmp_path: Path) -> None:
    root = board(tmp_path)
    node = root / "dev/nvmap"
    node.chmod(0o440)  # reading is all that some releases give to the group
    write(root, "etc/group", f"video:x:{node.stat().st_gid}:\n")
    stranger = User(node.stat().st_uid + 1, frozenset({node.stat().st_gid + 1}))
    found = check(root, facts(root), user=stranger)["no-gpu-access"]
    assert found.fix.startswith("sudo usermod -aG video $USER") and "/dev/nvmap" in found.saw
    assert check(root, facts(root), user=replace(stranger, gids=frozenset({node.stat().st_gid}))) == {}
    assert check(root, facts(root), user=User(0, frozenset())) == {}


# --- mode, clocks, heat -------------------------------------------------------------------------------------------------------


def test_modes_and_clocks(tmp_path: Path) -> None:
    root = board(tmp_path)
    build_tree(root, locked=False)
    assert "jetson_clocks" in check(root, facts(root))["clocks-free"].fix
    build_tree(root)
    write(root, "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n")
    write(root, "etc/nv_boot_control.conf", "TNSPEC 3767-300-0003--jetson-orin-nano-devkit-\n")
    found = check(root, facts(root))
    assert set(found) == {"power-mode-unknown", "no-super-mode"} and "TNSPEC" in found["no-super-mode"].saw


def test_mode_0_of_a_super_board_is_its_slowest(tmp_path: Path) -> None:
    root = build_tree(tmp_path, mode=0)
    install_tegrastats(root)
    assert check(root, facts(root))["mode-0-is-not-the-fastest"].fix == (
        "sudo nvpmodel -m 2, or edgedit profile --power-mode MAXN_SUPER")


def test_super_modes(tmp_path: Path) -> None:
    root = board(tmp_path, "jp7")
    write(root, "sys/class/devfreq/17000000.gpu/max_freq", "624750000\n")
    write(root, "sys/class/devfreq/17000000.gpu/min_freq", "624750000\n")
    assert "JetPack 7.2.1" in check(root, facts7(root))["gpu-stuck-at-625"].fix
    write(root, "etc/nv_boot_control.conf", "TNSPEC 3767-300-0005-X.1-1-1-jetson-orin-nano-devkit-\n")
    assert "devkit-super" in check(root, facts7(root))["super-not-flashed"].fix
    root = build_board(tmp_path / "iso", "orin-nano-8gb", "7.2")
    assert "7.2.1" in check(root, facts7(root))["no-super-mode"].fix


def test_a_mode_that_gates_tpcs(tmp_path: Path) -> None:
    root = build_tree(tmp_path, mode=3)
    install_tegrastats(root)
    found = check(root, facts(root))["gpu-parts-off"]
    assert "TPC_POWER_GATING 252" in found.saw and "reboot" in found.fix


def test_a_cap_that_is_not_in_force(tmp_path: Path) -> None:
    root = build_tree(tmp_path, mode=1)
    install_tegrastats(root)
    write(root, "sys/class/devfreq/17000000.gpu/max_freq", "1020000000\n")
    assert check(root, facts(root))["mode-caps-differ"].fix == "sudo nvpmodel -m 1"


def test_what_a_killed_run_left(tmp_path: Path) -> None:
    root = board(tmp_path)
    folder = root / "var/lib/edgedit"
    folder.mkdir(parents=True)
    kept.save_state(folder, kept.BoardState(kept.boot_id(root), 1, "25W", 2, "MAXN_SUPER", True, "/b.conf", "/w.conf", "2026-11-01", 7))
    found = check(root, facts(root))["mode-left"]
    assert found.fix == ("sudo jetson_clocks --restore /w.conf && sudo nvpmodel -m 1 && sudo jetson_clocks --restore /b.conf && "
                         f"sudo rm {folder / 'board.json'}") and "MAXN_SUPER, clocks pinned" in found.saw
    lock = kept.hold(folder)
    assert set(check(root, facts(root))) == {"mode-held"}
    os.close(lock)
    write(root, "var/lib/nvpmodel/status", "pmode:0001\n")
    assert "mode-left" not in check(root, facts(root))


def test_what_the_script_left(tmp_path: Path) -> None:
    root = board(tmp_path)
    assert "script-mode-left" not in check(root, facts(root))
    write(root, "var/tmp/edgedit-power/state", "pid=77\nbegan=1\nboot=x\nmode=25W\n")
    assert "mode=25W" in check(root, facts(root))["script-mode-left"].saw


def test_heat_and_over_current(tmp_path: Path) -> None:
    root = board(tmp_path)
    write(root, "sys/class/hwmon/hwmon1/oc3_event_cnt", "4\n")
    write(root, "sys/class/thermal/thermal_zone3/temp", "95500\n")
    found = check(root, facts(root))
    assert set(found) == {"over-current", "near-thermal-limit"} and found["over-current"].saw == "oc3 4"
    assert "tj-thermal 95.5 °C of 99" in found["near-thermal-limit"].saw


# --- power --------------------------------------------------------------------------------------------------------------------


def test_tegrastats_and_modes_in_a_container(tmp_path: Path) -> None:
    root = board(tmp_path)
    (root / "usr/bin/tegrastats").unlink()
    (root / "etc/nv_tegra_release").unlink()
    (root / "etc/nvpmodel.conf").unlink()
    write(root, ".dockerenv", "")
    found = check(root, facts(root))
    assert set(found) == {"no-tegrastats", "jetpack-unknown", "power-mode-unknown"}
    assert "-v /usr/bin/tegrastats" in found["no-tegrastats"].fix and "-v /etc/nvpmodel.conf" in found["power-mode-unknown"].fix


def test_tegrastats_that_is_not_there(tmp_path: Path) -> None:
    root = board(tmp_path)
    (root / "usr/bin/tegrastats").unlink()
    assert "nvidia-l4t-tools" in check(root, facts(root))["no-tegrastats"].fix


def test_power_monitor_that_cannot_be_read(tmp_path: Path) -> None:
    root = board(tmp_path)
    for n in (1, 2, 3):
        (root / HWMON / f"curr{n}_input").write_text("")
    assert "root" in check(root, facts(root))["no-power-monitor"].fix


def test_rails_of_jetpack_5_need_root(tmp_path: Path) -> None:
    root = build_board(tmp_path, "orin-nano-8gb", "5.1.2")
    install_tegrastats(root)
    assert "rails-need-root" not in check(root, facts(root))
    shutil.rmtree(root / "sys/bus")
    assert "sudo" in check(root, facts(root))["rails-need-root"].fix
    assert "rails-need-root" not in check(root, facts(root), user=User(0, frozenset()))


def test_jtop(tmp_path: Path) -> None:
    root = board(tmp_path)
    write(root, "run/jtop.sock", "")
    assert "jtop.service" in check(root, facts(root))["jtop"].fix


# --- memory, disk -------------------------------------------------------------------------------------------------------------


def test_memory_swap_disk(tmp_path: Path) -> None:
    root = board(tmp_path)
    write(root, "proc/meminfo", "MemTotal: 7800000 kB\nMemAvailable: 900000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    assert set(check(root, facts(root), free_gb=0.5)) == {"low-memory", "no-swap", "low-disk"}


def test_memory_that_cuda_does_not_see_as_free(tmp_path: Path) -> None:
    root = board(tmp_path)
    write(root, "proc/meminfo", "MemTotal: 7800000 kB\nMemFree: 300000 kB\nMemAvailable: 5000000 kB\n")
    write(root, "proc/buddyinfo", "Node 0, zone   Normal    900    700    500    300    200    100     80     60      9      2      0\n")
    found = check(root, facts(root))
    assert set(found) == {"page-cache", "memory-fragmented"} and found["memory-fragmented"].saw == "largest free blocks: 2 × 2 MB"
    assert found["page-cache"].fix == "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches"


def test_swap_that_is_only_zram(tmp_path: Path) -> None:
    root = board(tmp_path)
    zram = "".join(f"/dev/zram{n} partition 650160 128 5\n" for n in range(6))
    write(root, "proc/swaps", f"Filename Type Size Used Priority\n{zram}")
    assert "/swapfile" in check(root, facts(root))["only-zram"].fix


def test_a_desktop(tmp_path: Path) -> None:
    root = board(tmp_path)
    write(root, "proc/4242/comm", "gnome-shell\n")
    assert "multi-user.target" in check(root, facts(root))["desktop"].fix


def test_failed_allocations_in_the_kernels_log(tmp_path: Path) -> None:
    root = build_board(tmp_path, jetpack="6.2.1", mode=2, locked=True)
    install_tegrastats(root)
    install_dmesg(root, "[    0.0] Booting Linux\n[   12.3] nvmap: registered device\n")
    assert check(root, facts(root)) == {}
    install_dmesg(root, "[  812.1] NvMapMemAllocInternalTagged: 1075072515 error 12\n")
    found = check(root, facts(root))["nvmap-errors"]
    assert "36.4.7" in found.title and "6.2.2" in found.fix
    (root / "usr/bin/dmesg").unlink()
    assert check(root, facts(root)) == {}
    write(root, "var/log/kern.log", "kernel: NvMapMemAllocInternalTagged: 1 error 12\n")
    assert "nvmap-errors" in check(root, facts(root))


# --- hosts --------------------------------------------------------------------------------------------------------------------


def test_a_host(tmp_path: Path) -> None:
    host = PythonFacts((3, 12), {"onnxruntime": "1.31.1"}, {"onnxruntime": tmp_path}, QUIET)
    found = check(tmp_path, host)
    assert "no-gpu" in check(tmp_path, having(host, tensorrt="10.16.1"))
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
