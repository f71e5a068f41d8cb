"""The verdict on fusion: from reports in TensorRT's documented forms, and never an exception on any other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.device.trt.inspect import Layer, judge, read_layers

SEPARATORS = ["", "\x1e", "\x1f"]


def layer(name: str, kind: str, tactic: str, *nodes: str, separator: str = "\x1e") -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": [], "Outputs": [], "TacticName": tactic, "StreamId": 0,
            "Metadata": separator.join(f"[ONNX Layer: {node}]" for node in nodes)}


def fused(block: str, separator: str = "\x1e") -> dict[str, Any]:
    """As TensorRT 10 tells it (TensorRT issue #4397)."""
    return layer("_gemm_mha_v2_myl0_17", "kgen", "_gemm_mha_v2_0x957a2fe283f77dcf35c142c1390a3e6a",
                 *(f"{block}/attention/{part}" for part in ("scores", "softmax", "values")), separator=separator)


def apart(block: str) -> list[dict[str, Any]]:
    gemm = "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64_stage6_warpsize2x2x1_tensor16x8x16"
    return [layer(f"{block}/attention/scores_myl0_3", "gemm", gemm, f"{block}/attention/scores"),
            layer("__myl_MaxSubExpSumDivMul_myl0_4", "kgen", "__myl_MaxSubExpSumDivMul_0x1", f"{block}/attention/softmax"),
            layer(f"{block}/attention/values_myl0_5", "gemm", gemm, f"{block}/attention/values")]


def check(block: str, fuses: bool = True, *why: str) -> dict[str, Any]:
    return {"block": block, "dialect": "pattern", "fuses": fuses,
            "findings": [{"code": "head_size", "holds": False, "text": text} for text in why]}


def verdict(layers: Any, checks: Any, precision: str = "fp16", tensorrt: str = "10.3.0") -> Any:
    return judge(read_layers(json.dumps(layers)), checks, precision=precision, tensorrt=tensorrt)


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("wrap", [lambda e: {"Layers": e, "Bindings": ["noise"]},
                                  lambda e: {"Layers": e, "I/O Tensors": [{"Name": "noise", "IOMode": "Input"}]}, lambda e: e])
def test_one_kernel_is_fused_in_the_form_of_every_version(separator, wrap):
    proof = verdict(wrap([layer("other", "kgen", "x"), fused("block0", separator)]), [check("block0")])
    assert [(b.block, b.fused, b.expected) for b in proof.blocks] == [("block0", True, True)]
    assert proof.blocks[0].kernels == ("_gemm_mha_v2_0x957a2fe283f77dcf35c142c1390a3e6a",)
    assert proof.summary() == "1 of 1 attention blocks fused" and not proof.missed


def test_three_kernels_are_not_and_the_kernels_are_named():
    proof = verdict({"Layers": [fused("block0"), *apart("block1")]}, [check("block0"), check("block1")], tensorrt="10.16.1.11")
    first, second = proof.blocks
    assert first.fused is True and second.fused is False and proof.fused == 1
    assert "all conditions hold; TensorRT 10.16.1.11 chose separate kernels: sm80_xmma_gemm" in second.why
    assert [block.block for block in proof.missed] == ["block1"]


def test_reasons_come_from_the_bundle_and_the_precision():
    why = "head size 8 is outside 16 … 256"
    assert verdict({"Layers": apart("block0")}, [check("block0", False, why)]).blocks[0].why == why
    fp32 = verdict({"Layers": apart("block0")}, [check("block0", False, why)], precision="fp32").blocks[0]
    assert "FP32 never fuses" in fp32.why and fp32.expected is False


def test_a_block_is_not_taken_for_another():
    assert verdict({"Layers": [fused("block1"), *apart("block10")]}, [check("block1"), check("block10")]).fused == 1
    proof = verdict({"Layers": [fused("block10")]}, [check("block1")])
    assert proof.blocks[0].fused is None and proof.unknown == 1


@pytest.mark.parametrize("kernel", ["_gemv_mha_v1_0x1", "fmha_v2_flash_attention_fp16_S_16_sm87", "kgen_mha_x"])
def test_other_kernels_of_fused_attention(kernel):
    entry = layer("n", "kgen", kernel, "block0/attention/softmax", "block0/attention/values")
    assert verdict([entry], [check("block0")]).blocks[0].fused is True


def test_a_name_alone_is_no_sign_of_fusion():
    """Exporters call unfused nodes scaled_dot_product_attention (TensorRT issue #3665)."""
    entries = [layer("[MATRIX_MULTIPLY]_[scaled_dot_product_attention]_[qk]", "gemm", "sm80_xmma_gemm", "block0/attention/scores"),
               layer("softmax_[scaled_dot_product_attention]", "kgen", "__myl_Sm", "block0/attention/softmax")]
    assert verdict(entries, [check("block0")]).blocks[0].fused is False


def test_layers_that_all_name_the_whole_block_are_no_proof():
    """What a decomposed IAttention looks like: every part carries the metadata of the whole."""
    parts = [f"block0/attention/{part}" for part in ("scores", "softmax", "values")]
    entries = [layer(f"l{i}", kind, f"k{i}", *parts) for i, kind in enumerate(("gemm", "kgen", "gemm"))]
    assert verdict(entries, [check("block0")]).blocks[0].fused is False
    assert verdict(entries[:1], [check("block0")]).blocks[0].fused is True


def test_a_network_in_one_opaque_layer_is_unknown():
    nodes = [f"block{i}/attention/{part}" for i in range(2) for part in ("scores", "softmax", "values")]
    proof = verdict([layer("{ForeignNode[block0/x...block1/y]}", "Myelin", "0x0", *nodes)], [check("block0"), check("block1")])
    assert [b.fused for b in proof.blocks] == [None, None] and proof.summary() == "0 of 2 attention blocks fused, 2 unknown"


def test_plain_names_of_low_verbosity():
    assert verdict({"Layers": ["_gemm_mha_v2_myl0_17", "Reformat"]}, [check("block0")]).blocks[0].fused is None
    names = ["block0/attention/scores", "block0/attention/softmax", "block0/attention/values + PWN(x)"]
    assert verdict({"Layers": [*names]}, None).unknown == 0
    assert verdict([{"Name": name} for name in names], [check("block0")]).blocks[0].fused is False


def test_the_operator_of_the_onnx_dialect():
    entry = layer("_gemm_mha_v2_myl0_1", "kgen", "_gemm_mha_v2_0x1", "block0/attention/attention")
    assert verdict([entry], [{**check("block0"), "dialect": "onnx"}]).blocks[0].fused is True


def test_without_checks_the_blocks_are_those_that_the_layers_name():
    proof = verdict([fused("block0"), *apart("block1")], None)
    assert [(b.block, b.fused, b.expected) for b in proof.blocks] == [("block0", True, None), ("block1", False, None)]
    assert not proof.missed


def test_a_report_that_cannot_be_read_is_unknown():
    proof = judge(read_layers("{not json"), [check("block0")], precision="fp16", tensorrt="10.3.0")
    assert proof.blocks[0].fused is None and "cannot be read" in proof.blocks[0].why


KEYS = ["Layers", "Bindings", "I/O Tensors", "Name", "LayerType", "TacticName", "Metadata", "block", "fuses", "findings", "holds", "text"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
        ["block0/attention/softmax", "[ONNX Layer: block0/attention/scores]\x1e[ONNX Layer: block0/attention/softmax]", "_gemm_mha_v2",
         "{ForeignNode[a...b]}", "/", "block0/"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6), max_leaves=20)


@given(VALUES, VALUES)
def test_nothing_raises_and_every_verdict_has_a_reason(report, checks):
    proof = judge(read_layers(json.dumps(report)), checks, precision="fp16", tensorrt="10.3.0")
    for block in proof.blocks:
        assert block.fused in (True, False, None) and (block.fused is True or block.why) and (block.fused is not True or block.kernels)
    json.dumps(proof.to_dict())


@given(st.text() | st.binary())
def test_any_text_is_read_or_none(text):
    assert read_layers(text) is None or all(isinstance(entry, Layer) for entry in read_layers(text) or ())
