"""Python, its runtimes, and the wheels that install well and do not work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgedit.device.finding import Finding
from edgedit.device.jetpack import Release, version_numbers
from edgedit.device.python_facts import PythonFacts

PYTHONS = ((3, 10), (3, 13))
_COMMUNITY = ("1.24", "1.28")
"""onnxruntime-gpu of the community wheels for JetPack 6 and 7.2, which were built for numpy 1 (jetson.md §1.3)."""


def python_findings(root: Path, facts: PythonFacts, release: Release | None, jetson: bool) -> Iterator[Finding]:
    """Python's version, installed runtimes, ONNX Runtime's wheel and its numpy, its telemetry, the GPU of a host."""
    yield _python(facts, release)
    yield from _runtimes(facts, jetson)
    yield from _onnxruntime(facts, jetson, release)
    if not jetson:
        yield from _host_gpu(root, facts)


def wheel_index(release: Release | None) -> str:
    """The index that holds ONNX Runtime for this JetPack."""
    return f"https://pypi.jetson-ai-lab.io/{'sbsa/cu132' if release is not None and release.major >= 38 else 'jp6/cu126'}/+simple/"


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
        yield Finding("error" if jetson else "warning", "no-runtime", "no runtime is installed: NumPy runs bundles, slowly",
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
    install = f"pip install --force-reinstall onnxruntime-gpu --index-url {wheel_index(release)}"
    if gpu and jetson and folder is not None and not (folder / "capi/libonnxruntime_providers_tensorrt.so").exists():
        yield Finding("error", "onnxruntime-gpu-no-orin",
                      "this onnxruntime-gpu is PyPI's: it holds no code for Orin (sm_87) and fails at the first kernel",
                      f"{gpu}, without a TensorRT provider", install)
    elif gpu and jetson and gpu.startswith(_COMMUNITY) and version_numbers(facts.packages.get("numpy", "")) >= (2,):
        yield Finding("warning", "numpy-too-new", "the Jetson wheels of onnxruntime-gpu want numpy 1",
                      f"numpy {facts.packages['numpy']}, onnxruntime-gpu {gpu}", "pip install 'numpy<2'")
    if jetson and cpu and not gpu and "tensorrt" not in facts.modules:
        yield Finding("warning", "cpu-only", "only the CPU can run a bundle here", f"onnxruntime {cpu}, no TensorRT",
                      "sudo apt install python3-libnvinfer python3-libnvinfer-dev, and use its Python")
    version = cpu or gpu
    if version and version_numbers(version) >= (1, 29) and facts.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        yield Finding("note", "onnxruntime-telemetry",
                      "onnxruntime 1.29 and newer sends telemetry; edgedit switches it off for itself",
                      version, "export ORT_DISABLE_TELEMETRY=1 for your other programs")


def _host_gpu(root: Path, facts: PythonFacts) -> Iterator[Finding]:
    wants = [name for name in ("tensorrt", "onnxruntime-gpu", "pycuda") if name in facts.packages]
    if wants and not any((root / "proc/driver/nvidia/gpus").glob("*")):
        yield Finding("note", "no-gpu", "packages for a GPU are installed, but no NVIDIA GPU shows", ", ".join(wants),
                      "nvidia-smi shows the driver's side; --runtime ort --provider cpu runs without a GPU")
