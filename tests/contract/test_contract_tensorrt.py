"""Our TensorRT code against NVIDIA's real bindings, version by version: names, signatures, types, and the facts it relies on.

The extension is real; the libraries behind it are stubs (tests.contract.bindings). A method's existence, arguments and types are
thereby checked; what the libraries would do is not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.bindings import CACHE, ROOT, VERSIONS, load_real, real_bindings, version_tuple
from tests.contract.pyi import Stubs
from tests.contract.uses import indirect, missing, module_uses, needs

OURS = ROOT / "edgedit" / "device" / "trt"
FILES = sorted(OURS.glob("*.py"))
MYPY = """[mypy]
python_version = 3.10
ignore_missing_imports = True
check_untyped_defs = True
follow_imports = silent
"""
ERROR = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: (?P<text>.*)  \[(?P<code>[a-z-]+)\]$", re.MULTILINE)


def files_for(version: str) -> list[Path]:
    """Our files, without those that need a newer TensorRT."""
    return [file for file in FILES if version_tuple(version) >= needs(file.read_text())]


# --- names ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_we_use_is_there(version):
    uses = [use for file in files_for(version) for use in module_uses(file, "tensorrt")]
    assert len(uses) > 20, "the walk over edgedit/device/trt found next to nothing: it has gone blind"
    assert not missing(load_real(version), uses)


def test_no_name_is_asked_for_by_text():
    """getattr and hasattr on the module would go past every check here."""
    assert not [place for file in FILES for place in indirect(file, "tensorrt")]


def test_the_walk_sees_what_is_missing(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("import tensorrt as trt\nfrom tensorrt import ICudaEngine\nNEEDS = (10, 14)\n"
                    "flag = trt.BuilderFlag.FP16\ndef f(x: trt.IInt8Calibrator) -> None: getattr(trt, 'y')\n")
    uses = module_uses(file, "tensorrt")
    assert {".".join(use.names) for use in uses} == {"BuilderFlag.FP16", "IInt8Calibrator", "ICudaEngine"}
    assert not missing(load_real(VERSIONS[0]), uses)
    assert [text.rsplit(": ", 1)[1] for text in missing(load_real(VERSIONS[-1]), uses)] == [
        "BuilderFlag has no 'FP16'", f"{load_real(VERSIONS[-1]).__name__} has no 'IInt8Calibrator'"]
    assert needs(file.read_text()) == (10, 14) and indirect(file, "tensorrt") == ["module.py:5: getattr"]


# --- signatures and types ---------------------------------------------------------------------------------------------------


def stubs(version: str) -> Path:
    """A folder with type stubs made from the real module; written anew only when they change, so that mypy's cache holds."""
    text, file = Stubs(load_real(version)).text(), CACHE / "mypy" / version / "stubs" / "tensorrt" / "__init__.pyi"
    if not file.is_file() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"draft-{os.getpid()}")
        draft.write_text(text)
        os.replace(draft, file)
    return file.parent.parent


def mypy_errors(version: str, files: list[Path], cache: Path) -> list[tuple[str, int, str, str]]:
    """(file, line, code, text) of what mypy finds in these files, checked against the real module of a version."""
    pytest.importorskip("mypy")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "mypy.ini").write_text(MYPY)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(cache / "mypy.ini"), "--cache-dir", str(cache), "--no-error-summary",
         "--hide-error-context", "--no-color-output", *map(str, files)],
        capture_output=True, text=True, cwd=ROOT, timeout=280, env={**os.environ, "MYPYPATH": str(stubs(version))})
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [(Path(m["file"]).name, int(m["line"]), m["code"], m["text"]) for m in ERROR.finditer(done.stdout)]
    assert bool(found) == bool(done.returncode), done.stdout
    return [f for f in found if not (f[2] == "assignment" and 'expression has type "None"' in f[3])]  # letting go of an object


@pytest.mark.parametrize("version", VERSIONS)
def test_our_calls_fit_the_real_signatures(version):
    errors = mypy_errors(version, files_for(version), CACHE / "mypy" / version / "cache")
    assert not errors, "\n".join(f"{file}:{line}: {text} [{code}]" for file, line, code, text in errors)


