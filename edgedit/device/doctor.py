"""Look at the machine and say what would go wrong, before it does. Reads only; fixes are for the user to type."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from edgedit.core.errors import MissingError
from edgedit.device.board import memory_mb
from edgedit.device.doctor_jetson import jetson_findings
from edgedit.device.finding import Finding
from edgedit.device.host_power import NvmlSource, RaplSource
from edgedit.device.jetpack import Release, read_release, version_numbers
from edgedit.device.power_source import PowerSource
from edgedit.device.python_facts import PythonFacts, read_python
from edgedit.device.sysfs import is_jetson

__all__ = ["Finding", "diagnose"]

PYTHONS = ((3, 10), (3, 13))
MIN_DISK_GB, MIN_MEMORY_MB = 2.0, 1500


def diagnose(root: Path = Path("/"), *, python: PythonFacts | None = None, folder: Path = Path("."),
             free_gb: float | None = None) -> list[Finding]:
    """Everything the device side depends on, in the order in which it matters.

    Args:
        root: root of the file system that is looked at.
        python: facts of the Python to judge; None takes the running one.
        folder: where output would go, for the disk check.
        free_gb: free space there; None asks the system.
    """
    facts = python if python is not None else read_python()
    release, jetson = read_release(root), is_jetson(root)
    free = shutil.disk_usage(folder).free / 1e9 if free_gb is None else free_gb
    found = [_python(facts, release), *_runtimes(facts, jetson), *_onnxruntime(facts, jetson, release)]
    found += jetson_findings(root, facts, release) if jetson else [*_host_power(root), *_host_extras(facts)]
    return [*found, *_memory(root, jetson), _disk(folder, free)]


def _python(facts: PythonFacts, release: Release | None) -> Finding:
    version = ".".join(map(str, facts.version))
    if not PYTHONS[0] <= facts.version <= PYTHONS[1]:
        return Finding("error", "python", "Python is not supported", version, "use Python 3.10 to 3.13")
    if release is not None and release.python not in (None, version):
        return Finding("warning", "python-not-jetpacks",
                       f"Python is not JetPack's {release.python}, and cannot import its TensorRT",
                       version, f"python{release.python} -m venv --system-site-packages .venv")
    return Finding("ok", "python", "Python", version)


def _runtimes(facts: PythonFacts, jetson: bool) -> Iterator[Finding]:
    names = [name for name in ("tensorrt", "onnxruntime", "torch") if name in facts.modules]
    if not names:
        yield Finding("error", "no-runtime", "no runtime is installed: nothing can run a bundle",
                      "no tensorrt, onnxruntime or torch",
                      "pip install 'edgedit[jetson]' (TensorRT comes with JetPack)" if jetson else "pip install 'edgedit[cpu]'")
        return
    versions = (facts.packages.get(name) or facts.packages.get(f"{name}-gpu") or "" for name in names)
    told = ", ".join(f"{name} {version}".strip() for name, version in zip(names, versions, strict=True))
    yield Finding("ok", "runtime", "runtimes", told)


def _onnxruntime(facts: PythonFacts, jetson: bool, release: Release | None) -> Iterator[Finding]:
    cpu, gpu = facts.packages.get("onnxruntime"), facts.packages.get("onnxruntime-gpu")
    if cpu and gpu:
        yield Finding("warning", "onnxruntime-twice", "onnxruntime and onnxruntime-gpu overwrite each other's files",
                      f"{cpu} and {gpu}", "pip uninstall onnxruntime onnxruntime-gpu, then install one of them")
    folder = facts.modules.get("onnxruntime")
    if gpu and jetson and folder is not None and not (folder / "capi/libonnxruntime_providers_tensorrt.so").exists():
        index = "sbsa/cu132" if release is not None and release.major >= 38 else "jp6/cu126"
        yield Finding("error", "onnxruntime-gpu-no-orin",
                      "this onnxruntime-gpu is PyPI's: it holds no code for Orin (sm_87) and fails at the first kernel",
                      f"{gpu}, without a TensorRT provider",
                      "pip install --force-reinstall onnxruntime-gpu "
                      f"--index-url https://pypi.jetson-ai-lab.io/{index}/+simple/")
    version = cpu or gpu
    if version and version_numbers(version) >= (1, 29) and facts.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        yield Finding("note", "onnxruntime-telemetry",
                      "onnxruntime 1.29 and newer sends telemetry; edgedit switches it off for itself",
                      version, "export ORT_DISABLE_TELEMETRY=1 for your other programs")


def _host_power(root: Path) -> Iterator[Finding]:
    makers: dict[str, Callable[[], PowerSource]] = {"RAPL": lambda: RaplSource(root), "NVML": NvmlSource}
    if not (root / "proc/driver/nvidia/version").exists():
        del makers["NVML"]
    readable, reasons = [], []
    for name, maker in makers.items():
        try:
            maker().stop()
            readable.append(name)
        except MissingError as error:
            reasons.append(error)
    if readable:
        yield Finding("ok", "power", "power source", ", ".join(readable))
    else:
        yield Finding("note", "no-power-source", "no power source: profiles will hold times without energy",
                      "; ".join(f"{e.what} ({e.saw})" for e in reasons), next((e.fix for e in reasons if e.fix), ""))


def _host_extras(facts: PythonFacts) -> Iterator[Finding]:
    missing = [name for name in ("torch", "onnx", "lpips") if name not in facts.modules]
    if missing:
        yield Finding("note", "no-host-extras",
                      "training and export are not installed; generate, profile and report work without them",
                      f"no {', '.join(missing)}", "pip install 'edgedit[host]'")
    else:
        yield Finding("ok", "host-extras", "training and export", "torch, onnx, lpips")


def _memory(root: Path, jetson: bool) -> Iterator[Finding]:
    memory = memory_mb(root)
    available, total = memory.get("memory_available_mb"), memory.get("memory_total_mb")
    if available is not None and available < MIN_MEMORY_MB:
        yield Finding("warning", "low-memory", "little memory is free" + ("; a TensorRT build may be killed" if jetson else ""),
                      f"{available} of {total} MB",
                      "sudo systemctl isolate multi-user.target (closes the desktop)" if jetson else "close other programs")
    elif available is not None:
        yield Finding("ok", "memory", "memory", f"{available} of {total} MB free")
    if jetson and memory.get("swap_total_mb") == 0:
        yield Finding("note", "no-swap", "there is no swap; a TensorRT build may be killed", "SwapTotal 0", "add a swap file")


def _disk(folder: Path, free_gb: float) -> Finding:
    if free_gb < MIN_DISK_GB:
        return Finding("warning", "low-disk", "little space is free", f"{free_gb:.1f} GB in {folder}", "free some space")
    return Finding("ok", "disk", "disk", f"{free_gb:.0f} GB free in {folder}")
