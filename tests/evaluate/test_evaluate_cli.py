"""The verb: what SOURCE may be, and what is said when it is something else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from evaluate_kit import CIFAR, pictures
from PIL import Image
from typer.testing import CliRunner

from edgedit.cli.evaluate import evaluate
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.spec import DiTSpec

APP = typer.Typer()
APP.command()(evaluate)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path / "cache"))


def run(*arguments, code=0):
    result = CliRunner().invoke(APP, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def student(tmp_path):
    """A folder as training leaves it: random weights, three classes, 32×32."""
    from edgedit.core.artifact import create
    from edgedit.model.checkpoint import WEIGHTS, save_weights
    from edgedit.model.dit import DiT

    spec = DiTSpec(1, 16, 2, image=32, classes=3)
    torch.manual_seed(0)
    with create(tmp_path / "student", "student") as draft:
        save_weights(draft.path / WEIGHTS, spec, DiT(spec).state_dict())
        draft.info = {"class_names": ["a", "b", "c"], "label": spec.label}
    return tmp_path / "student"


def test_a_student_against_a_folder(student, judge, tmp_path):
    for i, image in enumerate(pictures(12)):
        (tmp_path / "real" / "abc"[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "real" / "abc"[i % 3] / f"{i}.png")
    text = run(student, "--metrics", "spread,accuracy", "--reference", tmp_path / "real", "--classifier", judge, "--count", 9,
               "--guidance", 1.0, "--labels", "random", "--out", tmp_path / "e", "--json")
    body = json.loads(text)
    assert [m["name"] for m in body["metrics"]] == ["accuracy", "spread"]
    assert (body["source"]["guidance_scale"], body["source"]["labels"], body["source"]["made_by"]) == (1.0, "random", "student")
    assert body["source"]["digest"] == json.loads((tmp_path / "e" / "manifest.json").read_text())["parents"][0]["digest"]


def test_an_npz_and_the_next_command(tmp_path):
    np.savez(tmp_path / "x.npz", images=pictures(6), labels=np.arange(6) % 3)
    np.savez(tmp_path / "y.npz", images=pictures(6, 1))
    text = run(tmp_path / "x.npz", "--metrics", "nearest,spread", "--reference", tmp_path / "y.npz", "--out", tmp_path / "e")
    assert "nearest" in text and "spread" in text and text.splitlines()[-1] == f"next: edgedit show {tmp_path / 'e'}"


@pytest.mark.parametrize(("arguments", "text"), [
    ((), "needs a SOURCE"), (("nothing-here", "--out", "e"), "is not a source of images"),
    (("x.npz", "--metrics", "fdi", "--out", "e"), "did you mean 'fid'"), (("x.npz", "--labels", "any", "--out", "e"), "balanced or random"),
    (("data-train", "--metrics", "spread", "--out", "e"), "needs --data")])
def test_bad_requests(arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "x.npz", images=pictures(2))
    with pytest.raises(UsageError, match=text):
        run(*arguments)


def test_a_reference_that_is_no_statistics(tmp_path):
    np.savez(tmp_path / "x.npz", images=pictures(4))
    (tmp_path / "s.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ArtifactError, match="cannot be read as statistics"):
        run(tmp_path / "x.npz", "--metrics", "fid", "--reference", tmp_path / "s.npz", "--out", tmp_path / "e")


@pytest.mark.skipif(not CIFAR.is_dir(), reason="no CIFAR-10")
def test_the_self_test_takes_no_other_weights(tmp_path):
    (tmp_path / "i.pth").write_bytes(b"other weights")
    with pytest.raises(UsageError, match="needs the published extractor"):
        run("--self-test", "--data", CIFAR, "--extractor-weights", tmp_path / "i.pth", "--out", tmp_path / "e")


def test_the_self_test_takes_no_other_images(tmp_path):
    (tmp_path / "set" / "cat").mkdir(parents=True)
    Image.fromarray(pictures(1)[0]).save(tmp_path / "set" / "cat" / "0.png")
    with pytest.raises(UsageError, match="--data is not cifar10"):
        run("--self-test", "--data", tmp_path / "set", "--out", tmp_path / "e")


@pytest.mark.parametrize(("value", "ok"), [(11.2368, True), (11.2379, True), (11.26, False)])
def test_the_verdict_of_the_self_test(value, ok, tmp_path, monkeypatch):
    """11.26 is what bilinear resizing as PyTorch has it gives (science.md §8)."""
    from edgedit.core.artifact import Manifest
    from edgedit.evaluate import selftest
    from edgedit.evaluate.settings import EvaluateSettings
    from edgedit.evaluate.sources import ArraySource

    asked = []

    def evaluated(source, reference, out, settings, **more):
        asked.append(settings)
        return Manifest("evaluation", {}, info={"metrics": {"IS": value}})

    monkeypatch.setattr(selftest, "evaluate", evaluated)
    monkeypatch.setattr(selftest, "find_weights", lambda given, say: selftest.Weights(tmp_path, "6726825d" + "0" * 56))
    train = ArraySource("train", np.zeros((50_000, 1, 1, 3), np.uint8), facts={"name": "cifar10", "split": "train"})
    found = selftest.self_test(train, tmp_path / "e", EvaluateSettings(metrics=("fid",), count=9, is_splits=2))
    assert (found.value, found.ok) == (value, ok)
    assert (asked[0].metrics, asked[0].count, asked[0].is_splits) == (("is",), None, 10)


@pytest.mark.parametrize(("loss", "scale"), [({"name": "l1"}, 1.5), ({"name": "l1", "distilled_guidance": 1.5}, 1.0)])
def test_a_student_is_guided_as_it_was_taught(student, judge, tmp_path, loss, scale):
    from edgedit.core.artifact import open_artifact, seal

    m = open_artifact(student).manifest
    seal(student, "student", m.files, spec=m.spec, info={**m.info, "loss": loss})
    text = run(student, "--metrics", "accuracy", "--classifier", judge, "--count", 3, "--out", tmp_path / "e", "--json")
    assert json.loads(text)["source"]["guidance_scale"] == scale
