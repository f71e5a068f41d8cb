"""Every graph computes what the folded network computes, in every dialect, precision and batch form."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgedit.core.errors import NumericsError
from edgedit.core.noise import labels, noise
from edgedit.core.spec import DiTSpec
from edgedit.export.attention import AttentionWeights, fusing_head_size, pad_heads
from edgedit.export.check import check_wellformed, open_session
from edgedit.export.graph import build
from edgedit.export.plan import Plan
from edgedit.export.precision import PRECISIONS
from edgedit.model.deploy import fold

SPECS = {
    "head8": DiTSpec(2, 32, 4, image=8, classes=3),
    "head12": DiTSpec(2, 48, 4, image=8, classes=3),
    "head16-grey": DiTSpec(1, 32, 2, image=16, channels=1, patch=4, classes=5),
    "head24": DiTSpec(1, 48, 2, image=8, classes=2, mlp_ratio=2),
}
FORMS = list(itertools.product(("pattern", "onnx", "ort"), ("fp32", "fp16")))
IMAGES = 3


def inputs(spec: DiTSpec, count: int, seed: int = 0):
    """Noise, and labels that include the null class."""
    z = noise(seed, range(count), (spec.channels, spec.image, spec.image))
    return z, labels(seed, range(count), spec.rows)


def run(model: onnx.ModelProto, z, c, *values: str):
    """images, and the named inner values."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.output.extend(helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in values)
    return open_session(model.SerializeToString(), threads=1).run(["images", *values], {"noise": z, "labels": c})


@pytest.mark.parametrize(("attention", "precision"), FORMS)
@pytest.mark.parametrize("name", SPECS)
def test_same_images_as_folded_network(make_dit, name, attention, precision):
    spec = SPECS[name]
    z, c = inputs(spec, IMAGES)
    for guidance, batch in itertools.product((1.0, 1.5), (IMAGES, None)):
        network = fold(make_dit(spec), guidance)
        model = build(network, Plan.of(spec, precision, attention, batch=batch, guidance_scale=guidance))
        check_wellformed(model)
        images, levels = run(model, z, c, "output/levels" if guidance == 1.0 else "output/guidance")
        floats = network.images(torch.from_numpy(z), torch.from_numpy(c)).numpy()
        expected = network(torch.from_numpy(z), torch.from_numpy(c)).numpy()
        assert expected.std() > 20, "a test image has to have contrast"
        # levels are tokens: compare sorted values of each image, the order is checked by the images themselves
        away = np.abs(np.sort(levels.reshape(IMAGES, -1)) - np.sort((floats * 127.5 + 128).reshape(IMAGES, -1))).max()
        steps = np.abs(images.astype(int) - expected)
        if precision == "fp32":
            assert away < 2e-3 and steps.max() <= 1 and (steps > 0).mean() < 0.005
        else:
            assert away < 2.5 and steps.max() <= 3 and steps.mean() < 0.25


@pytest.mark.parametrize("attention", ["pattern", "ort"])
def test_older_opset_spells_gelu_out(make_dit, attention):
    spec = SPECS["head8"]
    network = fold(make_dit(spec), 1.5)
    z, c = inputs(spec, IMAGES)
    for batch in (IMAGES, None):
        model = build(network, Plan.of(spec, "fp32", attention, batch=batch, guidance_scale=1.5, opset=17))
        assert "Gelu" not in {n.op_type for n in model.graph.node}
        assert check_wellformed(model)["opsets"]["ai.onnx"] == 17
        images = run(model, z, c)[0]
        assert np.abs(images.astype(int) - network(torch.from_numpy(z), torch.from_numpy(c)).numpy()).max() <= 1


@pytest.mark.parametrize("attention", ["pattern", "onnx", "ort"])
def test_dynamic_batch_takes_any_number_and_images_do_not_depend_on_it(make_dit, attention):
    spec = SPECS["head8"]
    session = open_session(build(fold(make_dit(spec)), Plan.of(spec, "fp32", attention, batch=None, guidance_scale=1.5))
                           .SerializeToString(), threads=1)
    z, c = inputs(spec, 7)
    whole = session.run(None, {"noise": z, "labels": c})[0]
    for start, stop in ((0, 1), (1, 3), (3, 7)):
        part = session.run(None, {"noise": z[start:stop], "labels": c[start:stop]})[0]
        assert np.abs(part.astype(int) - whole[start:stop]).max() <= 1


def test_fixed_batch_refuses_another(make_dit):
    spec = SPECS["head8"]
    session = open_session(build(fold(make_dit(spec)), Plan.of(spec, "fp32", "pattern", batch=2, guidance_scale=1.5))
                           .SerializeToString(), threads=1)
    z, c = inputs(spec, 3)
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, {"noise": z, "labels": c})


