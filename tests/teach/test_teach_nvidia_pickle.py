"""NVIDIA's pickles: what Python and torch write in that layout is read; what could run code is refused by name; lies are found."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import sys
from collections import OrderedDict
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import edm_kit
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from edgedit.core.errors import ArtifactError
from edgedit.teach.nvidia_pickle import NetworkRules, read_network
from edgedit.teach.pickle_machine import INSTRUCTIONS

TENSORS = edm_kit.numbers(edm_kit.TINY)


@pytest.fixture(scope="module")
def whole() -> bytes:
    return edm_kit.dumped(edm_kit.snapshot(edm_kit.network(TENSORS)))


# --- what is read -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_network_is_read(protocol: int) -> None:
    seen, facts = read_network(edm_kit.dumped(edm_kit.snapshot(edm_kit.network(TENSORS)), protocol), "f")
    assert sorted(seen) == sorted(TENSORS)
    assert all(torch.equal(seen[name], tensor) and seen[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert facts["class_name"] == "EDMPrecond" and facts["network"] == "SongUNet"
    assert facts["modules"] == ["EDMPrecond", "ModuleDict", "SongUNet", "UNetBlock"]
    assert facts["state"]["sigma_data"] == 0.5 and facts["state"]["label_dim"] == 10
    assert facts["init"] == {"model_type": "SongUNet", "channel_mult": [2, 2, 2]}
    assert facts["augment_pipe"]["class_name"] == "AugmentPipe" and facts["augment_pipe"]["state"]["p"] == 0.12
    assert facts["loss_fn"]["state"]["P_mean"] == -1.2
    assert "sigma_max" not in facts["state"], "infinity has no place in JSON"


def test_order_is_that_of_state_dict() -> None:
    network = edm_kit.network(TENSORS)
    seen, _ = read_network(edm_kit.dumped(edm_kit.snapshot(network)), "f")
    assert list(seen) == list(network.state_dict())


def test_the_names_of_numpy_1() -> None:
    raw = edm_kit.dumped(edm_kit.snapshot(edm_kit.network(TENSORS)), 3)
    old = raw.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert (b"cnumpy.core.multiarray\nscalar" in old) and read_network(old, "f")[0].keys() == TENSORS.keys()


def test_the_list_is_what_is_written_and_little_more() -> None:
    """Names in the pickles of protocols 2 and 3 (4 has the same, as texts); beyond them only older spellings and containers."""
    files = [edm_kit.dumped(edm_kit.snapshot(edm_kit.network(TENSORS)), protocol) for protocol in (2, 3)]
    written = {str(arg) for raw in files for op, arg, _ in pickletools.genops(raw) if op.name == "GLOBAL"}
    more = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar", "torch.nn.modules.container ModuleList",
            "torch.nn.modules.container Sequential"}
    assert written <= NetworkRules.names <= written | more


@pytest.mark.parametrize("tensor", [
    torch.arange(12.0)[3:9], torch.arange(12.0).reshape(3, 4).T, torch.arange(12.0).reshape(3, 4)[:, 1:3], torch.tensor(1.5),
    torch.zeros(0, 3), torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last), torch.arange(3), torch.ones(2).half(),
    torch.tensor([True, False]), torch.arange(3, dtype=torch.int32), torch.ones(2).double(), torch.arange(4, dtype=torch.uint8)],
    ids=lambda t: f"{tuple(t.shape)}-{t.dtype}-{t.stride()}")
def test_views_and_number_types(tensor: torch.Tensor) -> None:
    seen, _ = read_network(edm_kit.dumped({"ema": edm_kit.network({"model.x": tensor})}), "f")
    assert torch.equal(seen["model.x"], tensor) and seen["model.x"].dtype == tensor.dtype
    seen["model.x"].fill_(1)  # memory of its own, not the file's


# --- nothing runs -----------------------------------------------------------------------------------------------------------


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def within(value: Any, where: str) -> Any:
    """A snapshot with `value` somewhere in it."""
    network = edm_kit.network(TENSORS)
    top = edm_kit.snapshot(network)
    if where == "top":
        return value
    if where == "beside":
        top["dataset_kwargs"]["path"] = value
    elif where == "attribute":
        network.resolution = value
    elif where == "module":
        network._modules["other"] = value
    elif where == "tensor":
        network._parameters["other"] = value
    else:
        network._init_kwargs = {"deep": [{"in": (value,)}]}
    return top


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("where", ["top", "beside", "attribute", "module", "tensor", "arguments"])
def test_os_system_is_refused_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, protocol: int) -> None:
    mark = tmp_path / "ran"
    monkeypatch.setattr(edm_kit.Persistent, "source", "")
    raw = edm_kit.dumped(within(Call(os.system, f"touch {mark}"), where), protocol)
    with pytest.raises(ArtifactError, match=rf"net\.pkl is refused(.|\n)*'{os.system.__module__}\.system' imported"):
        read_network(raw, "net.pkl")
    assert not mark.exists()
    with edm_kit.persistence():
        pickle.loads(raw)
    assert mark.exists(), "the trap must be real"


def test_source_code_in_the_file_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    monkeypatch.setattr(edm_kit.Persistent, "source", f"open({str(mark)!r}, 'w').close()")
    raw = edm_kit.dumped(edm_kit.snapshot(edm_kit.network(TENSORS)))
    with edm_kit.persistence():
        assert read_network(raw, "f")[0].keys() == TENSORS.keys()
    assert not mark.exists()
    with edm_kit.persistence():
        pickle.loads(raw)
    assert mark.exists(), "the trap must be real"


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by the names in the list, which need not be importable here."""
    (tmp_path / "trap_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for raw in (b"\x80\x02ctrap_module\nThing\n.", b"\x80\x04\x8c\x0btrap_module\x8c\x05Thing\x93)\x81."):
        with pytest.raises(ArtifactError, match=r"'trap_module\.Thing' imported"):
            read_network(raw, "f")
    raw = edm_kit.dumped(edm_kit.snapshot(edm_kit.network(TENSORS)))
    read_network(raw, "f")
    assert not (tmp_path / "ran").exists() and not {"trap_module", "torch_utils", edm_kit.PERSISTENCE} & sys.modules.keys()


