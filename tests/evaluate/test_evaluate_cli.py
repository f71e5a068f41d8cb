"""The verb: what SOURCE may be, and what is said when it is something else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from evaluate_kit import CIFAR, pictures, teacher_pairs
from PIL import Image
from typer.testing import CliRunner

from edgedit.cli.evaluate import evaluate
from edgedit.core.errors import ArtifactError, MissingError, UsageError
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


@pytest.mark.parametrize(("taught", "scale"), [
    ({"loss": {"name": "l1"}}, 1.5), ({"loss": {"name": "l1", "distilled_guidance": 1.5}}, 1.0),
    ({"data": {"teacher": {"teacher": "unet", "guidance": 1.0}}}, 1.5), ({"data": {"teacher": {"teacher": "unet", "guidance": 2.0}}}, 1.0),
    ({"data": {"label": "imported", "teacher": None}}, 1.5), ({"loss": {"name": "l1", "regression": 0.25, "teacher_guidance": 3.0}}, 1.0),
], ids=["plain", "setup guided", "pairs without", "guided pairs", "pairs of others", "guided dmd"])
def test_a_student_is_guided_as_it_was_taught(student, judge, tmp_path, taught, scale):
    from edgedit.core.artifact import open_artifact, seal

    m = open_artifact(student).manifest
    seal(student, "student", m.files, spec=m.spec, info={**m.info, **taught})
    text = run(student, "--metrics", "accuracy", "--classifier", judge, "--count", 3, "--out", tmp_path / "e", "--json")
    assert json.loads(text)["source"]["guidance_scale"] == scale


# --- the teacher's pairs, LPIPS, raw weights ---------------------------------------------------------------------------------


@pytest.fixture
def trunk(tmp_path):
    """SqueezeNet with random weights, as torchvision saves it."""
    models = pytest.importorskip("torchvision.models")
    pytest.importorskip("lpips")
    torch.manual_seed(1)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeeze.pth")
    return tmp_path / "squeeze.pth"


def teacher(student, pairs, out, *more):
    body = json.loads(run(student, "--metrics", "teacher", "--pairs", pairs, "--out", out, "--json", *more))
    return body, {m["name"]: m["value"] for m in body["metrics"]}


def test_the_distance_to_the_teacher_is_the_training_loss(student, trunk, tmp_path):
    """L1 and LPIPS of the student's images, uint8 as they are deployed, by the same code as training's."""
    from edgedit.core.pairset import to_float
    from edgedit.distill.lpips import Lpips
    from edgedit.distill.settings import LpipsSettings
    from edgedit.model.checkpoint import load_student
    from edgedit.model.runtime import TorchRuntime

    pairs = teacher_pairs(tmp_path / "pairs")
    body, found = teacher(student, pairs.artifact.path, tmp_path / "e", "--start", -4, "--guidance", 1.0, "--lpips-weights", trunk,
                          "--set", "lpips.resolution=32")
    rows = np.arange(8, 12)
    made = TorchRuntime(load_student(student)[0], 1.0).infer(pairs.noise(rows), pairs.labels(rows).astype(np.int32))
    a, b = (torch.from_numpy(to_float(x)) for x in (made, pairs.images(rows)))
    metric = Lpips.load(LpipsSettings(net="squeeze", weights=trunk, resolution=32))
    assert list(found) == ["teacher-l1", "teacher-rmse", "teacher-lpips-squeeze-32"]
    assert found["teacher-lpips-squeeze-32"] == pytest.approx(float(metric(a, b)), rel=1e-5)
    assert found["teacher-l1"] == pytest.approx(float((a - b).abs().mean()) * 127.5, rel=1e-5)
    assert (body["source"]["start"], body["source"]["used"], body["training_noise"]["verdict"]) == (8, 4, "unknown")
    assert body["perceptual"]["trunk_sha256"] == metric.sources["trunk_sha256"]


def test_without_weights_of_lpips_pixels_alone_are_compared_and_that_is_said(student, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    pairs = teacher_pairs(tmp_path / "pairs").artifact.path
    result = CliRunner().invoke(APP, [str(student), "--metrics", "teacher", "--pairs", str(pairs), "--out", str(tmp_path / "e")])
    assert result.exit_code == 0, result.output
    assert "LPIPS to the teacher is left out" in result.output and "teacher-rmse" in result.output and "PSNR" in result.output
    assert "these pairs: unknown" in result.output
    assert list(teacher(student, pairs, tmp_path / "none", "--set", "lpips.net=none")[1]) == ["teacher-l1", "teacher-rmse"]


@pytest.mark.parametrize(("arguments", "text"), [
    (("--pairs", "pairs", "--seed", 3), "noise and classes of their own"), (("--pairs", "pairs", "--start", 12), "has no pair 12"),
    (("--pairs", "pairs", "--start", -13), "has no pair -1"), (("--start", -1), "from the end"), (("--weights", "best"), "ema or raw"),
    (("--pairs", "pairs", "--count", 20), "holds 12 images"), ((), "needs teacher pairs")])
def test_bad_requests_of_a_student(student, arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher_pairs(tmp_path / "pairs")
    with pytest.raises(UsageError, match=text):
        run(student, "--metrics", "teacher", *arguments, "--set", "lpips.net=none", "--out", "e")


def test_stored_images_are_given_no_noise(tmp_path):
    np.savez(tmp_path / "x.npz", images=pictures(4))
    with pytest.raises(UsageError, match="no student or bundle"):
        run(tmp_path / "x.npz", "--metrics", "spread", "--weights", "raw", "--out", tmp_path / "e")


def test_raw_weights_beside_the_average(student, tmp_path):
    from edgedit.core.artifact import open_artifact
    from edgedit.learn.state import Progress, save_state, step_folder
    from edgedit.model.checkpoint import load_student
    from edgedit.model.dit import DiT

    pairs = teacher_pairs(tmp_path / "pairs").artifact.path
    options = ("--guidance", 1.0, "--set", "lpips.net=none")
    with pytest.raises(MissingError, match="no checkpoints"):
        teacher(student, pairs, tmp_path / "none", "--weights", "raw", *options)
    average, seen = load_student(student)[0], []
    for step, scale in ((5, 3.0), (10, 1.0)):
        chance = torch.Generator().manual_seed(step)
        raw = {n: t + scale * torch.randn(t.shape, generator=chance) * 0.2 for n, t in average.state_dict().items()}
        tensors = {f"{kind}.{n}": t for kind, some in (("model", raw), ("ema", average.state_dict())) for n, t in some.items()}
        save_state(student, tensors, Progress(step), keep_last=3)
    body, found = teacher(student, pairs, tmp_path / "raw", "--weights", "raw", *options)
    plain, ema = teacher(student, pairs, tmp_path / "ema", *options)
    assert (body["source"]["weights"], body["source"]["step"]) == ("raw", 10) and "weights" not in plain["source"]
    assert body["source"]["checkpoint"] == open_artifact(step_folder(student, 10)).manifest.digest
    model = DiT(average.spec).eval()
    model.load_state_dict(raw)
    with torch.no_grad():
        for network, value in ((model, found["teacher-l1"]), (average, ema["teacher-l1"])):
            set_of = teacher_pairs(tmp_path / "again")
            z, c = torch.from_numpy(set_of.noise(np.arange(12))), torch.from_numpy(set_of.labels(np.arange(12)))
            made = (network(z, c).numpy() * 127.5 + 128).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1).astype(int)
            seen.append(np.abs(made - set_of.images(np.arange(12))).mean() == pytest.approx(value, abs=0.02))
    assert all(seen) and found["teacher-l1"] != pytest.approx(ema["teacher-l1"], abs=0.5)
    (step_folder(student, 10) / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="truncated or altered"):
        teacher(student, pairs, tmp_path / "cut", "--weights", "raw", *options)
