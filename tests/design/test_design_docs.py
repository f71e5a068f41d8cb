"""What docs/design.md and the committed results say is what the code computes."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from edgedit.core.spec import DiTSpec
from edgedit.design.devices import find_device
from edgedit.design.paper_model import paper_model
from edgedit.design.predict import predict
from edgedit.design.published import ROWS

REPO = Path(__file__).parents[2]
DOC = (REPO / "docs" / "design.md").read_text()
RESULT = (REPO / "benchmarks" / "results" / "predict.txt").read_text()


def test_the_fits_in_the_docs():
    for name in "AB":
        fit = paper_model(name)
        assert f"| {fit.text.split(' ms')[0]} | {fit.r2:.3f} | {fit.left_out.median:.1f} % | {fit.left_out.worst:.0f} % |" in DOC


def test_how_far_the_floor_is_from_the_paper():
    ratios = [r.latency_s / predict(DiTSpec(r.depth, r.width, r.heads)).seconds["floor"] for r in ROWS]
    low, high = re.search(r"it lies (\d+) to (\d+) times below", DOC).groups()
    assert (round(min(ratios)), round(max(ratios))) == (int(low), int(high))


def test_the_errors_in_the_docs_are_the_results():
    for median, worst, count in re.findall(r"median\s+([\d.]+) %, worst\s+([\d.]+) %, (\d+) designs", RESULT):
        assert re.search(rf"\| {count} \| {median} %[^|]*\| {worst} % \|", DOC), (median, worst)
    assert len(re.findall(r"\n\(\d", RESULT)) >= 10


def test_the_devices_file_of_the_result_is_one():
    device = find_device(REPO / "benchmarks" / "results" / "predict-device.toml")
    assert f"{1e3 * device.need('fp32_tflops'):.0f} GFLOP/s in products" in RESULT


def test_the_room_needs_numpy_and_core_alone():
    for file in (REPO / "edgedit" / "design").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name.startswith(("edgedit.core", "edgedit.design"))
                assert own or name.split(".")[0] in {*sys.stdlib_module_names, "numpy", "tomli"}, f"{file.name} imports {name}"
