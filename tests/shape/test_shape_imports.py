"""The direction of imports (DESIGN: rooms do not know each other, the device side never needs torch)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "edgedit"
ROOMS = ("teach", "distill", "evaluate", "export", "device", "design", "remote", "report")
HEAVY = {"torch", "torchvision", "lpips", "onnx", "sklearn", "matplotlib", "tensorboard", "safetensors", "scipy", "torch_fidelity"}
RUNTIMES = {"onnxruntime", "tensorrt", "pycuda", "pynvml", "cuda"}
CORE_MAY = {"numpy", "pydantic", "PIL", "tomli"}


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def imports(file: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names imported by a file; under `if TYPE_CHECKING` they do not run and do not count."""
    found: set[str] = set()

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if not (top_level_only and inside):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                found.add(node.module or "")
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(file.read_text()), False)
    return found


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_walker_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    import torch\n    from edgedit.teach import pairs\n")
    assert {"torch", "edgedit.teach.pairs"} <= imports(file)
    assert not imports(file, top_level_only=True)


@pytest.mark.parametrize("file", modules("core"), ids=lambda f: f.stem)
def test_core_imports_small_pure_libraries_only(file: Path) -> None:
    names = imports(file)
    foreign = roots(names) - set(sys.stdlib_module_names) - {"edgedit"} - CORE_MAY
    assert not foreign
    assert not {n for n in names if n.startswith("edgedit.") and not n.startswith(("edgedit.core", "edgedit.__version__"))}


@pytest.mark.parametrize("file", modules("device") + modules("design") + modules("remote") + modules("report"),
                         ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_the_device_side_never_needs_torch(file: Path) -> None:
    assert not roots(imports(file)) & HEAVY
    assert not {n for n in imports(file) if n.startswith(("edgedit.model", "edgedit.learn"))}


def dotted(file: Path) -> str:
    return ".".join(("edgedit", *file.relative_to(PACKAGE).with_suffix("").parts))


def bound() -> set[str]:
    """Modules that load TensorRT when they are imported, so that a type checker sees its classes: in `edgedit.device.trt` alone."""
    top = {dotted(file): imports(file, top_level_only=True) for file in modules("device")}
    found = {module for module, names in top.items() if "tensorrt" in roots(names)}
    while more := {module for module, names in top.items() if names & found} - found:
        found |= more
    return found


@pytest.mark.parametrize("file", modules("device") + modules("cli"), ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_runtimes_are_imported_inside_functions(file: Path) -> None:
    names = imports(file, top_level_only=True)
    inside = file.parent == PACKAGE / "device" / "trt"
    assert not roots(names) & RUNTIMES - ({"tensorrt"} if inside else set())
    assert inside or not names & bound(), "a module that loads TensorRT is imported inside a function"


def test_what_a_board_without_tensorrt_imports_does_not_load_it() -> None:
    free = {"module", "engine", "build", "settings", "failures", "inspect"}
    assert not {f"edgedit.device.trt.{name}" for name in free} & bound()
    assert "edgedit.device.trt.network" in bound()


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_a_sibling(room: str) -> None:
    for file in modules(room):
        for name in imports(file):
            other = name.split(".")[1] if name.startswith("edgedit.") else None
            assert other in (None, "core", "model", "learn", room, "__version__"), f"{file} imports {name}"


@pytest.mark.parametrize(("shared", "may"), [("model", {"core", "model"}), ("learn", {"core", "model", "learn"})])
def test_what_rooms_share_knows_no_room(shared: str, may: set[str]) -> None:
    for file in modules(shared):
        assert not {n for n in imports(file) if n.startswith("edgedit.") and n.split(".")[1] not in may}


@pytest.mark.parametrize("file", modules("cli"), ids=lambda f: f.stem)
def test_the_cli_imports_rooms_inside_functions(file: Path) -> None:
    top = imports(file, top_level_only=True)
    assert not {n for n in top if n.startswith("edgedit.") and n.split(".")[1] in (*ROOMS, "model", "learn")}
    assert not roots(top) & (HEAVY | RUNTIMES | {"numpy", "pydantic"})


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, edgedit.cli\n"
        "try: edgedit.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted(set(sys.modules) & {(HEAVY | RUNTIMES | {'numpy', 'pydantic', 'PIL', 'jinja2'})!r}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_importing_does_nothing(file: Path) -> None:
    """A module body holds definitions and constants: no bare calls at its top level."""
    for node in ast.parse(file.read_text()).body:
        bare_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not bare_call, f"{file}:{node.lineno} runs at import"
