"""The stage "teacher convert": the published layout becomes a teacher; other networks, damage and tricks do not."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import edm_kit
import pytest
import torch

from edgedit.core.artifact import create, open_artifact
from edgedit.core.errors import ArtifactError, NumericsError, OutputError, UsageError
from edgedit.core.say import Event
from edgedit.core.settings import resolve
from edgedit.model.teacher import KIND, WEIGHTS, load_teacher
from edgedit.model.unet import UNetSpec
from edgedit.teach import convert as stage
from edgedit.teach.convert import CLASS_NAMES, ConvertSettings, convert, network_shapes

SMALL = UNetSpec(width=8, multipliers=(1, 2), blocks=1, attention=(16,), dropout=0.13, augment=9)
TENSORS = edm_kit.numbers(network_shapes(SMALL))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of the same build with 0.02 % of the numbers in the place of the published one."""
    monkeypatch.setattr(UNetSpec, "edm_cifar10", classmethod(lambda cls: SMALL))


def write(file: Path, tensors: dict[str, torch.Tensor] | None = None, **attributes: Any) -> Path:
    file.write_bytes(edm_kit.dumped(edm_kit.snapshot(edm_kit.network(tensors or TENSORS, **attributes))))
    return file


def test_the_published_layout() -> None:
    """science.md §6.2 in its own words, against the network that the package builds."""
    expected, built = edm_kit.edm_shapes(), network_shapes(UNetSpec.edm_cifar10())
    assert built == expected and len(expected) == 427
    filters = [name for name in expected if name.endswith(".resample_filter")]
    assert len(filters) == 8
    assert sum(math.prod(shape) for name, shape in expected.items() if name not in filters) == 55_735_299


@pytest.mark.usefixtures("small")
def test_a_network_becomes_a_teacher(tmp_path: Path) -> None:
    file, events = write(tmp_path / "net.pkl"), []
    manifest = convert(file, tmp_path / "edm", say=events.append)
    model, artifact = load_teacher(tmp_path / "edm")
    weights = model.network.state_dict()
    assert {f"model.{name}" for name in weights} == {name for name in TENSORS if not name.endswith("filter")}
    assert all(torch.equal(tensor, TENSORS[f"model.{name}"]) for name, tensor in weights.items())
    assert artifact.manifest.kind == manifest.kind == KIND and artifact.manifest.digest == manifest.digest
    info = manifest.info
    assert info["source"] == {"name": "net.pkl", "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
    assert (info["name"], info["image"], info["channels"], info["classes"], info["sigma_data"]) == ("edm", 32, 3, 10, 0.5)
    assert info["class_names"] == list(CLASS_NAMES) and len(CLASS_NAMES) == 10 and "CC BY-NC-SA 4.0" in info["license"]
    assert info["parameters"] == SMALL.parameters and UNetSpec.from_dict(info["unet"]) == SMALL
    assert info["augment"]["values"] == 9 and info["augment"]["state"]["p"] == 0.12
    assert info["trained"]["class_name"] == "EDMPrecond" and info["trained"]["loss_fn"]["state"]["P_std"] == 1.2
    assert sorted(p.name for p in (tmp_path / "edm").iterdir()) == ["manifest.json", WEIGHTS]
    assert str(tmp_path) not in (tmp_path / "edm" / "manifest.json").read_text()
    assert [e.level for e in events] == ["info", "info"] and f"{SMALL.parameters:,} parameters" in events[-1].text
    with torch.no_grad():
        out = model(torch.randn(2, 3, 32, 32), torch.ones(2), torch.tensor([0, 9]))
    assert out.shape == (2, 3, 32, 32) and bool(out.isfinite().all())


@pytest.mark.usefixtures("small")
def test_the_same_command_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "net.pkl")
    first = convert(file, tmp_path / "edm")
    before = (tmp_path / "edm" / "manifest.json").stat().st_mtime_ns
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "renamed.pkl")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "read_network", None)
        assert convert(moved, tmp_path / "edm", ConvertSettings(expect_sha256=first.info["source"]["sha256"])).digest == first.digest
    assert (tmp_path / "edm" / "manifest.json").stat().st_mtime_ns == before
    other = write(tmp_path / "other.pkl", edm_kit.numbers(network_shapes(SMALL), seed=1))
    with pytest.raises(UsageError, match="made from something else"):
        convert(other, tmp_path / "edm")
    assert open_artifact(tmp_path / "edm").manifest.digest == first.digest


