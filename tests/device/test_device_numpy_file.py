"""The ONNX reader: the same as the onnx package's on whole files, and an ArtifactError for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_kit import SPEC, exported, model_of
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from edgedit.core.errors import ArtifactError
from edgedit.device.numpy_graph import onnx_file
from edgedit.device.numpy_graph.onnx_file import Model, parse_model, read_model
from edgedit.device.numpy_graph.wire import DamagedError, Message, read_varint, unpack_varints

WHOLE = exported("fp16", "pattern", batch=None)
SMALL = model_of([helper.make_node("Add", ["x", "c"], ["y"], name="sum")], {"x": np.zeros((2, 3), np.float32)}, {"y": np.float32},
                 {"c": np.arange(3, dtype=np.float32)})


def parsed(data: bytes) -> Model | None:
    """The model, or None for an ArtifactError with all its parts; any other exception comes out."""
    try:
        return parse_model(data)
    except ArtifactError as error:
        assert error.saw and error.fix and "edgedit export" in error.fix
        return None


def changed(change) -> bytes:
    model = onnx.ModelProto.FromString(SMALL)
    change(model)
    return model.SerializeToString()


@pytest.mark.parametrize("data", [SMALL, WHOLE, exported("fp32", "ort"), exported("fp32", "pattern", opset=17)])
def test_a_model_is_what_the_onnx_package_reads(data):
    mine, theirs = parse_model(data), onnx.ModelProto.FromString(data)
    assert dict(mine.opsets) == {o.domain: o.version for o in theirs.opset_import}
    assert [(n.kind, n.domain, n.name, n.inputs, n.outputs) for n in mine.nodes] == [
        (n.op_type, n.domain, n.name, tuple(n.input), tuple(n.output)) for n in theirs.graph.node]
    for node, other in zip(mine.nodes, theirs.graph.node, strict=True):
        wanted = {a.name: helper.get_attribute_value(a) for a in other.attribute}
        assert set(node.attributes) == set(wanted)
        for key, value in node.attributes.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, numpy_helper.to_array(wanted[key]))
            else:
                assert value == (wanted[key].decode() if isinstance(wanted[key], bytes) else wanted[key])
    assert list(mine.constants) == [t.name for t in theirs.graph.initializer]
    for tensor in theirs.graph.initializer:
        array = mine.constants[tensor.name]
        assert array.dtype == numpy_helper.to_array(tensor).dtype and not array.flags.writeable and array.flags.aligned
        np.testing.assert_array_equal(array, numpy_helper.to_array(tensor))
    assert [(v.name, str(v.dtype)) for v in mine.inputs] == [
        (v.name, str(helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type))) for v in theirs.graph.input]


def test_open_dimensions_are_none():
    assert {v.name: v.shape for v in parse_model(WHOLE).inputs} == {"noise": (None, SPEC.channels, 8, 8), "labels": (None,)}


NUMBERS = {T.FLOAT: [1.5, -2.0], T.UINT8: [0, 255], T.INT8: [-128, 127], T.UINT16: [0, 65535], T.INT16: [-32768, 32767],
           T.INT32: [-(2**31), 5], T.INT64: [-(2**63), 2**63 - 1], T.BOOL: [True, False], T.FLOAT16: [0.5, -65504.0],
           T.DOUBLE: [1e300, -0.1], T.UINT32: [0, 2**32 - 1], T.UINT64: [0, 2**64 - 1]}


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("raw", [False, True])
def test_every_element_type_raw_and_typed(kind, raw):
    array = np.array(NUMBERS[kind], helper.tensor_dtype_to_np_dtype(kind))
    tensor = helper.make_tensor("c", kind, [2], array.tobytes() if raw else NUMBERS[kind], raw=raw)
    model = parse_model(changed(lambda m: m.graph.initializer[0].CopyFrom(tensor)))
    assert model.constants["c"].dtype == array.dtype
    np.testing.assert_array_equal(model.constants["c"], array)


def test_a_scalar_and_an_empty_tensor():
    for array in (np.float32(3), np.zeros((0, 4), np.int64)):
        tensor = numpy_helper.from_array(np.asarray(array), "c")
        found = parse_model(changed(lambda m, t=tensor: m.graph.initializer[0].CopyFrom(t))).constants["c"]
        assert found.shape == array.shape and found.dtype == array.dtype


# --- any bytes --------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data):
    assert parsed(data) is None  # 200 bytes hold no graph with an operator set by chance


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["node", "initializer", "input", "attribute", "dims", "raw_data", "type"]))
def test_any_bytes_inside_a_whole_model(data, place):
    """Rubbish in the place of each kind of message, with right lengths around it."""
    def field(number: int, body: bytes) -> bytes:
        return bytes([number << 3 | 2]) + bytes([len(body) & 127 | 128, len(body) >> 7]) + body

    inner = {"node": field(1, data), "initializer": field(5, data), "input": field(11, data), "attribute": field(1, field(5, data)),
             "dims": field(5, field(1, data)), "raw_data": field(5, b"\x10\x01" + field(9, data)), "type": field(11, field(2, data))}[place]
    parsed(field(8, b"\x10\x14") + field(7, inner))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SMALL) - 1))
def test_a_file_cut_short(size):
    """Where the cut falls between two fields of the model itself, what is left may be whole: nothing behind it is needed."""
    model = parsed(SMALL[:size])
    assert model is None or [n.name for n in model.nodes] == ["sum"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_an_exported_file_cut_short(share):
    assert parsed(WHOLE[: int(share * len(WHOLE))]) is None


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes(flips):
    data = bytearray(SMALL)
    for place, mask in flips:
        data[place] ^= mask
    parsed(bytes(data))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_of_an_exported_file(place, mask):
    data = bytearray(WHOLE)
    data[place] ^= mask
    parsed(bytes(data))


# --- numbers of the wire ----------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    octets = []
    while value >= 128:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_packed_numbers(values):
    data = memoryview(b"".join(varint(v % (1 << 64)) for v in values))
    assert unpack_varints(data).tolist() == values
    at, found = 0, []
    while at < len(data):
        value, at = read_varint(data, at)
        found.append(value)
    assert found == [v % (1 << 64) for v in values]


@given(st.binary(min_size=1, max_size=40))
def test_packed_and_single_reading_agree_on_what_is_damaged(data):
    def one_by_one() -> list[int]:
        at, found = 0, []
        while at < len(data):
            value, at = read_varint(memoryview(data), at)
            found.append(value - (1 << 64) if value >> 63 else value)
        return found

    try:
        wanted = one_by_one()
    except DamagedError:
        with pytest.raises(DamagedError):
            unpack_varints(memoryview(data))
    else:
        assert unpack_varints(memoryview(data)).tolist() == wanted


def test_single_and_packed_occurrences_of_one_field_keep_their_order():
    data = b"\x08\x05" + b"\x0a\x02\x06\x07" + b"\x08\x08"
    assert Message(memoryview(data), "M").wholes(1).tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(("data", "says"), [
    (b"\x80", "end inside a number"), (b"\xff" * 10 + b"\x01", "more than 10 bytes"),
    (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
    (b"\x0a\x05abc", "wants 5 bytes where 3 are left"), (b"\x0a" + b"\xff" * 9 + b"\x01", "wants 18,446,744,073,709,551,615 bytes where 0"),
    (b"\x0d\x00", "wants 4 bytes where 1"), (b"\x0b", "wire type 3"), (b"\x0f", "wire type 7"), (b"\x00\x00", "field of number 0"),
    (b"\x38\x01", "is a varint, where a length and bytes is wanted"), (b"", "0 graphs"), (b"\x3a\x00\x3a\x00", "2 graphs"),
    (b"\x3a\x00", "no operator set")])
def test_damage_is_told(data, says):
    with pytest.raises(ArtifactError, match=says):
        parse_model(data)


# --- models that are whole and not taken ------------------------------------------------------------------------------------


def tensor_with(**parts):
    def change(model):
        tensor = model.graph.initializer[0]
        for name, value in parts.items():
            tensor.ClearField(name)
            getattr(tensor, name).extend(value) if isinstance(value, list) else setattr(tensor, name, value)

    return change


def external(model):
    model.graph.initializer[0].data_location = T.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def subgraph(model):
    model.graph.node[0].attribute.append(helper.make_attribute("body", model.graph))


@pytest.mark.parametrize(("change", "says"), [
    (external, "in another file"), (tensor_with(raw_data=b"123"), r"float32 \(3,\) holds 3 bytes instead of 12"),
    (tensor_with(dims=[-1]), r"shape \(-1,\)"), (tensor_with(dims=[1 << 40]), "shape"), (tensor_with(dims=[1 << 31, 0, 1 << 31]), "shape"),
    (tensor_with(dims=[1] * 17), "17 dimensions"), (tensor_with(data_type=99), "element type 99"),
    (tensor_with(data_type=8), "element type 8"),
    (tensor_with(float_data=[1.0]), "two kinds"), (tensor_with(name=""), "no name"),
    (lambda m: m.graph.initializer[0].ClearField("raw_data"), "holds 0 numbers instead of 3"),
    (lambda m: m.graph.initializer[0].segment.CopyFrom(T.Segment(begin=0)), "segments"),
    (lambda m: m.graph.initializer[0].CopyFrom(T(name="c", data_type=T.INT8, dims=[1], int32_data=[300])), "int8 holds 300"),
    (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "two constants are called 'c'"),
    (lambda m: m.graph.sparse_initializer.add(), "sparse"), (lambda m: m.functions.add(), "functions"), (subgraph, "'body' of node 'sum'"),
    (lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("a", 1)] * 2), "'a' twice"),
    (lambda m: m.graph.node.append(m.graph.node[0]), "two values are called 'y'"),
    (lambda m: m.graph.node[0].input.append("ghost"), "uses 'ghost', which nothing before it makes"),
    (lambda m: m.graph.output.append(helper.make_tensor_value_info("z", T.FLOAT, [])), "'z' is made by nothing"),
    (lambda m: m.graph.input.append(m.graph.input[0]), "two values are called 'x'"),
    (lambda m: m.graph.input[0].type.Clear(), "'x' is no tensor"),
    (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "no shape"),
    (lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", -2), r"shape \(-2, 3\)")])
def test_what_is_not_read_is_named(change, says):
    with pytest.raises(ArtifactError, match=says):
        parse_model(changed(change))


def test_a_file_that_is_not_there_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_model(tmp_path / "none.onnx")
    path = Path(tmp_path / "m.onnx")
    path.write_bytes(SMALL)
    assert read_model(path).nodes[0].name == "sum"
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 10)
    with pytest.raises(ArtifactError, match="too large"):
        read_model(path)
