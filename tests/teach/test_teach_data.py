"""Data sets: digits, CIFAR-10 from a folder, an archive or a download, folders of images; and what is wrong with each."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedit.core.cache import cache_folder
from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.teach import cifar
from edgedit.teach.data import ImageSet, load_data
from edgedit.teach.fetch import fetch

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
REAL = Path(__file__).parents[2] / ".work" / "cifar"


def _text(value: bytes) -> bytes:
    return b"T" + len(value).to_bytes(4, "little") + value


def _batch(data: np.ndarray, labels: list[int]) -> bytes:
    """A CIFAR batch in the published opcodes (Python 2, protocol 2)."""
    minus = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\n" + _text(b"u1") + b"K\x00K\x01\x87R(K\x03" + _text(b"|") + b"NNN" + minus + minus + b"K\x00tb"
    shape = b"".join(b"J" + n.to_bytes(4, "little") for n in data.shape)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _text(b"b") + b"\x87R"
    array = (empty + b"(K\x01" + shape + b"\x86" + dtype + b"\x89" + _text(data.tobytes()) + b"tb")
    classes = b"](" + b"".join(b"K" + bytes([x]) for x in labels) + b"e"
    return b"\x80\x02}(" + _text(b"data") + array + _text(b"labels") + classes + b"u."


def _files(rng: np.random.Generator, rows: int = 20) -> dict[str, bytes]:
    names = b"".join(_text(n.encode()) for n in NAMES)
    files = {"batches.meta": b"\x80\x02}(" + _text(b"label_names") + b"](" + names + b"eu."}
    for name in (*cifar.BATCHES["train"], *cifar.BATCHES["test"]):
        files[name] = _batch(rng.integers(0, 256, (rows, 3072), np.uint8), [i % 10 for i in range(rows)])
    return files


@pytest.fixture
def batches(tmp_path):
    folder = tmp_path / cifar.FOLDER
    folder.mkdir()
    for name, raw in _files(np.random.default_rng(0)).items():
        (folder / name).write_bytes(raw)
    return folder


def _archive(folder: Path, file: Path) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        tar.add(folder, cifar.FOLDER)
    return file


def test_digits() -> None:
    data = load_data("digits")
    assert data.images.shape == (1437, 16, 16, 1) and data.images.dtype == np.uint8 and data.shape == (1, 16, 16)
    assert data.images.min() == 0 and data.images.max() == 255
    test = load_data("digits", split="test", image=8)
    assert test.images.shape == (360, 8, 8, 1)
    from sklearn.datasets import load_digits

    raw = load_digits().images[-360:]
    assert np.array_equal(test.images[..., 0], np.rint(raw * 255 / 16).astype(np.uint8))  # no resize: the values themselves
    assert np.corrcoef(data.images[0, ::2, ::2, 0].ravel(), load_digits().images[0].ravel())[0, 1] > 0.8


def test_cifar_folder_archive_and_parent_agree(batches, tmp_path) -> None:
    sets = [load_data(p) for p in (batches, batches.parent, _archive(batches, tmp_path / "c.tar.gz"))]
    assert len({s.sha256 for s in sets}) == 1
    data = sets[0]
    assert data.images.shape == (100, 32, 32, 3) and data.class_names == tuple(NAMES)
    planes = np.random.default_rng(0).integers(0, 256, (20, 3072), np.uint8)
    assert np.array_equal(data.images[3, 5, 7], planes[3].reshape(3, 32, 32)[:, 5, 7])
    assert load_data(batches, split="test").images.shape == (20, 32, 32, 3)
    assert load_data(batches, image=16).shape == (3, 16, 16)
    assert load_data(batches, split="test").sha256 != data.sha256


@pytest.mark.parametrize("damage", ["cut", "missing", "label", "hostile", "meta", "gray"])
def test_bad_cifar(batches, tmp_path, damage: str) -> None:
    file = batches / "data_batch_3"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:30_000])
    elif damage == "missing":
        file.unlink()
    elif damage == "label":
        file.write_bytes(_batch(np.zeros((2, 3072), np.uint8), [1, 10]))
    elif damage == "gray":
        file.write_bytes(_batch(np.zeros((2, 1024), np.uint8), [1, 2]))
    elif damage == "meta":
        (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": 3}))
    else:
        file.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(ArtifactError, match=r"batches\.meta" if damage == "meta" else "data_batch_3"):
        load_data(batches)
    assert not (tmp_path / "ran").exists()


def test_bad_archive(batches, tmp_path) -> None:
    whole = _archive(batches, tmp_path / "c.tar.gz").read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for size in (0, 100, len(whole) // 2):
        cut.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match=r"cut\.tar\.gz"):
            load_data(cut)


def _write(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def test_folder_of_images(tmp_path) -> None:
    _write(tmp_path / "pets" / "cat" / "1.png", np.full((40, 60, 3), [200, 10, 10], np.uint8))
    _write(tmp_path / "pets" / "cat" / "2.PNG", np.zeros((8, 8, 4), np.uint8))  # transparent: white
    _write(tmp_path / "pets" / "dog" / "1.jpg", np.full((33, 21), 90, np.uint8))  # grey
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("no image")
    data = load_data(tmp_path / "pets", image=20)
    assert data.images.shape == (3, 20, 20, 3) and data.class_names == ("cat", "dog") and data.labels.tolist() == [0, 0, 1]
    assert (data.images[0] == [200, 10, 10]).all() and (data.images[1] == 255).all() and data.name == "pets"
    with pytest.raises(UsageError, match="no test split"):
        load_data(tmp_path / "pets", split="test")
    (tmp_path / "pets" / "dog" / "2.png").write_bytes((tmp_path / "pets" / "cat" / "1.png").read_bytes()[:60])
    with pytest.raises(ArtifactError, match=r"dog.2\.png"):
        load_data(tmp_path / "pets")
    (tmp_path / "pets" / "dog" / "2.png").unlink()
    (tmp_path / "pets" / "empty").mkdir()
    with pytest.raises(UsageError, match="no image of: empty"):
        load_data(tmp_path / "pets")


def test_centre_is_kept(tmp_path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    _write(tmp_path / "d" / "x" / "1.png", wide)
    assert (load_data(tmp_path / "d", image=10).images == 255).all()


def test_wrong_source(tmp_path) -> None:
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        load_data("digit")
    with pytest.raises(UsageError, match="unknown split"):
        load_data("digits", split="tset")
    (tmp_path / "d").mkdir()
    with pytest.raises(UsageError, match="no images by class"):
        load_data(tmp_path / "d")
    with pytest.raises(UsageError, match="labels of 0"):
        ImageSet("x", np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 2]), ("a", "b"))


@pytest.mark.skipif(not (REAL / cifar.FOLDER).is_dir(), reason="real CIFAR-10 is not unpacked in .work/cifar")
def test_real_cifar() -> None:
    data = load_data(REAL, split="test")
    assert np.bincount(data.labels).tolist() == [1000] * 10 and data.class_names == tuple(NAMES)
    assert np.allclose([data.images[..., c].mean() / 255 for c in range(3)], [0.4942, 0.4851, 0.4504], atol=1e-4)


# --- downloads ------------------------------------------------------------------------------------------------------------

BODY = np.random.default_rng(1).bytes(3_000_000)
MD5 = hashlib.md5(BODY).hexdigest()


class _Server(BaseHTTPRequestHandler):
    ranges = True
    breaks = 0
    asked: list[str | None]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.server.ranges else 0  # type: ignore[attr-defined]
        if start >= len(BODY):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        body = BODY[start:]
        if self.server.breaks > 0:  # type: ignore[attr-defined]
            self.server.breaks -= 1  # type: ignore[attr-defined]
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    httpd.ranges, httpd.breaks, httpd.asked = True, 0, []  # type: ignore[attr-defined]
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def _url(server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/file"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(server, tmp_path, ranges: bool) -> None:
    server.breaks, server.ranges, events = 1, ranges, []
    with pytest.raises(MissingError, match="could not be downloaded"):
        fetch(_url(server), tmp_path / "f", md5=MD5, fix="pass a path")
    kept = (tmp_path / "f.part").stat().st_size
    assert 0 < kept < len(BODY) and not (tmp_path / "f").exists()
    assert fetch(_url(server), tmp_path / "f", md5=MD5, fix="", say=events.append).read_bytes() == BODY
    assert server.asked == [None, f"bytes={kept}-"] and events and not (tmp_path / "f.part").exists()
    assert fetch("http://127.0.0.1:1/", tmp_path / "f", md5=MD5, fix="").read_bytes() == BODY  # from the cache


def test_a_whole_part_and_a_wrong_file(server, tmp_path) -> None:
    (tmp_path / "f.part").write_bytes(BODY)
    assert fetch(_url(server), tmp_path / "f", md5=MD5, fix="").read_bytes() == BODY
    with pytest.raises(MissingError, match="did not give the published file"):
        fetch(_url(server), tmp_path / "g", md5="0" * 32, fix="pass a path")
    assert not list(tmp_path.glob("g*"))


def test_no_network(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:1/cifar-10-python.tar.gz")
    with pytest.raises(MissingError, match="--data PATH"):
        load_data("cifar10", cache=tmp_path)
    with pytest.raises(MissingError, match="not in the cache"):
        load_data("cifar10", cache=tmp_path / "other", download=False)


def test_the_cache_is_used(batches, tmp_path, monkeypatch) -> None:
    archive = _archive(batches, tmp_path / cifar.ARCHIVE)
    monkeypatch.setattr(cifar, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert len(load_data("cifar10", download=False)) == 100
