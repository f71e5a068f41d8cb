"""The pickle reader: what numpy writes is read, what could run code is refused, nothing else gets through."""

from __future__ import annotations

import os
import pickle
import pickletools
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import ArtifactError
from edgedit.teach.unpickle import read_pickle


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_what_python_writes_is_read(protocol: int) -> None:
    body = {"labels": [1, -2, 300, 70000], "names": ["x", None, True, 1.5, (1, 2), {"k": ()}]}
    assert read_pickle(pickle.dumps(body, protocol), "f") == body


@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4"])
def test_arrays(dtype: str) -> None:
    array = np.arange(12).astype(dtype).reshape(3, 4)
    raw = _python2(array)
    seen = read_pickle(raw, "f")["data"]
    assert seen.dtype == np.dtype(dtype) and np.array_equal(seen, array)


def _python2(array: np.ndarray) -> bytes:
    """The opcodes of a Python 2 pickle of {'data': array}, numpy's module names of that time."""
    raw, kind = array.tobytes(), array.dtype.str
    text = lambda b: b"T" + len(b).to_bytes(4, "little") + b  # noqa: E731
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
    minus = b"J\xff\xff\xff\xff"
    dtype = (b"cnumpy\ndtype\nq\x03" + text(kind[1:].encode()) + b"K\x00K\x01\x87R(K\x03" + text(kind[:1].encode()) + b"NNN"
             + minus + minus + b"K\x00tb")
    empty = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    return b"\x80\x02}q\x00(" + text(b"data") + empty + b"(K\x01" + shape + dtype + b"\x89" + text(raw) + b"tbu."


class _Runs:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


class _Nested:
    """A reduce hidden in the arguments of another."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return np.dtype, (_Runs(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("hostile", [_Runs, _Nested, lambda p: {"labels": [_Runs(p)]}, lambda p: [_Runs(p)] * 3])
def test_no_code_runs(tmp_path, hostile, protocol: int) -> None:
    mark = tmp_path / "ran"
    raw = pickle.dumps({"data": hostile(str(mark))}, protocol)
    with pytest.raises(ArtifactError, match="refused"):
        read_pickle(raw, "data_batch_1")
    assert not mark.exists()


@pytest.mark.parametrize("raw", [
    b"cbuiltins\neval\n(S'1'\ntR.", b"(ios\nsystem\nS'true'\n.", b"(cos\nsystem\nS'true'\no.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", b"cnumpy\nload\n(S'x'\ntR.",
    b"cnumpy\nndarray\n(I1000000000000\ntR.", b"cnumpy\ndtype\n(S'O'\ntR.", b"Pid\n.", b"}\x82\x01.", b"\x95.",
    b"cnumpy\nndarray\n)\x81.", b"(Vdata\ncnumpy\nndarray\nd."])
def test_hostile_instructions(raw: bytes) -> None:
    with pytest.raises(ArtifactError):
        read_pickle(raw, "f")


def test_false_arrays() -> None:
    good = _python2(np.zeros((2, 3), np.uint8))
    for bad in (good.replace(b"K\x02K\x03t", b"K\x02K\x04t"), good.replace(b"u1", b"O8"), good[:-3], good[:40], b""):
        assert bad != good
        with pytest.raises(ArtifactError):
            read_pickle(bad, "f")


@pytest.mark.parametrize("raw", [
    b"\x80\x02}(" + b")" + b"\x85" * 100_000 + b"Nu.", b"\x80\x02cnumpy\ndtype\n" + b")" + b"\x85" * 100_000 + b"R.",
    b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", b"\x80\x02T\xff\xff\xff\x7fx.", b"\x80\x02" + b"N" * 1_000_001 + b"."])
def test_depth_and_size_have_bounds(raw: bytes) -> None:
    """A tuple nested this deep takes the process down when it is hashed or printed."""
    with pytest.raises(ArtifactError):
        read_pickle(raw, "f")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_a_dictionary(data) -> None:
    whole = [_python2(np.arange(6, dtype=np.uint8).reshape(2, 3)), pickle.dumps({"labels": [1, 2, 3], "names": ["b", 1.5]}, 2)]
    raw = bytearray(data.draw(st.sampled_from(whole)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ArtifactError):
        assert isinstance(read_pickle(bytes(raw), "f"), dict)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([op.code for op in pickletools.opcodes]), max_size=30), st.binary(max_size=40))
def test_any_program_is_an_error_or_a_dictionary(codes, tail) -> None:
    raw = "".join(codes).encode("latin-1") + tail + b"."
    with suppress(ArtifactError):
        assert isinstance(read_pickle(raw, "f"), dict)
