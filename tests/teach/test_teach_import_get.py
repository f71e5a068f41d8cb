"""GET's pair files: the layout, its variants, everything that may be wrong with a file, resuming, training on the result."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import ArtifactError, EdgeditError, Interrupted, NumericsError, UsageError
from edgedit.core.pairset import PairSet, to_uint8
from edgedit.core.say import Event
from edgedit.teach import import_get as stage
from edgedit.teach.get_files import read_saved
from edgedit.teach.import_get import import_get
from edgedit.teach.settings import ImportSettings

SMALL = ImportSettings(shard_size=16)


def tensors(rows: int = 20, *, side: int = 8, channels: int = 3, classes: int = 10, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Noise, one-hot classes and raw images as GET's conditional generator stores them."""
    chance = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, channels, side, side, generator=chance)
    onehot = torch.eye(classes)[torch.randint(classes, (rows,), generator=chance)]
    return z, onehot, (torch.rand(rows, channels, side, side, generator=chance) * 2 - 1) * 1.05


def put(folder: Path, number: int, latent: Any, image: Any, *, zipped: bool = True) -> None:
    """A pair of files under the number's name, as torch.save writes them now, or wrote them before 1.6."""
    for name, value in (("latent", latent), ("image", image)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        torch.save(value, folder / name / f"{number:09d}.pkl", _use_new_zipfile_serialization=zipped)


def write(folder: Path, sizes: tuple[int, ...] = (20, 25, 3), *, zipped: bool = True) -> tuple[torch.Tensor, ...]:
    """Files of those sizes; all their tensors in order."""
    parts, last = [], -1
    for seed, rows in enumerate(sizes):
        parts.append(tensors(rows, seed=seed))
        last += rows
        z, onehot, images = parts[-1]
        put(folder, last, [z, onehot], images, zipped=zipped)
    return tuple(torch.cat([part[k] for part in parts]) for k in range(3))


def payload(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


@pytest.mark.parametrize("zipped", [True, False])
def test_the_pairs_are_the_files(tmp_path, zipped: bool) -> None:
    z, onehot, images = write(tmp_path / "get", zipped=zipped)
    events: list[Event] = []
    import_get(tmp_path / "get", tmp_path / "p", SMALL, say=events.append)
    pairs = PairSet.open(tmp_path / "p")
    assert len(pairs) == 48 and pairs.shards == 3 and pairs.shape == (3, 8, 8)
    assert np.array_equal(pairs.noise(range(48)), z.numpy()) and pairs.noise([0]).dtype == np.float32
    assert np.array_equal(pairs.labels(range(48)), onehot.argmax(1).numpy())
    assert np.array_equal(pairs.images(range(48)), to_uint8(images.numpy()))
    info = pairs.info
    assert info["noise"] == "stored" and info["class_names"][0] == "airplane" and info["sampler"]["evaluations"] == 35
    assert info["teacher"]["origin"] == "GET pair files" and info["teacher"]["files"] == 6 and len(info["teacher"]["files_sha256"]) == 64
    assert [(e.done, e.total) for e in events if e.unit == "files"] == [(1, 3), (2, 3), (3, 3)]
    assert events[-1].done == 48 and not (tmp_path / "p.partial").exists()


def test_the_order_is_that_of_the_numbers(tmp_path) -> None:
    first, second = tensors(20, seed=1), tensors(20, seed=2)
    for number, (z, onehot, images) in (("9", first), ("10", second)):  # as text, "10" comes before "9"
        put(tmp_path / "get", 0, [z, onehot], images)
        for name in ("latent", "image"):
            (tmp_path / "get" / name / "000000000.pkl").rename(tmp_path / "get" / name / f"{number}.pkl")
    import_get(tmp_path / "get", tmp_path / "p", SMALL)
    assert np.array_equal(PairSet.open(tmp_path / "p").noise([0, 20]), torch.stack([first[0][0], second[0][0]]).numpy())


def test_double_precision_and_whole_number_classes(tmp_path) -> None:
    z, onehot, images = tensors()
    put(tmp_path / "get", 19, (z.double(), onehot.long()), images.double())
    import_get(tmp_path / "get", tmp_path / "p", SMALL)
    pairs = PairSet.open(tmp_path / "p")
    assert np.array_equal(pairs.noise(range(20)), z.numpy()) and np.array_equal(pairs.images(range(20)), to_uint8(images.numpy()))


def test_noise_times_80_is_named_and_can_be_told(tmp_path) -> None:
    z, onehot, images = tensors()
    put(tmp_path / "get", 19, [z * 80, onehot], images)
    with pytest.raises(ArtifactError, match="standard deviation 79") as caught:
        import_get(tmp_path / "get", tmp_path / "p", SMALL)
    assert "--noise-scale 80" in str(caught.value) and "000000019.pkl" in str(caught.value)
    import_get(tmp_path / "get", tmp_path / "p", ImportSettings(noise_scale=80))
    np.testing.assert_allclose(PairSet.open(tmp_path / "p").noise(range(20)), z.numpy(), rtol=1e-6)
    put(tmp_path / "unit", 19, [z, onehot], images)
    with pytest.raises(ArtifactError, match="leave out --noise-scale"):
        import_get(tmp_path / "unit", tmp_path / "q", ImportSettings(noise_scale=80))


def changed(**parts: Any) -> tuple[Any, Any]:
    z, onehot, images = tensors()
    named = {"z": z, "onehot": onehot, "images": images, **{k: v(z if k == "z" else onehot if k == "onehot" else images)
                                                            for k, v in parts.items()}}
    return [named["z"], named["onehot"]], named["images"]


def spoilt(tensor: torch.Tensor, value: float, places: int = 1) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[:places] = value
    return tensor


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("latent_image, kind, words", [
    (changed(z=lambda z: z * 3), ArtifactError, "another scale"),
    (changed(z=lambda z: z + 1), ArtifactError, "another scale"),
    (changed(z=lambda z: spoilt(z, float("nan"))), NumericsError, "NaN"),
    (changed(z=lambda z: z[:19]), ArtifactError, "does not fit its noise"),
    (changed(z=lambda z: z.flatten(1)), ArtifactError, "no shape of images"),
    (changed(z=lambda z: z[:, :, :4]), ArtifactError, "no shape of images"),
    (changed(z=lambda z: z.half()), ArtifactError, "another type"),
    (changed(z=lambda z: z[:1, :1, :1, :1].clone().expand(20, 3, 8, 8)), ArtifactError, "fewer numbers"),
    (changed(z=lambda z: z.to_sparse()), ArtifactError, "no plain tensor of"),
    (changed(onehot=lambda c: c[:, :1] * 0), ArtifactError, "20 rows of the classes are not one-hot"),
    (changed(onehot=lambda c: spoilt(c, 0.5)), ArtifactError, "1 rows of the classes are not one-hot"),
    (changed(onehot=lambda c: c.argmax(1)), ArtifactError, "do not fit"),
    (changed(images=lambda x: spoilt(x, float("inf"))), NumericsError, "infinity"),
    (changed(images=lambda x: x * 127.5), ArtifactError, "not about"),
    (changed(images=lambda x: spoilt(x, 2.5)), ArtifactError, "not about"),
    (changed(images=lambda x: x.abs()), ArtifactError, "no value below 0"),
    (changed(images=lambda x: (x * 100).byte()), ArtifactError, "another type"),
    (changed(images=lambda x: [x]), ArtifactError, "no plain tensor of"),
    ((tensors()[0], tensors()[2]), ArtifactError, "unconditional"),
    (({"z": tensors()[0]}, tensors()[2]), ArtifactError, "a dict"),
    ((list(tensors()), tensors()[2]), ArtifactError, "a list of 3"),
])
def test_what_a_file_may_not_hold(tmp_path, latent_image: tuple[Any, Any], kind: type[EdgeditError], words: str) -> None:
    put(tmp_path / "get", 19, *latent_image)
    with pytest.raises(kind, match=words) as caught:
        import_get(tmp_path / "get", tmp_path / "p", SMALL)
    assert "000000019.pkl" in str(caught.value) and os.listdir(tmp_path) == ["get"]


def test_tensors_in_another_layout_are_welcome(tmp_path) -> None:
    z, onehot, images = tensors()
    put(tmp_path / "get", 19, [z.contiguous(memory_format=torch.channels_last), onehot], images)
    import_get(tmp_path / "get", tmp_path / "p", SMALL)
    assert np.array_equal(PairSet.open(tmp_path / "p").noise(range(20)), z.numpy())


def test_a_few_values_beyond_are_the_samplers(tmp_path) -> None:
    latent, image = changed(images=lambda x: spoilt(x, 1.3, 3))
    put(tmp_path / "get", 19, latent, image)
    import_get(tmp_path / "get", tmp_path / "p", SMALL)


@pytest.mark.parametrize("other", [{"side": 16}, {"classes": 7}])
def test_mixed_sizes_name_the_files(tmp_path, other: dict[str, int]) -> None:
    for number, (z, onehot, images) in ((19, tensors()), (39, tensors(**other))):
        put(tmp_path / "get", number, [z, onehot], images)
    with pytest.raises(ArtifactError, match=r"mixed sizes\n.*000000019.pkl.*000000039.pkl"):
        import_get(tmp_path / "get", tmp_path / "p", SMALL)


def test_files_that_are_not_there(tmp_path) -> None:
    with pytest.raises(ArtifactError, match="no folder latent or image"):
        import_get(tmp_path, tmp_path / "p", SMALL)
    write(tmp_path / "get")
    (tmp_path / "get" / "image" / "000000044.pkl").unlink()
    with pytest.raises(ArtifactError, match=r"latent.000000044.pkl has no partner"):
        import_get(tmp_path / "get", tmp_path / "p", SMALL)
    (tmp_path / "get" / "latent" / "000000044.pkl").unlink()
    for name in ("latent", "image"):
        shutil.copy(tmp_path / "get" / name / "000000019.pkl", tmp_path / "get" / name / "19.pkl")
    with pytest.raises(ArtifactError, match="one number twice"):
        import_get(tmp_path / "get", tmp_path / "p", SMALL)
    for name in ("latent", "image"):
        (tmp_path / "get" / name / "19.pkl").rename(tmp_path / "get" / name / "last.pkl")
    with pytest.raises(ArtifactError, match=r"last.pkl has a name that is no number"):
        import_get(tmp_path / "get", tmp_path / "p", SMALL)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("which", ["latent", "image"])
def test_truncated_files(tmp_path, zipped: bool, part: float, which: str) -> None:
    write(tmp_path / "get", (20,), zipped=zipped)
    file = tmp_path / "get" / which / "000000019.pkl"
    raw = file.read_bytes()
    file.write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(ArtifactError, match=f"{which}.000000019.pkl"):
        import_get(tmp_path / "get", tmp_path / "p", SMALL)


def saved(zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(list(tensors(2, side=4, channels=1, classes=3)[:2]), stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")  # torch's, about what was altered
@pytest.mark.parametrize("zipped", [True, False])
@given(chance=st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_an_altered_file_is_read_or_refused(tmp_path_factory, zipped: bool, chance: st.DataObject) -> None:
    """No other error comes out, wherever bytes are changed, cut away or put in."""
    raw = bytearray(saved(zipped))
    for _ in range(chance.draw(st.integers(1, 4))):
        at = chance.draw(st.integers(0, len(raw) - 1))
        raw[at : at + chance.draw(st.integers(0, 8))] = chance.draw(st.binary(max_size=8))
    file = tmp_path_factory.mktemp("altered") / "1.pkl"
    file.write_bytes(raw)
    with contextlib.suppress(ArtifactError):
        read_saved(file)


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def hostile(form: str, command: str) -> bytes:
    stream = io.BytesIO()
    if form == "plain":
        return pickle.dumps(Evil(command))
    if form == "text":
        return pickle.dumps(Evil(command), protocol=0)
    if form == "tar":
        import tarfile

        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name in ("storages", "tensors", "pickle"):
                raw = pickle.dumps(Evil(command))
                entry = tarfile.TarInfo(name)
                entry.size = len(raw)
                tar.addfile(entry, io.BytesIO(raw))
        return stream.getvalue()
    if form == "packed":
        torch.save(list(tensors()[:2]), stream)
        packed = io.BytesIO()
        with zipfile.ZipFile(stream) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
        return packed.getvalue()
    torch.save([tensors()[0], Evil(command)], stream, _use_new_zipfile_serialization=form == "zip")
    return stream.getvalue()


@pytest.mark.parametrize("form", ["zip", "legacy", "plain", "text", "tar", "packed"])
@pytest.mark.parametrize("which", ["latent", "image"])
def test_nothing_in_a_file_is_run(tmp_path, form: str, which: str) -> None:
    canary = tmp_path / "canary"
    write(tmp_path / "get", (20,))
    (tmp_path / "get" / which / "000000019.pkl").write_bytes(hostile(form, f"touch {canary}"))
    with pytest.raises(ArtifactError, match=f"{which}.000000019.pkl") as caught:
        import_get(tmp_path / "get", tmp_path / "p", SMALL)
    assert not canary.exists() and not (tmp_path / "p.partial").exists()
    if form in ("zip", "legacy"):
        assert "is refused" in str(caught.value) and f"{os.system.__module__}.system" in str(caught.value)


def test_the_canary_would_sing(tmp_path) -> None:
    pickle.loads(hostile("plain", f"touch {tmp_path / 'canary'}"))
    assert (tmp_path / "canary").exists()


def test_a_stopped_import_goes_on_with_the_same_bytes(tmp_path, monkeypatch) -> None:
    write(tmp_path / "get")
    import_get(tmp_path / "get", tmp_path / "whole", SMALL)
    real, seen = stage.put_shard, []

    def stop(folder, shard, arrays):
        if len(seen) == 2:
            raise Interrupted("stopped")
        seen.append(shard)
        real(folder, shard, arrays)

    monkeypatch.setattr(stage, "put_shard", stop)
    with pytest.raises(Interrupted):
        import_get(tmp_path / "get", tmp_path / "p", SMALL)
    monkeypatch.setattr(stage, "put_shard", real)
    file = tmp_path / "p.partial" / "noise-00000.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match="shard_size"):
        import_get(tmp_path / "get", tmp_path / "p", ImportSettings(shard_size=8))
    events: list[Event] = []
    import_get(tmp_path / "get", tmp_path / "p", SMALL, say=events.append)
    assert [e.text for e in events if e.level == "warning"] == ["shard 0 was damaged since it was made; it is made again"]
    assert next(e for e in events if e.unit == "images").started == 16  # the second alone was whole
    assert payload(tmp_path / "p") == payload(tmp_path / "whole")


def test_other_files_are_noticed(tmp_path, monkeypatch) -> None:
    """Half-way by their hash; when all is done by their number and size, at once."""
    write(tmp_path / "get")
    real = stage.put_shard

    def stop(folder, shard, arrays):
        real(folder, shard, arrays)
        raise Interrupted("stopped")

    monkeypatch.setattr(stage, "put_shard", stop)
    with pytest.raises(Interrupted):
        import_get(tmp_path / "get", tmp_path / "p", SMALL)
    monkeypatch.setattr(stage, "put_shard", real)
    shutil.copytree(tmp_path / "get", tmp_path / "kept")
    z, onehot, images = tensors(20, seed=9)
    put(tmp_path / "get", 19, [z, onehot], images)
    with pytest.raises(UsageError, match="files_sha256"):
        import_get(tmp_path / "get", tmp_path / "p", SMALL)
    made = import_get(tmp_path / "kept", tmp_path / "p", SMALL)
    monkeypatch.setattr(stage, "_survey", None)
    assert import_get(tmp_path / "kept", tmp_path / "p", SMALL).digest == made.digest
    (tmp_path / "kept" / "latent" / "000000047.pkl").unlink()
    (tmp_path / "kept" / "image" / "000000047.pkl").unlink()
    with pytest.raises(UsageError, match="files: 6 there, 4 now"):
        import_get(tmp_path / "kept", tmp_path / "p", SMALL)
    shutil.rmtree(tmp_path / "kept")
    assert import_get(tmp_path / "kept", tmp_path / "p", SMALL).digest == made.digest


def test_stored_noise_that_is_too_short_is_an_error(tmp_path) -> None:
    import json

    write(tmp_path / "get")
    import_get(tmp_path / "get", tmp_path / "p", SMALL)
    short = np.load(tmp_path / "p" / "noise-00001.npy")[:-1]
    np.save(tmp_path / "p" / "noise-00001.npy", short)
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    manifest["files"]["noise-00001.npy"]["bytes"] = (tmp_path / "p" / "noise-00001.npy").stat().st_size
    (tmp_path / "p" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="48 pairs"):
        PairSet.open(tmp_path / "p", verify=False)


def test_a_student_trains_on_the_stored_noise(tmp_path) -> None:
    from edgedit.core.settings import resolve
    from edgedit.distill.settings import TrainSettings
    from edgedit.distill.training import train

    write(tmp_path / "get")
    import_get(tmp_path / "get", tmp_path / "p", SMALL)
    base = {"model": {"depth": 1, "width": 16, "heads": 2}, "loss": {"name": "l1"}, "batch": 8, "steps": 3}
    options = {"device": "cpu", "sample_every": 0}
    manifest = train(tmp_path / "p", tmp_path / "student", resolve(TrainSettings, base=base, options=options))
    assert manifest.info["complete"] and manifest.info["final_loss"] > 0