@pytest.mark.usefixtures("small")
def test_a_damaged_copy_is_made_again(tmp_path: Path) -> None:
    file, events = write(tmp_path / "net.pkl"), list[Event]()
    first = convert(file, tmp_path / "edm")
    weights = tmp_path / "edm" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-7])
    assert convert(file, tmp_path / "edm", say=events.append).info == first.info
    assert [e.level for e in events] == ["info", "warning", "info"] and "truncated" in events[1].text
    assert torch.equal(load_teacher(tmp_path / "edm")[0].network.state_dict()["map_label.weight"], TENSORS["model.map_label.weight"])


@pytest.mark.usefixtures("small")
def test_the_expected_hash(tmp_path: Path) -> None:
    file = write(tmp_path / "net.pkl")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ArtifactError, match=digest):
        convert(file, tmp_path / "edm", ConvertSettings(expect_sha256="0" * 64))
    assert not (tmp_path / "edm").exists()
    assert convert(file, tmp_path / "edm", ConvertSettings(expect_sha256=digest.upper())).info["source"]["sha256"] == digest
    with pytest.raises(UsageError, match="expect_sha256"):
        resolve(ConvertSettings, options={"expect_sha256": "abc"})


def without(*words: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in TENSORS.items() if not any(word in name for word in words)}


def changed(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**TENSORS, name: tensor}


def larger() -> dict[str, torch.Tensor]:
    return edm_kit.numbers(network_shapes(UNetSpec(width=8, multipliers=(1, 1, 2), blocks=1, attention=(16,), augment=9, image=64)))