@pytest.mark.parametrize(("size", "padded"), [(1, 16), (8, 16), (12, 16), (16, 16), (17, 24), (24, 24), (30, 32), (64, 64)])
def test_fusing_head_size(size, padded):
    assert fusing_head_size(size) == padded


def test_padding_is_an_identity_in_the_weights():
    chance = np.random.default_rng(0)
    heads, width = 3, 12
    plain = AttentionWeights(chance.normal(size=(3, width, width)), chance.normal(size=(3, width)),
                             chance.normal(size=(width, width)), chance.normal(size=width), heads)
    padded = pad_heads(plain, 16)
    assert padded.head_size == 16 and padded.qkv.shape == (3, width, heads * 16)
    x = chance.normal(size=(5, width))

    def attend(w: AttentionWeights):
        q, k, v = (np.einsum("tw,wd->td", x, w.qkv[i]) + w.qkv_bias[i] for i in range(3))
        q, k, v = (a.reshape(5, heads, -1).transpose(1, 0, 2) for a in (q, k, v))
        scores = np.exp(q @ k.transpose(0, 2, 1))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        return mixed.transpose(1, 0, 2).reshape(5, -1) @ w.proj + w.proj_bias

    np.testing.assert_allclose(attend(padded), attend(plain), rtol=1e-12, atol=1e-12)
    assert pad_heads(plain, 4) is plain


@pytest.mark.parametrize("attention", ["pattern", "onnx"])
def test_padded_fp32_graph_makes_the_same_images(make_dit, attention):
    spec = SPECS["head12"]
    network = fold(make_dit(spec), 1.5)
    z, c = inputs(spec, IMAGES)
    plan = Plan.of(spec, "fp32", attention, batch=IMAGES, guidance_scale=1.5)
    plain, padded = (run(build(network, replace(plan, head_size=h)), z, c, "output/guidance")[1] for h in (12, 16))
    np.testing.assert_allclose(padded, plain, atol=1e-3)


def test_fp16_graph_is_typed(make_dit):
    """Products and softmax in float16, LayerNormalization whole and in float32, no cast inside the attention."""
    spec = SPECS["head8"]
    model = build(fold(make_dit(spec)), Plan.of(spec, "fp16", "pattern", batch=2, guidance_scale=1.5))
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    kinds |= {t.name: t.data_type for t in graph.initializer}
    wanted = {"MatMul": TensorProto.FLOAT16, "Softmax": TensorProto.FLOAT16, "Gelu": TensorProto.FLOAT16,
              "LayerNormalization": TensorProto.FLOAT, "Clip": TensorProto.FLOAT}
    seen = {name: 0 for name in wanted}
    for node in graph.node:
        if node.op_type in wanted:
            seen[node.op_type] += 1
            assert {kinds[name] for name in (*node.input, *node.output)} == {wanted[node.op_type]}, node.name
    assert min(seen.values()) > 0 and seen["LayerNormalization"] == 2 * spec.depth + 1
    assert [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)] == [
        TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8]


def test_guidance_shares_the_embedding(make_dit):
    """The embedding product runs on B images, the blocks on 2B; without guidance nothing is doubled."""
    spec = SPECS["head8"]
    rows = {}
    for scale in (1.0, 1.5):
        model = build(fold(make_dit(spec)), Plan.of(spec, "fp32", "pattern", batch=2, guidance_scale=scale))
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        shapes = {v.name: v.type.tensor_type.shape.dim[0].dim_value for v in graph.value_info}
        rows[scale] = [shapes[name] for name in ("embed/patch", "embed/norm", "block0/mlp/gelu", "output/levels")]
        assert ("Sub" in {n.op_type for n in graph.node}) is (scale != 1.0)
    assert rows == {1.0: [2, 2, 2, 2], 1.5: [2, 2, 4, 4]}


def test_ranges_are_clipped_not_wrapped(make_dit):
    """Values far outside -1 … 1 become 0 and 255."""
    spec = SPECS["head8"]
    model = make_dit(spec)
    model.final.linear.weight.data *= 50
    z, c = inputs(spec, IMAGES)
    network = fold(model, 1.5)
    images = run(build(network, Plan.of(spec, "fp32", "pattern", batch=None, guidance_scale=1.5)), z, c)[0]
    expected = network(torch.from_numpy(z), torch.from_numpy(c)).numpy()
    assert (images == 0).mean() > 0.3 and (images == 255).mean() > 0.3
    assert (images != expected).mean() < 0.005


def test_weights_beyond_fp16_are_refused(make_dit):
    spec = SPECS["head8"]
    model = make_dit(spec)
    model.blocks[1].up.weight.data[0, 0] = 1e5
    with pytest.raises(NumericsError, match="'up' do not fit fp16"):
        build(fold(model), Plan.of(spec, "fp16", "pattern", batch=1, guidance_scale=1.0))
    assert PRECISIONS["fp32"].typed(np.array([1e5]), "x").dtype == np.float32