def nested(data: bytes) -> Any:
    return Call(torch.storage._load_from_bytes, data)


def saved(value: Any, **options: Any) -> bytes:
    stream = BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "legacy", "zip", "after the header", "in the key", "in the machine's facts"])
def test_a_nested_torch_save_cannot_run_code(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "ran"
    evil = Call(os.system, f"touch {mark}")
    call = pickle.dumps(evil, 2)[2:-1]  # without its beginning and end
    good = storage_bytes(torch.ones(3))
    data = {
        "pickle": pickle.dumps(evil),
        "legacy": saved({"x": evil}, _use_new_zipfile_serialization=False),
        "zip": saved({"x": evil}),
        "after the header": good[:good.index(b"\x80\x02(X\x07\0\0\0storage")] + pickle.dumps(evil, 2),
        "in the key": good.replace(b"Ntq\x04Q.", call + b"tq\x04Q."),
        "in the machine's facts": good.replace(b"\x88X\n\0\0\0type_sizes", call + b"X\n\0\0\0type_sizes"),
    }[kind]
    assert data != good
    with pytest.raises(ArtifactError, match="zip format" if kind == "zip" else rf"'{os.system.__module__}\.system' imported"):
        read_network(edm_kit.dumped(within(nested(data), "tensor")), "f")
    assert not mark.exists()
    with suppress(Exception):
        torch.storage._load_from_bytes(data)
    assert mark.exists(), "the trap must be real"


@pytest.mark.parametrize("value, told", [
    (nn.Linear(2, 2), "'torch.nn.modules.linear.Linear' imported"), (Call(eval, "1"), "'builtins.eval' imported"),
    (Call(getattr, [], "sort"), "'builtins.getattr' imported"), (Call(torch.load, "x"), "'torch.serialization.load' imported"),
    (nn.SiLU(), "'torch.nn.modules.activation.SiLU' imported"), (Path("x"), "Path' imported"),
    (np.random.Generator, "'numpy.random._generator.Generator' imported"), (np.zeros(1), "_reconstruct' imported"),
    (bytearray(b"x"), "'builtins.bytearray' imported"), (Call(OrderedDict, [("a", 1)]), "a call of 'collections.OrderedDict' with a list"),
    (Call(np.dtype, "O"), "a call of 'numpy.dtype' with 'O'"), (Call(set, (1, 2)), "a call of 'builtins.set' with a tuple"),
    (Call(torch._utils._rebuild_parameter, 1, 2, 3), "a call of 'torch._utils._rebuild_parameter' with 1, 2, 3"),
    (Call(torch.storage._load_from_bytes, "x"), "a call of 'torch.storage._load_from_bytes' with 'x'")], ids=lambda v: str(v)[:40])
def test_what_is_not_in_the_list_is_named(value: Any, told: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        read_network(edm_kit.dumped(within(value, "tensor")), "f")
    assert "refused" in caught.value.what and told in str(caught.value.saw)


@pytest.mark.parametrize("body, told", [
    (b"X\x01\0\0\0xQ.", "outside the pickle"), (b"Pid\n.", "instruction PERSID"), (b"\x82\x01.", "instruction EXT1"),
    (b"(cos\nsystem\nX\x04\0\0\0trueo.", "os.system"), (b"(ios\nsystem\nX\x04\0\0\0true.", "instruction INST"),
    (b"ccollections\nOrderedDict\n)}\x92.", "instruction NEWOBJ_EX"), (b"X\x02\0\0\0os)R.", "a call of 'os'"), (b"\x97.", "NEXT_BUFFER"),
    (b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}X\x04\0\0\0typeX\x06\0\0\0modules\x85R.", "of type 'module'"),
    (b"cos\x1b[2J\nsystem\n.", r"os\\x1b\[2J.system"), (b"ctorch.nn.modules.container\nModuleDict\n)\x81]b.", "a state for a Thing")])
def test_instructions_that_are_refused(body: bytes, told: str) -> None:
    with pytest.raises(ArtifactError, match=f"(?s)refused.*{told}"):
        read_network(b"\x80\x02" + body, "f")


# --- lies -------------------------------------------------------------------------------------------------------------------


def storage_bytes(tensor: torch.Tensor) -> bytes:
    """What torch writes for a tensor's storage."""
    return bytes(tensor._typed_storage().__reduce__()[1][0])


THREE = struct.pack("<q", 3)


def rebuilt(offset: Any, shape: Any, strides: Any) -> Any:
    return Call(torch._utils._rebuild_tensor_v2, torch.arange(6.0)._typed_storage(), offset, shape, strides, False, OrderedDict())


@pytest.mark.parametrize("sizes", [
    (0, (7,), (1,)), (1, (6,), (1,)), (6, (), ()), (0, (2, 3), (4, 1)), (0, (2, 3), (3, 2)), (-1, (2,), (1,)), (0, (-2,), (1,)),
    (0, (2,), (-1,)), (7, (0,), (1,)), (0, (1 << 40,), (0,)), (0, (2, 3), (1, 1)), (0, (6,), ()), (0, (1,) * 9, (1,) * 9),
    (0, (1 << 70,), (1,)), (1 << 70, (1,), (1,)), ("0", (6,), (1,)), (True, (6,), (1,)), (0, 6, (1,)), (0, (3.0,), (1,))], ids=str)
def test_a_tensor_outside_its_storage(sizes: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ArtifactError, match="refused"):
        read_network(edm_kit.dumped(within(rebuilt(*sizes), "tensor")), "f")
    assert read_network(edm_kit.dumped(within(rebuilt(0, (2, 3), (3, 1)), "tensor")), "f")[0]["other"].shape == (2, 3)


@pytest.mark.parametrize("old, new", [
    (THREE, struct.pack("<q", 4)), (THREE, struct.pack("<q", 1 << 40)), (THREE, struct.pack("<q", -3)),
    (b"K\x03N", b"K\x04N"), (b"K\x03N", b"J\xff\xff\xff\x7fN"), (b"K\x03N", b"J\xff\xff\xff\xffN"), (b"\x88", b"\x89"),
    (b"FloatStorage", b"ShortStorage"), (b"FloatStorage", b"HalfStorage"), (b"storage", b"modular"), (b"\x8a\x0al", b"\x8a\x0am"),
    (b"M\xe9\x03.", b"M\xea\x03."), (b"Ntq\x04Q", b"K\x01tq\x04Q"), (b"tq\x04Q.", b"tq\x04."), (b"]q\x00", b"}q\x00"),
    (b"q\x01a.", b"q\x01ah\x01a."), (b"", b"tail")])
def test_a_storage_that_lies(old: bytes, new: bytes) -> None:
    good = storage_bytes(torch.ones(3))
    bad = good + new if not old else good.replace(old, new)
    assert bad != good
    for data in (bad, good[:-1], good[:-12], b""):
        with pytest.raises(ArtifactError):
            read_network(edm_kit.dumped(within(nested(data), "arguments")), "f")
    assert read_network(edm_kit.dumped(within(nested(good), "arguments")), "f")[0]


# --- bombs ------------------------------------------------------------------------------------------------------------------


def name(module: str, member: str) -> bytes:
    return text(module) + text(member) + b"\x93"


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def module_bytes(children: bytes) -> bytes:
    """Instructions for a persistent module with these items in `_modules`."""
    state = b"}(" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}(" + children + b"uu"
    record = b"}(" + text("type") + text("class") + text("class_name") + text("A") + text("state") + state + b"u"
    return name("torch_utils.persistence", "_reconstruct_persistent_obj") + record + b"\x85R"


def ladder(levels: int, children: bytes) -> bytes:
    """Modules that each hold the one before, by reference."""
    made = module_bytes(b"") + b"q\0" + b"".join(module_bytes(children) + b"q\0" for _ in range(levels))
    return b"\x80\x04}(" + text("x") + b"](" + made + b"e" + text("ema") + b"h\0u."


DEEP = b")" + b"\x85" * 200_000
BOMBS = {
    "2 GB of bytes": (b"B\xff\xff\xff\x7fx.", "expected 2147483647 bytes"), "8 EB of bytes": (b"\x8e" + b"\xff" * 7 + b"\x7fx.", "bytes8"),
    "4 GB of text": (b"X\xff\xff\xff\xffx.", "4294967295 bytes"), "2 GB number": (b"\x8b\xff\xff\xff\x7f\x01.", "long4"),
    "1 MB number": (b"\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20) + b".", "128 bits"),
    "a deep tuple as a key": (b"}(" + DEEP + b"Nu.", "a tuple as a key"), "a deep tuple in a set": (b"\x8f(" + DEEP + b"\x90.", "as a key"),
    "a deep tuple as arguments": (name("collections", "OrderedDict") + DEEP + b"R.", "with a tuple"),
    "a deep tuple as a shape": (name("torch._utils", "_rebuild_tensor_v2") + b"(NN" + DEEP + b"NNNtR.", "a tensor made of"),
    "too many instructions": (b"N" * (INSTRUCTIONS + 1), "1,000,000 instructions"),
    "texts to bytes": (b"X" + struct.pack("<I", 5000) + b"x" * 5000 + b"\x94]("
                       + (name("_codecs", "encode") + b"h\0" + text("latin1") + b"\x86R") * 300 + b"e.", "more bytes in texts"),
}


@pytest.mark.parametrize("body, told", BOMBS.values(), ids=BOMBS.keys())
def test_bombs(body: bytes, told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        read_network(b"\x80\x04" + body, "f")


def test_modules_by_reference_are_counted() -> None:
    twice = text("a") + b"h\0" + text("b") + b"h\0"
    assert read_network(ladder(5, twice), "f")[0] == {}
    for raw in (ladder(30, twice), ladder(1000, text("a") + b"h\0")):  # 2^30 modules; deeper than Python's own stack
        with pytest.raises(ArtifactError, match="deep"):
            read_network(raw, "f")


def test_objects_that_are_no_plain_objects() -> None:
    good = module_bytes(b"")
    assert read_network(b"\x80\x04}" + text("ema") + good + b"s.", "f")[0] == {}
    for old, new, told in ((text("class"), text("spell"), "of type 'spell'"), (text("A"), text("a b"), "class 'a b'"),
                           (b"R", b"R}b", "a state for a Thing")):
        bad = good.replace(old, new)
        assert bad != good
        with pytest.raises(ArtifactError, match=f"refused(.|\n)*{told}"):
            read_network(b"\x80\x04}" + text("ema") + bad + b"s.", "f")


def test_one_storage_read_again_and_again_is_counted() -> None:
    data = storage_bytes(torch.ones(100))
    calls = b"".join(name("torch.storage", "_load_from_bytes") + b"h\0\x85R" for _ in range(50))
    with pytest.raises(ArtifactError, match="more tensors than the file has bytes for"):
        read_network(b"\x80\x04B" + struct.pack("<I", len(data)) + data + b"\x94](" + calls + b"e.", "f")


def test_one_tensor_under_many_names_is_counted() -> None:
    tensor = nn.Parameter(torch.ones(1000))
    network = edm_kit.network(TENSORS)
    network._parameters.update({str(k): tensor for k in range(3)})
    with pytest.raises(ArtifactError, match="larger than the file"):
        read_network(edm_kit.dumped({"ema": network}), "f")


def test_a_module_inside_itself() -> None:
    loop = nn.ModuleDict()
    loop._modules["again"] = loop
    network = edm_kit.network(TENSORS)
    network._modules["loop"] = loop
    with pytest.raises(ArtifactError, match=r"a module inside itself: 'loop\.again'"):
        read_network(edm_kit.dumped({"ema": network}), "f")


# --- damage -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", range(0, 100, 5))
def test_a_truncated_file(whole: bytes, percent: int) -> None:
    with pytest.raises(ArtifactError, match=r"net\.pkl"):
        read_network(whole[:len(whole) * percent // 100], "net.pkl")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6))
@example(1)
def test_truncated_anywhere(cut: int) -> None:
    raw = edm_kit.dumped({"ema": edm_kit.network({"model.x": torch.ones(2)})})
    with pytest.raises(ArtifactError):
        read_network(raw[:-(1 + cut % len(raw))], "f")


_FLIPPED = [edm_kit.dumped(edm_kit.snapshot(edm_kit.network(TENSORS)), protocol) for protocol in (2, 4)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_tensors(data: st.DataObject) -> None:
    """A flip in a number changes that number (the hash is what finds it); anything else is an error or changes nothing."""
    raw = bytearray(data.draw(st.sampled_from(_FLIPPED)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ArtifactError):
        seen, _ = read_network(bytes(raw), "f")
        assert all(isinstance(tensor, torch.Tensor) for tensor in seen.values())
        assert sum(tensor.nbytes for tensor in seen.values()) <= len(raw)


_PIECES = st.sampled_from([b"c" + n.replace(" ", "\n").encode() + b"\n" for n in sorted(NetworkRules.names)]
                          + [op.code.encode("latin-1") for op in pickletools.opcodes]
                          + [b"K\0", b"C\x02ab", text("ema"), text("class"), b"h\0", b"\x94", b"(", b")", b"\x85", b"\x86R", b"R"])


@settings(max_examples=200, deadline=None)
@given(st.lists(_PIECES, max_size=40), st.binary(max_size=30))
def test_any_program_is_an_error_or_tensors(pieces: list[bytes], tail: bytes) -> None:
    with suppress(ArtifactError):
        assert isinstance(read_network(b"\x80\x04" + b"".join(pieces) + tail + b".", "f")[0], dict)


@pytest.mark.parametrize("raw, told", [
    (b"", "not a pickle"), (b"<html>404</html>", "not a pickle"), (b"PK\x03\x04", "zip archive"), (b"\x80\x04}.", "no network under 'ema'"),
    (b"\x80\x04].", "no network"), (pickle.dumps({"ema": {"a": 1}}), "no network under 'ema'")])
def test_other_files(raw: bytes, told: str) -> None:
    with pytest.raises(ArtifactError, match=told):
        read_network(raw, "f")


@pytest.mark.parametrize("wrong", ["a.b", "", "x" * 101, "a\x1b[2J", "é", 3])
def test_names_of_tensors(wrong: Any) -> None:
    network = edm_kit.network(TENSORS)
    network._parameters[wrong] = nn.Parameter(torch.ones(1))
    with pytest.raises(ArtifactError, match="as a name in _parameters of a EDMPrecond"):
        read_network(edm_kit.dumped({"ema": network}), "f")


def test_parts_of_other_kinds() -> None:
    for where, told in (("module", "1.5 in _modules"), ("tensor", "1.5 in _parameters")):
        with pytest.raises(ArtifactError, match=told):
            read_network(edm_kit.dumped(within(1.5, where)), "f")
    with pytest.raises(ArtifactError, match="no torch module"):
        read_network(edm_kit.dumped({"ema": edm_kit.Values().named("EDMPrecond")}), "f")


def test_files(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "net.pkl").write_bytes(whole)
    assert read_network(tmp_path / "net.pkl", "f")[0].keys() == TENSORS.keys()
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_network(tmp_path / "other.pkl", "f")
    with (tmp_path / "vast.pkl").open("wb") as stream:
        stream.truncate(3 << 30)
    with pytest.raises(ArtifactError, match="too large"):
        read_network(tmp_path / "vast.pkl", "f")
