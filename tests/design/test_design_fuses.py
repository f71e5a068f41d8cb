"""What the formula says about fusing is what the check on a finished graph says, and versions are told apart."""

from __future__ import annotations

import pytest

from edgedit.core.errors import UsageError
from edgedit.core.spec import DiTSpec
from edgedit.design import fuses
from edgedit.design.fuses import attention_fuses, fusing_head_size
from edgedit.export import attention, fusion, int8
from edgedit.export.fusion import attention_fusion
from edgedit.export.graph import build
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold
from edgedit.model.dit import DiT


def test_the_conditions_are_those_of_the_export():
    assert all(fusing_head_size(n) == attention.fusing_head_size(n) for n in range(1, 300))
    assert (fuses.SMALLEST, fuses.LARGEST, fuses.MULTIPLE) == (fusion.SMALLEST, fusion.LARGEST, fusion.MULTIPLE)
    assert (fuses.INT8_HEADS, fuses.INT8_TOKENS) == (int8.FUSING_HEADS, int8.FUSING_TOKENS)


@pytest.mark.parametrize("design", [(1, 64, 8), (1, 96, 8), (1, 128, 8), (1, 192, 8), (1, 32, 8)], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("padded", [True, False])
def test_the_graph_agrees(design, precision, padded):
    spec = DiTSpec(*design)
    plan = Plan.of(spec, precision, "pattern", batch=1, guidance_scale=1.0, head_size=None if padded else spec.head_size)
    [block] = attention_fusion(build(fold(DiT(spec)), plan))
    mine = attention_fuses(spec.head_size, precision, "10.3", padded=padded)
    assert mine.fuses == block.fuses
    assert mine.head_size == plan.head_size


@pytest.mark.parametrize(("head", "precision", "version", "options", "yes", "words"), [
    (8, "fp16", "10.3.0.30", {}, True, "zero-padded to 16"), (8, "fp16", "10.3", {"padded": False}, False, "let the export pad it to 16"),
    (12, "fp16", "10.3", {"padded": False}, False, "no multiple of 8"), (16, "fp32", "11.4", {}, False, "FP32 never fuses"),
    (16, "fp16", "8.6.2", {}, False, "before 10.3"), (16, "fp16", "10.0", {}, False, "before 10.3"),
    (16, "fp16", "10.16", {}, True, "one ONNX operator"), (16, "fp16", "10.13.3", {}, True, "primitive operators"),
    (16, "fp16", "12.0", {}, False, "not known"), (264, "fp16", "10.3", {}, False, "more heads"),
    (24, "int8", "10.3", {}, True, "stays FP16"), (24, "int8", "10.3", {"int8_attention": True}, False, "16, 32, 64 only"),
    (16, "int8", "10.3", {"int8_attention": True}, True, "fuses as it is"),
    (16, "int8", "10.3", {"int8_attention": True, "tokens": 1024}, False, "512 tokens")])
def test_every_condition(head, precision, version, options, yes, words):
    made = attention_fuses(head, precision, version, **options)
    assert made.fuses is yes and words in made.why


@pytest.mark.parametrize("bad", ["", "ten", "x.3", "10.y"])
def test_no_version(bad):
    with pytest.raises(UsageError, match="no TensorRT version"):
        attention_fuses(16, "fp16", bad)