CONV = "model.enc.32x32_conv.weight"
FILTER = "model.enc.16x16_down.skip.resample_filter"
OTHERS = {
    "unconditional": (lambda: without("map_label"), {}, "DDPM++ without classes"),
    "ncsn++": (lambda: changed("model.map_noise.freqs", torch.ones(8)), {}, "NCSN"),
    "ncsn++ by its encoder": (lambda: changed("model.enc.16x16_aux_residual.weight", torch.ones(8)), {}, "NCSN"),
    "imagenet": (lambda: without("map_layer0"), {"inner": "DhariwalUNet"}, "ADM"),
    "ffhq": (larger, {}, "64 × 64 pixels"),
    "wider": (lambda: edm_kit.numbers(network_shapes(UNetSpec(width=16, multipliers=(1, 2), blocks=1, augment=9))), {}, "other sizes"),
    "no augmentation": (lambda: without("map_augment"), {}, "model.map_augment.weight: None, needed is (8, 9)"),
    "one tensor more": (lambda: changed("model.more", torch.ones(1)), {}, "model.more: (1,), needed is None"),
    "one tensor less": (lambda: without("aux_conv.bias"), {}, "aux_conv.bias: None, needed is (3,)"),
    "another shape": (lambda: changed(CONV, torch.ones(8, 3, 3, 1)), {}, f"{CONV}: (8, 3, 3, 1), needed is (8, 3, 3, 3)"),
    "one filter less": (lambda: without(FILTER), {}, f"{FILTER}: None"),
    "another filter": (lambda: changed(FILTER, torch.tensor([[[[0.25, 0.25], [0.25, 0.2501]]]])), {}, f"'{FILTER}' is another filter"),
    "a sum in place of a mean": (lambda: changed(FILTER.replace("skip", "conv0"), torch.ones(1, 1, 2, 2)), {}, "[1.0, 1.0, 1.0, 1.0]"),
    "half precision": (lambda: changed(CONV, TENSORS[CONV].half()), {}, "torch.float16"),
    "a baseline": (lambda: TENSORS, {"class_name": "VPPrecond"}, "class VPPrecond"),
    "another spread": (lambda: TENSORS, {"sigma_data": 1.0}, "sigma_data: 1.0, needed is 0.5"),
    "other classes": (lambda: TENSORS, {"label_dim": 0}, "label_dim: 0, needed is 10"),
    "not a U-Net": (lambda: {"model.fc.weight": torch.ones(2, 2)}, {}, "no network of EDM's"),
    "strange sides": (lambda: changed("model.enc.99999x1_conv.weight", torch.ones(1)), {}, "99999x1"),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("tensors, attributes, told", OTHERS.values(), ids=OTHERS.keys())
def test_other_networks_are_told_apart(tmp_path: Path, tensors: Any, attributes: dict[str, Any], told: str) -> None:
    file = write(tmp_path / "net.pkl", tensors(), **attributes)
    with pytest.raises(ArtifactError) as caught:
        convert(file, tmp_path / "edm")
    assert told in str(caught.value) and "edm-cifar10-32x32-cond-vp.pkl" in str(caught.value.fix)
    assert os.listdir(tmp_path) == ["net.pkl"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    tensor = TENSORS[CONV].clone()
    tensor[3, 1, 0, 2] = value
    with pytest.raises(NumericsError, match=r"'model.enc.32x32_conv.weight' is not finite(.|\n)*1 of 216"):
        convert(write(tmp_path / "net.pkl", changed(CONV, tensor)), tmp_path / "edm")
    assert not (tmp_path / "edm").exists()


@pytest.mark.usefixtures("small")
def test_a_hostile_file_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    monkeypatch.setattr(edm_kit.Persistent, "source", f"open({str(mark)!r}, 'w').close()")

    class Runs:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {mark}",)

    network = edm_kit.network(TENSORS)
    (tmp_path / "net.pkl").write_bytes(edm_kit.dumped({**edm_kit.snapshot(network), "metadata": Runs()}))
    with pytest.raises(ArtifactError, match=rf"{os.system.__module__}\.system"):
        convert(tmp_path / "net.pkl", tmp_path / "edm")
    assert os.listdir(tmp_path) == ["net.pkl"]


@pytest.mark.usefixtures("small")
def test_places_that_cannot_be(tmp_path: Path) -> None:
    file = write(tmp_path / "net.pkl")
    with pytest.raises(ArtifactError, match=r"other\.pkl cannot be read"):
        convert(tmp_path / "other.pkl", tmp_path / "edm")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="did not make"):
        convert(file, tmp_path / "mine")
    with create(tmp_path / "student", "student") as draft:
        draft.write_json("x.json", 1)
    with pytest.raises(OutputError, match="of kind 'student'"):
        convert(file, tmp_path / "student")
    with create(tmp_path / "own", KIND) as draft:  # a teacher that was trained here, say
        draft.write_json("x.json", 1)
    with pytest.raises(UsageError, match="something else"):
        convert(file, tmp_path / "own")
    assert json.loads((tmp_path / "own" / "x.json").read_text()) == 1


@pytest.mark.slow
def test_the_published_size(tmp_path: Path) -> None:
    """All 427 tensors with random numbers: a file of the published length, in and out."""
    tensors = edm_kit.numbers(edm_kit.edm_shapes())
    file = write(tmp_path / "net.pkl", tensors)
    assert 222_900_000 < file.stat().st_size < 224_000_000
    assert convert(file, tmp_path / "edm").info["parameters"] == 55_735_299
    model, _ = load_teacher(tmp_path / "edm")
    assert all(torch.equal(tensor, tensors[f"model.{name}"]) for name, tensor in model.network.state_dict().items())
