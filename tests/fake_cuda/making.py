"""Builds what the double needs, once, into `.work/` of the checkout (ignored by git; removing it is harmless).

* `libcuda.so.1`: libcuda.cpp, and for every other driver function that pycuda links to, one that says "not supported".
* `kernels.so`: edgedit's CUDA source compiled for the host.
* real pycuda from its sdist, without cuRAND: one to two minutes of compiling the first time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
WORK = HERE.parents[1] / ".work"
PYCUDA = "2026.1"
PURE = ("pytools", "platformdirs", "mako", "MarkupSafe", "siphash24", "typing_extensions")
"""What pycuda imports; installed beside it without their dependencies, so that numpy stays the environment's."""
KERNELS = HERE.parents[1] / "edgedit/device/cuda/kernels.cu"


def cuda_headers() -> Path:
    """The folder of cuda.h: of a CUDA toolkit, or of NVIDIA's packages; skips where there is none."""
    nvcc = shutil.which("nvcc")
    roots = [Path(nvcc).resolve().parents[1]] if nvcc else []
    roots += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    packages = [p for entry in sys.path for p in sorted(Path(entry).glob("nvidia/*/include"))]
    for folder in [*(root / "include" for root in roots), *packages]:
        if (folder / "cuda.h").is_file() and (folder / "crt").is_dir():
            return folder
    pytest.skip("no CUDA headers here (cuda.h): install a toolkit or nvidia-cuda-runtime")


def driver() -> Path:
    """Folder with libcuda.so.1 and kernels.so."""
    need("g++")
    include = cuda_headers()
    parts = [HERE / "libcuda.cpp", HERE / "kernels_host.h", KERNELS, HERE / "making.py"]
    mark = hashlib.sha256(b"".join(p.read_bytes() for p in parts) + str(include).encode()).hexdigest()[:12]

    def make(folder: Path) -> None:
        flags = ("-Wl,-soname,libcuda.so.1", f"-I{include}")
        compile_([HERE / "libcuda.cpp"], folder / "libcuda.so.1", *flags)
        defined = symbols("--defined-only", folder / "libcuda.so.1")
        wanted = set().union(*(symbols("--undefined-only", extension) for extension in pycuda().glob("pycuda/_driver*.so")))
        rest = folder / "rest.cpp"
        rest.write_text("".join(f'extern "C" int {name}() {{ return 801; }}\n' for name in sorted(wanted - defined)))  # NOT_SUPPORTED
        compile_([HERE / "libcuda.cpp", rest], folder / "libcuda.so.1", *flags)
        compile_([host_kernels(folder / "kernels.cpp")], folder / "kernels.so", "-ffp-contract=off")

    return once(f"fake_cuda-{mark}", make)


def host_kernels(file: Path) -> Path:
    """kernels.cu as a C++ file, with a launcher for every kernel in it."""
    names = re.findall(r"__global__ void (\w+)\(", KERNELS.read_text())
    launchers = "".join(f'extern "C" void double_launch_{name}(const char *packed, const unsigned *grid, const unsigned *block) '
                        f"{{ double_run({name}, packed, grid, block); }}\n" for name in names)
    file.write_text(f'#include "{HERE / "kernels_host.h"}"\n#include "{KERNELS}"\n{launchers}')
    return file


def pycuda() -> Path:
    """Folder with real pycuda and what it imports, linked to some libcuda.so.1."""
    need("g++")
    include = cuda_headers()

    def make(folder: Path) -> None:
        try:
            pip("download", "--no-deps", "--no-binary", "pycuda", "--dest", str(folder / "sdist"), f"pycuda=={PYCUDA}")
            pip("install", "--no-deps", "--target", str(folder), *PURE)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"the registry gives no pycuda: {error.stderr.strip().splitlines()[-1] if error.stderr else error}")
        source = folder / "source"
        with tarfile.open(next((folder / "sdist").glob("*.tar.gz"))) as archive:
            archive.extractall(source)
        root = source / f"pycuda-{PYCUDA}"
        (source / "any.cpp").write_text('extern "C" int cuInit() { return 0; }')  # one function, or the linker leaves the library out
        compile_([source / "any.cpp"], source / "libcuda.so", "-Wl,-soname,libcuda.so.1")
        (root / "siteconf.py").write_text(
            f"CUDA_ENABLE_CURAND = False\nCUDA_INC_DIR = [{str(include)!r}]\nCUDADRV_LIB_DIR = [{str(source)!r}]\n"
            "CUDADRV_LIBNAME = ['cuda']\nCXXFLAGS = ['-O2', '-g0', '-w']\nLDFLAGS = []\n")
        pip("install", "--no-deps", "--target", str(folder), str(root))
        shutil.rmtree(source)
        shutil.rmtree(folder / "sdist")

    return once(f"pycuda-{PYCUDA}-py{sys.version_info.major}{sys.version_info.minor}", make)


# --- tools ------------------------------------------------------------------------------------------------------------------


def once(name: str, make: Callable[[Path], None]) -> Path:
    """`.work/<name>`, made by `make` if it is not there; processes wait for each other."""
    target = WORK / name
    if target.is_dir():
        return target
    with _alone(name):
        if not target.is_dir():
            part = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".part", dir=WORK))
            try:
                make(part)
                os.replace(part, target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return target


@contextmanager
def _alone(name: str) -> Iterator[None]:
    WORK.mkdir(exist_ok=True)
    with (WORK / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def need(tool: str) -> None:
    """Skip where a tool is not installed."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def compile_(sources: list[Path], out: Path, *flags: str) -> None:
    """A shared library from C++ files."""
    run_("g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", *flags, *map(str, sources), "-o", str(out), "-ldl")


def symbols(which: str, library: Path) -> set[str]:
    """The driver functions that a library defines or needs."""
    return set(re.findall(r"\b(cu[A-Z]\w*)", run_("nm", "-D", which, str(library))))


def pip(*arguments: str) -> None:
    run_(sys.executable, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:])


def run_(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stderr[-2000:]) if sys.version_info >= (3, 11) else None
        raise error
    return done.stdout
