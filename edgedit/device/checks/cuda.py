"""What lies between Python and the GPU: device nodes and their groups, the driver, nvcc, pycuda, cuda-python."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedit.core.errors import MissingError
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.finding import Finding
from edgedit.device.jetpack import Release, version_numbers
from edgedit.device.nvpmodel import read_live_id, read_table
from edgedit.device.python_facts import PythonFacts
from edgedit.device.sysfs import container, read_text

_NODES = ("nvmap", "nvhost-gpu", "nvhost-ctrl-gpu", "nvhost-as-gpu", "nvgpu/igpu0/*", "dri/renderD*")


@dataclass(frozen=True)
class User:
    """Who would run edgedit: numeric user and groups."""

    uid: int
    gids: frozenset[int]


def read_user() -> User:
    """The user of this process."""
    return User(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


def cuda_findings(root: Path, facts: PythonFacts, release: Release | None, user: User,
                  gpu: Callable[[], GpuFacts] | None) -> Iterator[Finding]:
    """From the device nodes up to the bindings; `gpu` asks CUDA itself, None leaves that out."""
    nodes = [node for pattern in _NODES for node in sorted((root / "dev").glob(pattern))]
    problems = [*_nodes(root, nodes, user), *_driver(root)]
    yield from problems
    yield from _bindings(root, facts, release)
    if not problems and gpu is not None and "pycuda" in facts.modules:
        yield _gpu(root, gpu)


def _nodes(root: Path, nodes: list[Path], user: User) -> Iterator[Finding]:
    if not nodes:
        if (inside := container(root)) is not None:
            yield Finding("error", "no-nvidia-runtime", "this container was started without NVIDIA's runtime: it has no GPU",
                          f"{inside}, no /dev/nvhost-*", "docker run --runtime nvidia … (--gpus all is not enough on a Jetson)")
        else:
            yield Finding("error", "no-gpu", "the GPU's device nodes are missing", "no /dev/nvhost-* and no /dev/nvmap",
                          "sudo apt install --reinstall nvidia-l4t-core nvidia-l4t-3d-core && sudo reboot")
        return
    shut = [node for node in nodes if not _open_to(node, user)]
    if shut:
        groups = sorted({_group(root, node) for node in shut} - {"root"}) or ["video", "render"]
        yield Finding("error", "no-gpu-access", "this user may not use the GPU", ", ".join(f"/{n.relative_to(root)}" for n in shut),
                      f"sudo usermod -aG {','.join(groups)} $USER, then log in again"
                      + (" (in a container: --group-add, with the numbers of these groups)" if container(root) else ""))


def _driver(root: Path) -> Iterator[Finding]:
    folder = root / "usr/lib/aarch64-linux-gnu"
    if not any(any(folder.glob(f"{place}libcuda.so*")) for place in ("", "nvidia/", "tegra/")):
        inside = container(root)
        yield Finding("error", "no-libcuda", "there is no CUDA driver library", f"no libcuda.so in {folder}",
                      "docker run --runtime nvidia …" if inside else "sudo apt install --reinstall nvidia-l4t-cuda")


def _bindings(root: Path, facts: PythonFacts, release: Release | None) -> Iterator[Finding]:
    on_path = any((root / place.lstrip("/") / "nvcc").exists() for place in facts.environ.get("PATH", "").split(os.pathsep) if place)
    installed = on_path or (root / "usr/local/cuda/bin/nvcc").exists()
    cuda = (release.cuda if release is not None else None) or "12.6"
    if not installed:
        yield Finding("warning", "no-nvcc", "nvcc is not there: pycuda cannot be built, and noise is made on the CPU", "no nvcc",
                      f"sudo apt install cuda-toolkit-{cuda.replace('.', '-')}")
    if "pycuda" not in facts.modules:
        title = "TensorRT needs pycuda for memory and streams" + ("" if on_path else "; nvcc is not on PATH, which its build wants")
        yield Finding("warning", "no-pycuda", title, "no pycuda",
                      "sudo apt install build-essential && PATH=/usr/local/cuda/bin:$PATH pip install 'edgedit[jetson]'")
    wheel = facts.packages.get("cuda-bindings") or facts.packages.get("cuda-python")
    if wheel is None and "cuda" not in facts.modules:
        yield Finding("note", "no-cuda-python", "without cuda-python there are no CUDA graphs: batches are started call by call",
                      "no cuda-python", f"pip install 'cuda-python=={cuda}.*'")
    elif wheel and version_numbers(wheel)[:1] != version_numbers(cuda)[:1] and release is not None and release.cuda is not None:
        yield Finding("warning", "cuda-python-other-cuda", f"cuda-python is for another CUDA than JetPack's {cuda}", wheel,
                      f"pip install 'cuda-python=={cuda}.*'")


def _gpu(root: Path, ask: Callable[[], GpuFacts]) -> Finding:
    try:
        facts = ask()
    except MissingError as error:
        return Finding("error", "no-gpu", error.what, error.saw or "", error.fix or "")
    told = f"{facts.name}, {facts.architecture}, {facts.sm_count} SM, {facts.memory_mb:,} MB, CUDA {facts.driver}"
    mode = read_table(root).modes.get(-1 if (live := read_live_id(root)) is None else live)
    return Finding("ok", "gpu", "GPU", told + (f", in mode {mode.name}" if mode is not None else ""))


def _open_to(node: Path, user: User) -> bool:
    """Whether the permission bits let the user read and write."""
    try:
        found = node.stat()
    except OSError:
        return False
    bits = stat.S_IMODE(found.st_mode)
    if user.uid == 0:
        return True
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid in user.gids else 0
    need = 4 if bits & 0o222 == 0 else 6  # some releases give /dev/nvmap to its group for reading only
    return bits >> shift & need == need


def _group(root: Path, node: Path) -> str:
    gid = str(node.stat().st_gid)
    for line in (read_text(root / "etc/group") or "").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == gid:
            return fields[0]
    return "root" if gid == "0" else gid
