"""generate: what lands in each output, that it does not depend on the batch, resuming, and outputs that cannot be written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from bundle_kit import PyRuntime, expected, make_bundle, small_spec
from PIL import Image

from edgedit.core.errors import Interrupted, OutputError, UsageError
from edgedit.core.settings import resolve
from edgedit.device.bundle import Bundle
from edgedit.device.generate import GenerateSettings, generate
from edgedit.device.outputs import NpyStream, class_picture, npy_header
from edgedit.device.runtime import RuntimeChoice

ROOT = Path(__file__).resolve().parents[2]
ORT = RuntimeChoice(threads=1)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    return {"fixed": make_bundle(folder / "fixed"), "dynamic": make_bundle(folder / "dynamic", dynamic=True)}


def settings(**values):
    return resolve(GenerateSettings, options=values)


def load(file):
    with np.load(file) as found:
        return found["images"], found["labels"]


@pytest.mark.parametrize("count, batch", [(1, 3), (4, 4), (13, 5), (13, 64)])
def test_images_depend_on_seed_index_and_class_alone(paths, tmp_path, count, batch):
    bundle = Bundle.open(paths["dynamic"])
    generate(paths["dynamic"], ORT, settings(count=count, batch=batch, seed=3, start=6), npz=tmp_path / "a.npz")
    images, labels = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(labels, np.arange(6, 6 + count) % 4)
    np.testing.assert_array_equal(images, expected(bundle, 3, range(6, 6 + count), labels))
    assert images.dtype == np.uint8 and labels.dtype == np.int32


def test_a_fixed_batch_makes_one_image_by_padding(paths, tmp_path):
    made = generate(paths["fixed"], ORT, settings(count=1, classes=("cat",)), npz=tmp_path / "a.npz")
    images, labels = load(tmp_path / "a.npz")
    assert made.count == made.made == 1 and made.classes == ("cat",) and labels.tolist() == [2]
    np.testing.assert_array_equal(images, expected(Bundle.open(paths["fixed"]), 0, [0], [2]))


def test_two_classes_take_turns(paths, tmp_path):
    generate(paths["fixed"], ORT, settings(count=5, classes=("dog", "1")), npz=tmp_path / "a.npz")
    assert load(tmp_path / "a.npz")[1].tolist() == [3, 1, 3, 1, 3]


def test_a_folder_of_pngs_named_by_index_and_class(paths, tmp_path):
    generate(paths["fixed"], ORT, settings(count=6, start=10), save_dir=tmp_path / "d")
    names = sorted(p.name for p in (tmp_path / "d").glob("*.png"))
    assert names == ["000010-cat.png", "000011-dog.png", "000012-ant.png", "000013-bee.png", "000014-cat.png", "000015-dog.png"]
    image = np.asarray(Image.open(tmp_path / "d" / names[1]))
    np.testing.assert_array_equal(image, expected(Bundle.open(paths["fixed"]), 0, [11], [3])[0])


def test_class_names_cannot_leave_the_folder(tmp_path):
    path = make_bundle(tmp_path / "b", class_names=("../x", "a/b", "ok", "ü n"))
    generate(path, ORT, settings(count=4), save_dir=tmp_path / "d")
    names = sorted(p.name for p in (tmp_path / "d").glob("*.png"))
    assert names == ["000000-.._x.png", "000001-a_b.png", "000002-ok.png", "000003-ü_n.png"]


def test_a_grey_bundle_makes_grey_files(tmp_path):
    path = make_bundle(tmp_path / "b", spec=small_spec(image=6, channels=1))
    generate(path, ORT, settings(count=2), save_dir=tmp_path / "d", out=tmp_path / "g.png")
    assert Image.open(next((tmp_path / "d").glob("*.png"))).mode == "L" and Image.open(tmp_path / "g.png").mode == "RGB"


def test_the_grid_and_its_note(paths, tmp_path):
    made = generate(paths["fixed"], ORT, settings(count=9, seed=5), out=tmp_path / "deep" / "g.png")
    assert Image.open(tmp_path / "deep" / "g.png").size[1] > 4 * 8
    note = json.loads((tmp_path / "deep" / "g.png.json").read_text())
    assert note["request"]["seed"] == 5 and note["request"]["classes"] == ["ant", "bee", "cat", "dog"]
    assert note["request"]["bundle"] == Bundle.open(paths["fixed"]).digest
    assert note["made"]["provider"] == "CPUExecutionProvider" and note["made"]["images"] == 9
    assert made.outputs == (tmp_path / "deep" / "g.png",) and made.images_per_s > 0


def test_a_grid_has_a_row_for_each_class():
    images = np.zeros((5, 4, 4, 3), np.uint8)
    images[:] = np.arange(5, dtype=np.uint8)[:, None, None, None] * 40
    picture = np.asarray(Image.open(BytesIO(class_picture(images, [0, 2, 0, 2, 0], ("a", "b", "c")))))
    first, second = (set(picture[y, -150:, 0].tolist()) for y in (30, 95))
    assert {0, 80, 160} <= first and {40, 120, 255} <= second and not {40, 120} & first


# --- again ------------------------------------------------------------------------------------------------------------------


def test_the_same_command_again_does_nothing(paths, tmp_path):
    places = {"out": tmp_path / "g.png", "save_dir": tmp_path / "d", "npz": tmp_path / "a.npz"}
    first = generate(paths["fixed"], ORT, settings(count=10), **places)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    heard = []
    again = generate(paths["fixed"], ORT, settings(count=10), **places, say=heard.append)
    assert (first.made, again.made) == (10, 0) and "already" in heard[0].text
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("change", [{"seed": 1}, {"count": 11}, {"classes": ("cat",)}, {"start": 2}])
def test_another_request_is_made_anew(paths, tmp_path, change):
    generate(paths["fixed"], ORT, settings(count=10), npz=tmp_path / "a.npz")
    again = generate(paths["fixed"], ORT, settings(**{"count": 10, **change}), npz=tmp_path / "a.npz")
    assert again.made == again.count


def test_an_altered_output_is_made_anew(paths, tmp_path):
    generate(paths["fixed"], ORT, settings(count=10), npz=tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-10])
    assert generate(paths["fixed"], ORT, settings(count=10), npz=tmp_path / "a.npz").made == 10
    assert load(tmp_path / "a.npz")[0].shape == (10, 8, 8, 3)


def test_a_folder_cut_short_is_continued(paths, tmp_path):
    bundle = Bundle.open(paths["fixed"])

    def stop(call):
        if call == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"SIGTERM after 12 of 30"):
        generate(paths["fixed"], PyRuntime(bundle, on_call=stop), settings(count=30), save_dir=tmp_path / "d")
    assert len(list((tmp_path / "d").glob("*.png"))) == 12
    runtime = PyRuntime(bundle)
    made = generate(paths["fixed"], runtime, settings(count=30), save_dir=tmp_path / "d")
    assert made.made == 18 and runtime.calls == 5 and len(list((tmp_path / "d").glob("*.png"))) == 30


def test_the_handlers_are_put_back(paths, tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    generate(paths["fixed"], ORT, settings(count=1), npz=tmp_path / "a.npz")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


# --- what goes wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, says", [
    ({"count": 0}, "count"), ({"batch": 0}, "batch"), ({"seed": -1}, "seed"), ({"seed": 1 << 64}, "seed"),
    ({"start": -1}, "start")])
def test_settings_out_of_range(options, says):
    with pytest.raises(UsageError, match=says):
        settings(**options)


def test_requests_that_cannot_be_met(paths, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'cat'"):
        generate(paths["fixed"], ORT, settings(classes=("kat",)), npz=tmp_path / "a.npz")
    with pytest.raises(UsageError, match="batch 4 only"):
        generate(paths["fixed"], ORT, settings(batch=5), npz=tmp_path / "a.npz")
    with pytest.raises(UsageError, match="2\\^48"):
        generate(paths["fixed"], ORT, settings(count=2, start=(1 << 48) - 1), npz=tmp_path / "a.npz")
    with pytest.raises(UsageError, match="nowhere to put"):
        generate(paths["fixed"], ORT, settings())
    assert not list(tmp_path.iterdir())


def test_outputs_in_the_way(paths, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a file"):
        generate(paths["fixed"], ORT, settings(), save_dir=tmp_path / "file")
    with pytest.raises(OutputError, match="not a regular file"):
        generate(paths["fixed"], ORT, settings(), out=tmp_path / "folder")
    with pytest.raises(OutputError):
        generate(paths["fixed"], ORT, settings(), npz=tmp_path / "file" / "a.npz")
    with pytest.raises(OutputError, match="not a regular file"):
        generate(paths["fixed"], ORT, settings(), out="/dev/full")


@pytest.mark.parametrize("place, name", [("npz", "a.npz"), ("save_dir", "d"), ("out", "g.png")])
def test_a_folder_without_permission(paths, tmp_path, place, name, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode, **k: False if Path(p).is_relative_to(locked) else real(p, mode, **k))
    with pytest.raises(OutputError, match="no permission"):
        generate(paths["fixed"], ORT, settings(), **{place: locked / name})


def test_a_file_that_the_system_refuses_to_grow(paths, tmp_path):
    """A real refusal by the kernel: files may have at most 64 KB. Nothing half is left."""
    code = ("import resource, sys\nfrom edgedit.core.errors import OutputError\n"
            "from edgedit.device.generate import GenerateSettings, generate\nfrom edgedit.device.runtime import RuntimeChoice\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
            "try:\n    generate(sys.argv[1], RuntimeChoice(threads=1), GenerateSettings(count=2000), npz=sys.argv[2])\n"
            "except OutputError as error:\n    print(error)\n")
    done = subprocess.run([sys.executable, "-c", code, str(paths["fixed"]), str(tmp_path / "a.npz")], capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60, check=True)
    assert "a.npz could not be written" in done.stdout and "File too large" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_whole_files_of_a_folder(paths, tmp_path, monkeypatch):
    real, written = Image.Image.save, []

    def save(self, file, *args, **options):
        if len(written) == 7:
            Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(file)
        return real(self, file, *args, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OutputError, match=r"No space left(.|\n)*free some space"):
        generate(paths["fixed"], ORT, settings(count=40), save_dir=tmp_path / "d")
    assert len(list((tmp_path / "d").glob("*.png"))) == 7 and not list((tmp_path / "d").glob("*.part"))


def test_memory_does_not_grow_with_the_count(tmp_path):
    path = make_bundle(tmp_path / "b", batch=64, spec=small_spec(image=16))
    runtime = PyRuntime(Bundle.open(path))

    def peak(count):
        tracemalloc.start()
        try:
            generate(path, runtime, settings(count=count), npz=tmp_path / f"{count}.npz")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(2560), peak(12_800)
    assert many - few < 600_000  # the images are 2 MB and 10 MB


def test_npy_headers_are_numpys(tmp_path):
    for shape in ((), (0,), (50_000, 32, 32, 3), (1 << 40, 512, 512, 3)):
        header = npy_header(shape, "|u1")
        assert len(header) == 128
        stream = tmp_path / "x"
        stream.write_bytes(header)
        with stream.open("rb") as file:
            assert np.lib.format.read_magic(file) == (1, 0)
            assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.dtype("u1"))


def test_a_stream_of_rows_is_a_npy_file(tmp_path):
    stream = NpyStream(tmp_path / "x.npy", (2, 3), "<f4")
    rows = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    stream.add(rows[:1])
    stream.add(rows[1:])
    stream.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), rows)
