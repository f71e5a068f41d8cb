"""Look at the machine and say what would go wrong, before it does. Reads only; fixes are for the user to type."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from edgedit.device.checks.cuda import User, cuda_findings, read_user
from edgedit.device.checks.memory import disk_finding, memory_findings
from edgedit.device.checks.modes import mode_findings
from edgedit.device.checks.power import host_power_finding, power_findings
from edgedit.device.checks.python import python_findings
from edgedit.device.checks.tensorrt import jetpack_finding, tensorrt_findings
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.finding import Finding
from edgedit.device.jetpack import read_release
from edgedit.device.python_facts import PythonFacts, read_python
from edgedit.device.sysfs import is_jetson

__all__ = ["Finding", "User", "diagnose"]


def diagnose(root: Path = Path("/"), *, python: PythonFacts | None = None, folder: Path = Path("."),
             free_gb: float | None = None, user: User | None = None, gpu: Callable[[], GpuFacts] | None = None) -> list[Finding]:
    """Everything the device side depends on, in the order in which it matters. Every finding that is not "ok" has a fix.

    Args:
        root: root of the file system that is looked at.
        python: facts of the Python to judge; None takes the running one.
        folder: where output would go, for the disk check.
        free_gb: free space there; None asks the system.
        user: whose rights count; None takes this process's.
        gpu: asks CUDA for the GPU and its SM count; None asks through pycuda, on the real root only.
    """
    facts = python if python is not None else read_python()
    release, jetson = read_release(root), is_jetson(root)
    free = shutil.disk_usage(folder).free / 1e9 if free_gb is None else free_gb
    who = user if user is not None else read_user()
    found = [*python_findings(root, facts, release, jetson)]
    if jetson:
        ask = gpu if gpu is not None or root != Path("/") else _ask_cuda
        found += [jetpack_finding(root, release), *tensorrt_findings(root, facts, release),
                  *cuda_findings(root, facts, release, who, ask), *mode_findings(root, release),
                  *power_findings(root, facts, release, who.uid)]
    else:
        found += [host_power_finding(root), _host_extras(facts)]
    return [*found, *memory_findings(root, jetson, release), disk_finding(folder, free)]


def _ask_cuda() -> GpuFacts:
    from edgedit.device.cuda.device import read_gpu

    return read_gpu()


def _host_extras(facts: PythonFacts) -> Finding:
    missing = [name for name in ("torch", "onnx", "lpips") if name not in facts.modules]
    if missing:
        return Finding("note", "no-host-extras",
                       "training and export are not installed; generate, profile and report work without them",
                       f"no {', '.join(missing)}", "pip install 'edgedit[host]'")
    return Finding("ok", "host-extras", "training and export", "torch, onnx, lpips")