MISUSE = [  # statement, error code, versions where it is an error ("" is all)
    ("builder.create_builder_config().set_flag(trt.BuilderFlag.FP16)", "attr-defined", "11"),
    ("network.add_attention", "attr-defined", "10.3"),
    ("engine.create_execution_context_without_device_memory()", "attr-defined", "11"),
    ("engine.num_bindings", "attr-defined", ""),
    ("config.max_workspace_size = 1", "attr-defined", ""),
    ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, '1 GB')", "arg-type", ""),
    ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)", "call-arg", ""),
    ("config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, size=1)", "call-arg", ""),
    ("builder.create_network(1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)", "operator", ""),
    ("builder.create_network(flag=1)", "call-arg", ""),
    ("config.set_flag(6)", "arg-type", ""),
    ("config.builder_optimization_level = 'high'", "assignment", ""),
    ("config.num_optimization_profiles = 1", "misc", ""),
    ("context.execute_async_v3()", "call-arg", ""),
    ("context.execute_async_v2([], 0)", "attr-defined", ""),
    ("context.set_tensor_address('noise', None)", "arg-type", ""),
    ("runtime.deserialize_cuda_engine(b'').num_layers", "union-attr", ""),
    ("len(plan)", "arg-type", ""),
    ("profile.set_shape('noise', (1,), (2,))", "call-arg", ""),
]
GOOD = [
    "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, pool_size=1 << 30)", "config.progress_monitor = None",
    "builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))", "config.clear_flag(trt.BuilderFlag.TF32)",
    "context.set_input_shape('noise', (1, 2))", "profile.set_shape('noise', (1,), [2], trt.Dims([3]))", "bytes(plan)", "plan.nbytes",
    "tuple(engine.get_tensor_shape('noise'))", "logger.log(trt.Logger.ERROR, 'x')", "trt.OnnxParser(network, logger).parse(b'')",
]
FRAME = """import tensorrt as trt

class Monitor(trt.IProgressMonitor):
    def __init__(self) -> None: trt.IProgressMonitor.__init__(self)
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: return True
    def phase_finish(self, phase_name: str) -> None: ...

def f(builder: trt.Builder, config: trt.IBuilderConfig, network: trt.INetworkDefinition, engine: trt.ICudaEngine, plan: trt.IHostMemory,
      context: trt.IExecutionContext, runtime: trt.Runtime, logger: trt.Logger, profile: trt.IOptimizationProfile) -> None:
    config.progress_monitor = Monitor()
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_misuse_is_found_where_it_is_one(version, tmp_path):
    """Each statement fails exactly in the versions that lack it, with the error of its kind; correct ones pass."""
    file = tmp_path / "misuse.py"
    file.write_text(FRAME + "".join(f"    {line}\n" for line in [text for text, _, _ in MISUSE] + GOOD))
    found = {line: code for _, line, code, _ in mypy_errors(version, [file], tmp_path / "cache")}
    first = FRAME.count("\n") + 1
    expected = {first + i: code for i, (_, code, since) in enumerate(MISUSE) if version.startswith(since)}
    assert found == expected


# --- facts ------------------------------------------------------------------------------------------------------------------


def test_the_bit_of_strong_typing_moves():
    """Bit 1 means strong typing before 11 and something else from there on: a number in our code would be wrong somewhere."""
    flags = {v: load_real(v).NetworkDefinitionCreationFlag for v in VERSIONS}
    assert {v: int(f.STRONGLY_TYPED) for v, f in flags.items()} == {"10.3.0": 1, "10.16.1.11": 1, "11.4.0.106": 0}
    assert int(flags[VERSIONS[-1]].PREFER_JIT_PYTHON_PLUGINS) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_factories_without_a_device_raise_type_error(version):
    real = load_real(version)
    assert real.__version__ == version
    for factory in (real.Builder, real.Runtime):
        with pytest.raises(TypeError, match="factory function returned nullptr"):
            factory(real.Logger())
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        real.Builder("no logger")


@pytest.mark.parametrize("version", VERSIONS)
def test_interfaces_that_we_derive_from(version):
    real, heard = load_real(version), []
    assert {n for n in vars(real.IProgressMonitor) if n[0] != "_"} == {"phase_start", "step_complete", "phase_finish"}
    assert {name: int(value) for name, value in real.ILogger.Severity.__members__.items()} == {
        "INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}
    assert real.Logger.ERROR == real.ILogger.Severity.ERROR

    class Listener(real.ILogger):
        def __init__(self):
            real.ILogger.__init__(self)

        def log(self, severity, msg):
            heard.append((severity, msg))

    Listener().log(real.ILogger.ERROR if hasattr(real.ILogger, "ERROR") else real.ILogger.Severity.ERROR, "text")
    assert heard == [(real.ILogger.Severity.ERROR, "text")]

    class Forgetful(real.IProgressMonitor):
        def __init__(self):
            pass

    with pytest.raises(TypeError, match="__init__\\(\\) must be called"):
        Forgetful()


@pytest.mark.parametrize("version", VERSIONS)
def test_host_memory_tells_only_its_size_and_type(version):
    """bytes(plan) and memoryview(plan) work by the buffer protocol (documented); len(plan) does not exist."""
    memory = load_real(version).IHostMemory
    assert "buffer" in memory.__doc__ and {n for n in vars(memory) if n[0] != "_"} == {"nbytes", "dtype"}
    assert not hasattr(memory, "__len__")


def test_a_plain_import_finds_the_folder():
    """What children do: the folder on PYTHONPATH, no library path."""
    folder = real_bindings(VERSIONS[0])
    code = "import tensorrt as t; print(t.__version__, t.Builder.__module__)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True)
    assert done.stdout.split() == [VERSIONS[0], "tensorrt.tensorrt"], done.stderr
