from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.artifact import MANIFEST, create, open_artifact, seal
from edgedit.core.chain import chain
from edgedit.core.errors import ArtifactError, EdgeditError, OutputError
from edgedit.core.files import write_atomic


def make(folder: Path, kind: str = "thing", parent: Path | None = None) -> Path:
    with create(folder, kind) as draft:
        draft.write("sub/data.bin", bytes(range(256)))
        draft.write_json("facts.json", {"a": 1})
        draft.info["label"] = folder.name
        if parent:
            draft.parents.append(open_artifact(parent).as_parent("parent"))
    return folder


def test_round_trip(tmp_path: Path) -> None:
    artifact = open_artifact(make(tmp_path / "a"), "thing")
    assert sorted(artifact.manifest.files) == ["facts.json", "sub/data.bin"]
    assert artifact.file("sub/data.bin").read_bytes() == bytes(range(256))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]  # no temporary sibling is left


@settings(max_examples=40, deadline=None)
@given(position=st.integers(0, 255), flip=st.integers(1, 255))
def test_any_altered_byte_is_refused(tmp_path_factory: pytest.TempPathFactory, position: int, flip: int) -> None:
    folder = make(tmp_path_factory.mktemp("x") / "a")
    data = bytearray((folder / "sub/data.bin").read_bytes())
    data[position] ^= flip
    (folder / "sub/data.bin").write_bytes(data)
    with pytest.raises(ArtifactError, match="altered"):
        open_artifact(folder)


def test_truncated_and_missing_payloads(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "sub/data.bin").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="truncated"):
        open_artifact(folder, verify=False)
    (folder / "sub/data.bin").unlink()
    with pytest.raises(ArtifactError, match="lacks"):
        open_artifact(folder)


def test_wrong_kind_no_manifest_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="kind 'thing', needed is 'bundle'"):
        open_artifact(make(tmp_path / "a"), "bundle")
    (tmp_path / "b").mkdir()
    with pytest.raises(ArtifactError, match="no manifest"):
        open_artifact(tmp_path / "b")
    with pytest.raises(ArtifactError, match="not there"):
        open_artifact(tmp_path / "c")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["kind", "schema", "files", "parents", "x"]), x), max_leaves=8).map(lambda v: json.dumps(v).encode()))
def test_any_manifest_text_gives_an_artifact_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.mktemp("m")
    (folder / MANIFEST).write_bytes(raw)
    with pytest.raises(ArtifactError):
        open_artifact(folder)


def test_a_manifest_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    body = json.loads((folder / MANIFEST).read_text())
    body["files"]["../secret"] = {"sha256": "0", "bytes": 0}
    (folder / MANIFEST).write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match="outside"):
        open_artifact(folder)


def test_an_error_leaves_the_old_artifact(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    before = open_artifact(folder).manifest.digest
    with pytest.raises(RuntimeError), create(folder, "thing") as draft:
        draft.write("new", b"1")
        raise RuntimeError
    assert open_artifact(folder).manifest.digest == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_a_killed_writer_leaves_the_old_artifact(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    before = open_artifact(folder).manifest.digest
    code = ("import os, signal, sys\nfrom edgedit.core.artifact import create\n"
            "with create(sys.argv[1], 'thing') as draft:\n"
            "    draft.write('new', b'1'); os.kill(os.getpid(), signal.SIGKILL)\n")
    assert subprocess.run([sys.executable, "-c", code, str(folder)]).returncode == -9
    assert open_artifact(folder).manifest.digest == before


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="free some space"), create(tmp_path / "a", "thing"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not (tmp_path / "a").exists()
    if Path("/dev/full").exists():
        with pytest.raises(OSError) as caught, open("/dev/full", "wb", buffering=0) as full:  # the real thing gives this errno
            full.write(b"x")
        assert caught.value.errno == errno.ENOSPC


def test_foreign_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="did not make"), create(tmp_path / "a", "thing"):
        pass
    assert (tmp_path / "a" / "thesis.tex").read_text() == "x"
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="is a file"), create(tmp_path / "f", "thing"):
        pass


def test_an_artifact_of_another_kind_is_never_replaced(tmp_path: Path) -> None:
    make(tmp_path / "a", "pairs")
    with pytest.raises(OutputError, match="of kind 'pairs'"), create(tmp_path / "a", "bundle"):
        pass
    assert open_artifact(tmp_path / "a").manifest.kind == "pairs"


def test_write_atomic_keeps_the_old_file_on_error(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", "old")
    with pytest.raises(EdgeditError):
        write_atomic(tmp_path / "no" / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_seal_covers_the_named_files_only(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("w")
    (tmp_path / "log").write_text("1")
    manifest = seal(tmp_path, "student", ["weights"])
    (tmp_path / "log").write_text("12")
    assert open_artifact(tmp_path).manifest.digest == manifest.digest
    (tmp_path / "weights").write_text("v")
    with pytest.raises(ArtifactError):
        open_artifact(tmp_path)


def test_chain_walks_to_the_oldest_ancestor_and_tells_what_changed(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    b = make(tmp_path / "b", parent=a)
    c = make(tmp_path / "c", parent=b)
    assert [(k.depth, k.label, k.status) for k in chain(c)] == [(0, "c", "verified"), (1, "b", "verified"), (2, "a", "verified")]
    (a / "facts.json").write_text("{}")
    assert [k.status for k in chain(c)] == ["verified", "verified", "damaged"]
    make(tmp_path / "a")  # the same content at another time may have another digest; another label certainly has
    with create(tmp_path / "a", "thing") as draft:
        draft.write("other", b"")
    assert [k.status for k in chain(c)][2] == "changed"
    for folder in (a, b):
        os.rename(folder, folder.with_name(folder.name + "-moved"))
    assert [(k.label, k.status) for k in chain(c)][1:] == [("b", "absent"), ("a", "absent")]
