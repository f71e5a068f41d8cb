"""Our CUDA-graph code against the real cuda-python of JetPack 6 and 7 and the newest: functions, arguments, enums.

The bindings import without a driver. Each version is looked at in a process of its own: one process can hold one `cuda` package.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.contract.bindings import ROOT, real_wheel
from tests.contract.uses import Use, driver_uses

PATHFINDER = "cuda-pathfinder==1.9.0"  # finds libraries for the bindings; they import it
WHEELS = {"12.6.2": "cuda-python==12.6.2.post1", "13.2.0": "cuda-bindings==13.2.0", "13.5.0": "cuda-bindings==13.5.0"}
"""JetPack 6's CUDA, JetPack 7.2's, the newest known."""
OURS = sorted(file for room in ("cuda", "trt") for file in (ROOT / "edgedit" / "device" / room).glob("*.py"))
GRAPHS = ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch", "cuGraphDestroy", "cuGraphExecDestroy")

LOOK = """
import importlib, json, sys
sys.path[:0] = json.loads(sys.argv[1])
told = {}
for names in json.loads(sys.argv[2]):
    at, found = importlib.import_module('cuda.bindings.' + ('runtime' if names[0].startswith('cuda') else 'driver')), True
    for name in names:
        found = found and hasattr(at, name)
        at = getattr(at, name, None)
    told['.'.join(names)] = (at.__doc__ or '').strip().split(chr(10))[0] if found else None
print(json.dumps(told))
"""


def look(wheel: str, uses: list[Use]) -> dict[str, str | None]:
    """First lines of the docstrings of names below cuda.bindings.driver (or .runtime); None for what is not there."""
    folders = [str(real_wheel(wheel))] + ([str(real_wheel(PATHFINDER))] if wheel.startswith("cuda-bindings") else [])
    done = subprocess.run([sys.executable, "-S", "-c", LOOK, json.dumps(folders), json.dumps([list(u.names) for u in uses])],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def problems(wheel: str, uses: list[Use]) -> list[str]:
    """Uses that do not fit: names that are missing, calls with too few or too many arguments."""
    told, found = look(wheel, uses), []
    for use in uses:
        line = told[".".join(use.names)]
        if line is None:
            found.append(f"{use}: not there")
        elif use.positional is not None and line.startswith(use.names[-1] + "("):
            taken = [part for part in line[line.index("(") + 1 : line.rindex(")")].split(",") if part.strip()]
            if "*args" in line:
                continue
            given, needed = use.positional + len(use.keywords), sum("=" not in part for part in taken)
            if not needed <= given <= len(taken):
                found.append(f"{use}: {given} arguments for {line}")
    return found


@pytest.mark.parametrize("wheel", WHEELS.values(), ids=WHEELS)
def test_our_graph_calls_fit(wheel):
    uses = [use for file in OURS for use in driver_uses(file)]
    functions = {use.names[0].replace("cuda", "cu", 1) for use in uses}
    assert functions >= set(GRAPHS), "the walk over edgedit/device/cuda found no capture: it has gone blind"
    assert not problems(wheel, uses)


@pytest.mark.parametrize("wheel", WHEELS.values(), ids=WHEELS)
def test_wrong_calls_are_found(wheel, tmp_path):
    file = tmp_path / "module.py"
    file.write_text("def f(driver, graph):\n    driver.cuGraphInstantiate(graph)\n    driver.cuGraphLaunch(graph, 0, 1)\n"
                    "    driver.cuGraphGetNodes(graph)\n    driver.cuGraphVanish(graph)\n    driver.CUresult.CUDA_SUCCESS\n"
                    "    driver.CUresult.CUDA_SUCCES\n    driver.cuGraphDestroy(hGraph=graph)\n")
    found = problems(wheel, driver_uses(file))
    assert sorted(text.split(": ")[0] for text in found) == [f"module.py:{line}" for line in (2, 3, 5, 7)]
