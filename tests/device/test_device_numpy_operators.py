"""Each operator in NumPy against ONNX Runtime, on random numbers; memory that is used again; what is refused."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from numpy_kit import by_numpy, by_ort, model_of
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from edgedit.core.errors import ArtifactError
from edgedit.device.numpy_graph import functions
from edgedit.device.numpy_graph.onnx_file import parse_model
from edgedit.device.numpy_graph.plan import make_plan, run

CHANCE = np.random.default_rng(0)
NODE = helper.make_node


def floats(*shape, dtype=np.float32):
    return CHANCE.standard_normal(shape).astype(dtype)


X, H = floats(4, 6, 16), floats(4, 6, 16, dtype=np.float16)
Q = [floats(2, 3, 10, 8) for _ in range(3)]
WHOLE = CHANCE.integers(-128, 128, (4, 16)).astype(np.int8)
SCALES = np.abs(floats(16)) + np.float32(0.1)
M = "com.microsoft"
# name → nodes, inputs, constants, element types of the outputs, opset
CASES = {
    "add": ([NODE("Add", ["x", "b"], ["y"])], {"x": X, "b": floats(16)}, {}, [np.float32], 20),
    "add-grows": ([NODE("Add", ["b", "x"], ["y"])], {"x": X, "b": floats(16)}, {}, [np.float32], 20),
    "sub": ([NODE("Sub", ["x", "b"], ["y"])], {"x": X, "b": floats(4, 1, 16)}, {}, [np.float32], 20),
    "mul-int": ([NODE("Mul", ["x", "b"], ["y"])], {"x": np.arange(6), "b": np.array(7)}, {}, [np.int64], 20),
    "mul-half": ([NODE("Mul", ["x", "b"], ["y"])], {"x": H, "b": floats(16, dtype=np.float16)}, {}, [np.float16], 20),
    "floor": ([NODE("Floor", ["x"], ["y"])], {"x": X * 5}, {}, [np.float32], 20),
    "tanh": ([NODE("Tanh", ["x"], ["y"])], {"x": X}, {}, [np.float32], 17),
    "clip": ([NODE("Clip", ["x", "l", "h"], ["y"])], {"x": X}, {"l": np.float32(-0.5), "h": np.float32(1)}, [np.float32], 20),
    "clip-above": ([NODE("Clip", ["x", "", "h"], ["y"])], {"x": X}, {"h": np.float32(1)}, [np.float32], 20),
    "cast-uint8": ([NODE("Cast", ["x"], ["y"], to=T.UINT8)], {"x": np.abs(X) * 50}, {}, [np.uint8], 20),
    "cast-half": ([NODE("Cast", ["x"], ["y"], to=T.FLOAT16)], {"x": X * 1e4}, {}, [np.float16], 20),
    "cast-wide": ([NODE("Cast", ["x"], ["y"], to=T.FLOAT)], {"x": WHOLE}, {}, [np.float32], 20),
    "matmul": ([NODE("MatMul", ["x", "w"], ["y"])], {"x": X, "w": floats(16, 5)}, {}, [np.float32], 20),
    "matmul-batched": ([NODE("MatMul", ["x", "w"], ["y"])], {"x": Q[0], "w": floats(2, 3, 8, 4)}, {}, [np.float32], 20),
    "matmul-half": ([NODE("MatMul", ["x", "w"], ["y"])], {"x": H, "w": floats(16, 5, dtype=np.float16)}, {}, [np.float16], 20),
    "softmax": ([NODE("Softmax", ["x"], ["y"], axis=-1)], {"x": X * 9}, {}, [np.float32], 20),
    "softmax-middle": ([NODE("Softmax", ["x"], ["y"], axis=1)], {"x": X * 9}, {}, [np.float32], 20),
    "softmax-half": ([NODE("Softmax", ["x"], ["y"])], {"x": H}, {}, [np.float16], 20),
    "norm": ([NODE("LayerNormalization", ["x", "s"], ["y"], axis=-1, epsilon=1e-6)], {"x": X, "s": floats(16)}, {}, [np.float32], 20),
    "norm-per-sample": ([NODE("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1, epsilon=1e-6)],
                        {"x": X, "s": floats(4, 1, 16), "b": floats(4, 1, 16)}, {}, [np.float32], 20),
    "gelu": ([NODE("Gelu", ["x"], ["y"])], {"x": X * 4}, {}, [np.float32], 20),
    "gelu-tanh": ([NODE("Gelu", ["x"], ["y"], approximate="tanh")], {"x": X * 4}, {}, [np.float32], 20),
    "gelu-half": ([NODE("Gelu", ["x"], ["y"], approximate="tanh")], {"x": H}, {}, [np.float16], 20),
    "fast-gelu": ([NODE("FastGelu", ["x", "b"], ["y"], domain=M)], {"x": X, "b": floats(16)}, {}, [np.float32], 20),
    "fast-gelu-bare": ([NODE("FastGelu", ["x"], ["y"], domain=M)], {"x": X}, {}, [np.float32], 20),
    "heads": ([NODE("MultiHeadAttention", ["q", "k", "v", "b"], ["y"], domain=M, num_heads=4, scale=1.0)],
              {"q": X, "k": floats(4, 7, 16), "v": floats(4, 7, 16), "b": floats(48)}, {}, [np.float32], 20),
    "heads-own-scale": ([NODE("MultiHeadAttention", ["q", "k", "v"], ["y"], domain=M, num_heads=2)],
                        {"q": X, "k": X, "v": floats(4, 6, 16)}, {}, [np.float32], 20),
    "attention": ([NODE("Attention", ["q", "k", "v"], ["y"], scale=1.0)], dict(zip("qkv", Q, strict=True)), {}, [np.float32], 23),
    "attention-own-scale": ([NODE("Attention", ["q", "k", "v"], ["y"])], dict(zip("qkv", Q, strict=True)), {}, [np.float32], 23),
    "products": ([NODE("MatMul", ["q", "k"], ["s"]), NODE("Softmax", ["s"], ["p"]), NODE("MatMul", ["p", "v"], ["y"])],
                 {"q": Q[0], "k": Q[1].swapaxes(2, 3), "v": Q[2]}, {}, [np.float32], 20),
    "products-flat": ([NODE("MatMul", ["q", "k"], ["s"]), NODE("Softmax", ["s"], ["p"]), NODE("MatMul", ["p", "v"], ["y"])],
                      {"q": X, "k": floats(16, 6), "v": floats(6, 3)}, {}, [np.float32], 20),
    "quantise": ([NODE("QuantizeLinear", ["x", "s", "z"], ["y"])], {"x": X * 40}, {"s": np.float32(0.5), "z": np.int8(0)}, [np.int8], 20),
    "quantise-ties": ([NODE("QuantizeLinear", ["x", "s", "z"], ["y"])], {"x": np.arange(-9, 9, 0.5, np.float32)},
                      {"s": np.float32(1), "z": np.int8(3)}, [np.int8], 20),
    "quantise-unsigned": ([NODE("QuantizeLinear", ["x", "s"], ["y"])], {"x": X * 200}, {"s": np.float32(0.5)}, [np.uint8], 20),
    "quantise-channels": ([NODE("QuantizeLinear", ["x", "s", "z"], ["y"], axis=2)], {"x": X},
                          {"s": SCALES, "z": np.arange(16, dtype=np.int8)}, [np.int8], 20),
    "quantise-half": ([NODE("QuantizeLinear", ["x", "s", "z"], ["y"])], {"x": H}, {"s": np.float16(0.02), "z": np.int8(0)}, [np.int8], 20),
    "dequantise": ([NODE("DequantizeLinear", ["x", "s", "z"], ["y"])], {"x": WHOLE}, {"s": np.float32(0.3), "z": np.int8(-4)},
                   [np.float32], 20),
    "dequantise-channels": ([NODE("DequantizeLinear", ["x", "s", "z"], ["y"], axis=1)], {"x": WHOLE},
                            {"s": SCALES.astype(np.float16), "z": np.zeros(16, np.int8)}, [np.float16], 20),
    "reshape": ([NODE("Reshape", ["x", "n"], ["y"])], {"x": X}, {"n": np.array([0, -1, 8])}, [np.float32], 20),
    "reshape-zero": ([NODE("Reshape", ["x", "n"], ["y"], allowzero=1)], {"x": floats(0, 3)}, {"n": np.array([3, 0])}, [np.float32], 20),
    "transpose": ([NODE("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])], {"x": Q[0]}, {}, [np.float32], 20),
    "transpose-all": ([NODE("Transpose", ["x"], ["y"])], {"x": X}, {}, [np.float32], 20),
    "split": ([NODE("Split", ["x", "n"], ["y", "z"], axis=-1)], {"x": X}, {"n": np.array([5, 11])}, [np.float32] * 2, 20),
    "split-ragged": ([NODE("Split", ["x"], ["y", "z", "w"], axis=2, num_outputs=3)], {"x": X}, {}, [np.float32] * 3, 20),
    "split-17": ([NODE("Split", ["x"], ["y", "z"], axis=0)], {"x": X}, {}, [np.float32] * 2, 17),
    "concat": ([NODE("Concat", ["x", "y1"], ["y"], axis=1)], {"x": X, "y1": floats(4, 2, 16)}, {}, [np.float32], 20),
    "gather": ([NODE("Gather", ["t", "i"], ["y"], axis=0)], {"i": np.array([2, 0, -1], np.int32)},
               {"t": floats(3, 2, 5)}, [np.float32], 20),
    "gather-1": ([NODE("Gather", ["t", "i"], ["y"], axis=1)], {"i": np.array([[1, 0]])}, {"t": floats(3, 2, 5)}, [np.float32], 20),
    "shape": ([NODE("Shape", ["x"], ["y"], start=1)], {"x": X}, {}, [np.int64], 20),
    "filled": ([NODE("Shape", ["x"], ["n"]), NODE("ConstantOfShape", ["n"], ["y"], value=helper.make_tensor("v", T.INT32, [1], [9]))],
               {"x": X}, {}, [np.int32], 20),
    "filled-zero": ([NODE("Shape", ["x"], ["n"]), NODE("ConstantOfShape", ["n"], ["y"])], {"x": X}, {}, [np.float32], 20),
}


@pytest.mark.parametrize("name", CASES)
def test_the_operator_is_onnx_runtimes(name):
    nodes, inputs, constants, types, opset = CASES[name]
    kept = {k: v.copy() for k, v in inputs.items()}
    model = model_of(nodes, inputs, dict(zip(nodes[-1].output, types, strict=True)), constants, opset)
    for mine, theirs in zip(by_numpy(model, inputs), by_ort(model, inputs), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        if np.issubdtype(mine.dtype, np.integer):
            np.testing.assert_array_equal(mine, theirs)
        else:
            half = mine.dtype == np.float16 and name != "cast-half"
            np.testing.assert_allclose(mine.astype(np.float64), theirs.astype(np.float64), rtol=2e-3 if half else 2e-5,
                                       atol=1e-3 if half else 2e-6)
    for key, value in kept.items():
        np.testing.assert_array_equal(inputs[key], value, err_msg=f"{key} was overwritten")


def test_gelu_against_the_error_function_itself():
    x = np.linspace(-6, 6, 2001, dtype=np.float32)
    y = x.copy()
    functions.gelu_erf(y)
    wanted = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [-1e4, -90.0, -0.0, 0.0, 90.0, 1e4, np.inf])
def test_gelu_far_out(value):
    for function in (functions.gelu_tanh, functions.gelu_erf):
        y = np.array([value], np.float32)
        with np.errstate(all="ignore"):
            function(y)
        assert y[0] == (max(value, 0.0) if value != -90.0 else pytest.approx(0.0, abs=1e-30))


# --- memory that is used again ----------------------------------------------------------------------------------------------


def test_a_value_that_is_still_needed_is_never_overwritten():
    """x → y in place is right only where neither y's input nor a view of it is used later: here every one is."""
    nodes = [NODE("Add", ["x", "one"], ["a"]), NODE("Reshape", ["a", "flat"], ["r"]), NODE("Transpose", ["a"], ["t"]),
             NODE("Mul", ["a", "two"], ["b"]), NODE("Softmax", ["r"], ["s"]), NODE("Gelu", ["r"], ["g"]), NODE("Floor", ["t"], ["f"]),
             NODE("Clip", ["b"], ["c"]), NODE("Add", ["c", "one"], ["d"]), NODE("Mul", ["b", "b"], ["e"]), NODE("Mul", ["e", "two"], ["h"])]
    names = [*"sgfdh"]
    constants = {"one": np.float32(1), "two": np.float32(2), "flat": np.array([-1, 8])}
    model = model_of(nodes, {"x": X}, dict.fromkeys(names, np.float32), constants)
    for mine, theirs, name in zip(by_numpy(model, {"x": X}), by_ort(model, {"x": X}), names, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("last", ["a", "r"])
def test_memory_is_used_again_where_nothing_needs_it(last):
    nodes = [NODE("Add", ["x", "one"], ["a"]), NODE("Reshape", ["a", "flat"], ["r"]), NODE("Mul", [last, "one"], ["b"]),
             NODE("Floor", ["b"], ["y"])]
    model = model_of(nodes, {"x": X}, {"y": np.float32}, {"one": np.float32(1), "flat": np.array([-1, 8])})
    steps = {step.node.outputs[0]: step for step in make_plan(parse_model(model)).steps}
    assert not steps["a"].spare and steps["b"].spare
    assert "b" in steps["y"].free and "x" not in steps["a"].free


def test_constants_are_computed_once_and_kept_small():
    nodes = [NODE("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1), NODE("MatMul", ["x", "d"], ["y"])]
    inputs = {"x": floats(3, 4)}
    model = model_of(nodes, inputs, {"y": np.float32}, {"w": WHOLE, "s": SCALES, "z": np.zeros(16, np.int8)})
    plan = make_plan(parse_model(model))
    assert [step.node.kind for step in plan.steps] == ["MatMul"] and set(plan.constants) == {"d"}
    np.testing.assert_allclose(run(plan, inputs)[0], by_ort(model, inputs)[0], rtol=2e-5)


def test_attention_does_not_hold_the_scores_of_a_batch():
    """96 images of 2 heads and 128 tokens: 12.6 MB of scores, of which 1 MiB at a time."""
    inputs = {"q": floats(96, 2, 128, 4), "k": floats(96, 2, 4, 128), "v": floats(96, 2, 128, 4)}
    nodes = [NODE("MatMul", ["q", "k"], ["s"]), NODE("Softmax", ["s"], ["p"]), NODE("MatMul", ["p", "v"], ["y"])]
    plan = make_plan(parse_model(model_of(nodes, inputs, {"y": np.float32})))
    tracemalloc.start()
    try:
        run(plan, inputs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4e6


def test_scores_that_something_else_reads_stay_apart():
    inputs = {"q": Q[0], "k": Q[1].swapaxes(2, 3).copy(), "v": Q[2]}
    nodes = [NODE("MatMul", ["q", "k"], ["s"]), NODE("Softmax", ["s"], ["p"]), NODE("MatMul", ["p", "v"], ["y"])]
    model = model_of(nodes, inputs, {"y": np.float32, "s": np.float32})
    assert len(make_plan(parse_model(model)).steps) == 3
    for mine, theirs in zip(by_numpy(model, inputs), by_ort(model, inputs), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)


# --- refused ----------------------------------------------------------------------------------------------------------------

A = {"x": X}
REFUSED = {
    "unknown": ([NODE("Selu", ["x"], ["y"], name="here")], A, 20, r"does not run Selu(.|\n)*node 'here'"),
    "unknown-microsoft": ([NODE("BiasGelu", ["x", "x"], ["y"], domain=M)], A, 20, "com.microsoft.BiasGelu"),
    "attribute": ([NODE("Softmax", ["x"], ["y"], temperature=2)], A, 20, "Softmax with temperature = 2"),
    "value": ([NODE("Gelu", ["x"], ["y"], approximate="sigmoid")], A, 20, "approximate = 'sigmoid'"),
    "tensor": ([NODE("LayerNormalization", ["x", "x"], ["y"], stash_type=numpy_helper.from_array(np.zeros(2)))], A, 20, "with stash_type"),
    "causal": ([NODE("Attention", ["x", "x", "x"], ["y"], is_causal=1)], A, 23, "is_causal = 1"),
    "mask": ([NODE("Attention", ["x", "x", "x", "x"], ["y"])], A, 23, "with the inputs x, x, x, x"),
    "left-out": ([NODE("MatMul", ["x", ""], ["y"])], A, 20, "with the inputs x, -"),
    "outputs": ([NODE("LayerNormalization", ["x", "x"], ["y", "mean"])], A, 20, "with the outputs y, mean"),
    "type": ([NODE("Cast", ["x"], ["y"], to=T.BFLOAT16)], A, 20, "to the element type 16"),
    "opset-old": ([NODE("Floor", ["x"], ["y"])], A, 12, "17 to 23(.|\n)*ai.onnx 12"),
    "opset-new": ([NODE("Floor", ["x"], ["y"])], A, 24, "17 to 23(.|\n)*ai.onnx 24"),
    "domain": ([NODE("Floor", ["x"], ["y"], domain="mine")], A, 20, "mine without version"),
    "mixed": ([NODE("Add", ["x", "h"], ["y"])], {"x": X, "h": H}, 20,
              r"different types: float32, float16(.|\n)*float32 \(4, 6, 16\), float16"),
    "shapes": ([NODE("MatMul", ["x", "x"], ["y"])], A, 20, "cannot compute node '' .MatMul."),
    "gather": ([NODE("Gather", ["x", "i"], ["y"])], {"x": X, "i": np.array([4])}, 20, "cannot compute node '' .Gather."),
    "split": ([NODE("Split", ["x", "i"], ["y", "z"])], {"x": X, "i": np.array([3, 4])}, 20, r"4 cannot be split into \[3, 4\]"),
    "huge": ([NODE("ConstantOfShape", ["i"], ["y"])], {"i": np.array([1 << 20, 1 << 20])}, 20, "no shape of a batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_numpy_does_not_run_is_named_with_the_package_that_does(name):
    nodes, inputs, opset, says = REFUSED[name]
    with pytest.raises(ArtifactError, match=says) as caught:
        by_numpy(model_of(nodes, inputs, {"y": np.float32}, opset=opset), inputs)
    assert caught.value.fix == "pip install 'edgedit[cpu]', then --runtime ort"
