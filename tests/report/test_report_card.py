"""Model cards: what they say, that they say nothing else, what they refuse, and that a card can be held to its folders."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgedit.core import artifact
from edgedit.core.artifact import Artifact, Parent
from edgedit.core.errors import ArtifactError, OutputError, UsageError
from edgedit.core.files import sha256_file
from edgedit.core.record import load_record
from edgedit.core.spec import DiTSpec
from edgedit.report.card import CardSettings, check_card, make_card, write_card
from tests.report.conftest import grid_png, make_record

SPEC = DiTSpec(2, 32, 4, patch=4, image=16, channels=1, classes=3)
NAMES = ["ant", "bee", "cat"]
SAMPLER = {"name": "edm-heun", "steps": 18, "evaluations": 35, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
REFERENCE = {"kind": "images", "name": "digits", "split": "train", "count": 1437, "sha256": "77" * 32, "used": 1437}
DATA = "5a" * 32


def put(folder: Path, kind: str, files: dict[str, bytes], *, parents: list[Parent] | None = None, info: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None, spec: bool = False) -> Artifact:
    with artifact.create(folder, kind) as draft:
        for name, data in files.items():
            draft.write(name, data)
        draft.parents, draft.info, draft.settings = parents or [], info or {}, settings or {}
        draft.spec = SPEC.to_dict() if spec else None
    return artifact.open_artifact(folder)


def put_teacher(folder: Path, *, weights: bytes = b"teacher", complete: bool = True) -> Artifact:
    info = {"name": "unet", "label": "unet 0.1M/digits", "parameters": 123_456, "image": 16, "channels": 1, "classes": 3,
            "class_names": NAMES, "complete": complete, "step": 6000 if complete else 600, "steps": 6000, "images_seen": 768_000,
            "final_loss": 0.21, "wall_s": 400.0, "loss": {"name": "edm", "sigma_data": 0.5}, "device": "cpu", "precision": "fp32",
            "data": {"name": "digits", "sha256": DATA, "images": 1437, "split": "train"}, "unet": {"width": 32, "image": 16, "channels": 1,
                                                                                               "classes": 3}}
    settings = {"unet": {"width": 32}, "data": "/somewhere/digits", "steps": 6000, "batch": 128}
    return put(folder, "teacher", {"teacher.safetensors": weights}, parents=[Parent("data", "data", DATA, label="digits")], info=info,
               settings=settings)


def put_pairs(folder: Path, teacher: Artifact, *, seed: int = 0, guidance: float = 1.5) -> Artifact:
    identity = {"teacher": "unet", "label": "unet 0.1M/digits", "digest": teacher.manifest.digest, "data": "digits", "parameters": 123_456,
                "weights_sha256": teacher.manifest.files["teacher.safetensors"]["sha256"], "guidance": guidance}
    info = {"label": "unet/digits", "count": 3000, "noise": "seed", "seed": seed, "start": 0, "teacher": identity, "sampler": SAMPLER}
    settings = {"teacher": str(teacher.path), "count": 3000, "seed": seed, "guidance": guidance, "precision": "bf16", "device": "cpu"}
    return put(folder, "pairs", {"images-00000.npy": b"pairs %d" % seed}, parents=[teacher.as_parent("teacher")], info=info,
               settings=settings)


def put_student(folder: Path, pairs: Artifact, *, complete: bool = True, weights: bytes = b"student") -> Artifact:
    told = pairs.manifest.info
    info = {"label": SPEC.label, "class_names": NAMES, "parameters": SPEC.parameters, "deployed_parameters": SPEC.deployed_parameters,
            "data": {k: told[k] for k in ("label", "teacher", "sampler", "count")}, "setup": "get", "complete": complete,
            "step": 500 if complete else 100, "steps": 500, "images_seen": 64_000, "final_loss": 0.1234, "wall_s": 65.0, "device": "cpu",
            "precision": "fp32", "ema_decay": 0.999, "label_dropout": 0.1,
            "loss": {"name": "lpips", "net": "squeeze", "resolution": 64, "pooling": "max", "trunk_sha256": "ab" * 32}}
    settings = {"setup": {"name": "get"}, "loss": {"name": "lpips", "lpips": {"net": "squeeze", "resolution": 64}}, "steps": 500,
                "batch": 128, "optimizer": {"lr": 2e-3, "schedule": "cosine"}, "seed": 3, "epochs": 100.0, "ema_warmup": True}
    return put(folder, "student", {"student.safetensors": weights}, parents=[pairs.as_parent("pairs")], info=info, settings=settings,
               spec=True)


def put_bundle(folder: Path, student: Artifact, precision: str = "fp32", *, int8: dict[str, Any] | None = None) -> Artifact:
    info = {"label": SPEC.label, "class_names": NAMES, "parameters": SPEC.parameters, "deployed_parameters": SPEC.deployed_parameters,
            "fused_attention": {"blocks": 2, "fusing": 2}, "needs": "ONNX Runtime ≥ 1.17", "data": student.manifest.info["data"],
            **({"int8": int8} if int8 else {})}
    settings = {"precision": precision, "attention": "pattern", "batch": 64, "dynamic": False, "guidance_scale": 1.5, "opset": 20,
                "head_size": 8}
    return put(folder, "bundle", {"model.onnx": f"graph {precision}".encode()}, parents=[student.as_parent("student")], info=info,
               settings=settings, spec=True)


def put_parity(folder: Path, student: Artifact, bundles: list[Artifact]) -> Artifact:
    names = [f"{b.path.name}: {b.manifest.settings['precision']}, attention pattern, ort 1.31.1" for b in bundles]
    first = "training form, float64"
    body = {"reference": first, "seeds": [0], "images": 96, "ok": True, "rungs": [
        {"name": n, "against": a, "max_abs": 0.01, "mean_abs": 1e-4, "psnr_db": 61.25 - k, "changed_pixels_percent": 1.5, "max_levels": 2,
         "verdict": "ok" if a == first else "", "note": ""} for k, n in enumerate(names) for a in (first, "the rung before")]}
    return put(folder, "parity", {"parity.json": json.dumps(body).encode()}, info={"label": SPEC.label, "rungs": [first, *names]},
               parents=[student.as_parent("student"), *(b.as_parent("bundle") for b in bundles)])


def put_record(folder: Path, bundle: Artifact, *, onnx: str | None = None) -> Artifact:
    drawn = load_record(make_record(folder.with_name("drawn"), images=640, batch=64, power=False, spec=SPEC, board=None))
    subject = drawn.subject.model_copy(update={"bundle_digest": bundle.manifest.digest,
                                               "onnx_sha256": onnx or bundle.manifest.files["model.onnx"]["sha256"]})
    data = drawn.model_copy(update={"subject": subject}).model_dump_json().encode()
    return put(folder, "record", {"record.json": data}, parents=[bundle.as_parent("bundle")])


def put_evaluation(folder: Path, source: dict[str, Any], parents: list[Parent], accuracy: float, *, fid: float | None = None,
                   classifier: str = "c1" * 32) -> Artifact:
    metrics: list[dict[str, Any]] = [{"metric": "accuracy", "name": "accuracy", "value": accuracy, "uncertainty": 0.01,
                                      "uncertainty_of": "binomial standard error", "images": 300, "reference_images": None, "details": {}}]
    if fid is not None:
        metrics.insert(0, {"metric": "fid", "name": "FID-768-300", "value": fid, "uncertainty": None, "uncertainty_of": "", "images": 300,
                           "reference_images": 1437, "details": {}})
    body = {"protocol": "stem-768/x" if fid else None, "metrics": metrics, "notes": ["few images"] if fid else [],
            "source": {"count": 300, "used": 300, **source}, "reference": REFERENCE if fid else None,
            "extractor": {"name": "inception", "tap": "768", "sha256": "e1" * 32} if fid else None,
            "classifier": {"name": "resnet8", "sha256": classifier}}
    return put(folder, "evaluation", {"evaluation.json": json.dumps(body).encode()}, parents=parents, info={"label": folder.name})


@dataclass
class Made:
    """One model's folders, as they would be shipped together."""

    home: Path
    teacher: Artifact
    pairs: Artifact
    student: Artifact
    bundles: list[Artifact]
    rest: list[Artifact]

    @property
    def folders(self) -> list[Path]:
        return [a.path for a in (self.teacher, self.pairs, self.student, *self.bundles, *self.rest)]


def of(a: Artifact, **facts: Any) -> dict[str, Any]:
    kind = a.manifest.kind
    if kind == "pairs":
        return {"kind": "pairs", "digest": a.manifest.digest, "teacher": a.manifest.info["teacher"], "seed": 0, **facts}
    return {"kind": "generator", "made_by": kind, "digest": a.manifest.digest, "guidance_scale": 1.5, "seed": 0, **facts}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    home = tmp_path / "engines" / "nano"
    teacher = put_teacher(tmp_path / "engines" / "teacher")
    pairs = put_pairs(home / "pairs", teacher)
    student = put_student(home / "student", pairs)
    gate = {"summary": "INT8 in all blocks", "quality": {"psnr_db": 41.2, "mean_levels": 0.7, "perceptual": None},
            "limits": {"psnr_db": 30.0, "mean_levels": 4.0, "perceptual": 0.03}, "images": 64, "method": "mse"}
    bundles = [put_bundle(home / f"bundle-{p}", student, p, int8=gate if p == "int8" else None) for p in ("fp32", "fp16", "int8")]
    rest = [put_parity(home / "parity", student, bundles), put_record(home / "record", bundles[0]),
            put_evaluation(home / "quality", of(student), [student.as_parent("student")], 0.8123, fid=2.5),
            put_evaluation(home / "quality-pairs", of(pairs), [pairs.as_parent("pairs")], 0.9, fid=1.25),
            put_evaluation(home / "quality-real", {"kind": "images", "name": "digits", "split": "test", "sha256": "99" * 32}, [], 0.98)]
    return Made(home, teacher, pairs, student, bundles, rest)


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_a_whole_card(made: Made) -> None:
    settings = CardSettings(licence="Apache-2.0", data_licence="BSD, as scikit-learn says")
    card = write_card(made.folders, made.home / "README.md", settings)
    text = (made.home / "README.md").read_text()
    assert text == card.text
    assert front(text) == {"license": "apache-2.0", "library_name": "edgedit", "datasets": ["digits"],
                           "metrics": ["FID-768-300", "accuracy"], "tags": card.facts["tags"]}
    assert f"{SPEC.parameters:,}" in text and f"{SPEC.deployed_parameters:,}" in text and "ant, bee, cat" in text
    assert "edgedit generate bundle-fp32 --count 64" in section(text, "How to run it")
    assert DATA in section(text, "Data") and "1,437" in section(text, "Data") and "BSD, as scikit-learn says" in section(text, "Data")
    assert "768,000" in section(text, "Teacher") and "123,456" in section(text, "Teacher")
    assert "3,000" in section(text, "Pairs") and "edm-heun" in section(text, "Pairs") and "| Guidance | 1.5 |" in section(text, "Pairs")
    training = section(text, "Training")
    for told in ("64,000", "LPIPS, net squeeze, pooling max, resolution 64", "65.00 s", "schedule cosine", "0.1234", "decay 0.999", "fp32"):
        assert told in training, told
    assert "| Machine | not recorded |" in training
    quality = section(text, "Quality")
    assert "| accuracy | 81.2 % ± 1.0 | 90.0 % ± 1.0 | 98.0 % ± 1.0 | – |" in quality
    assert "| FID-768-300 | 2.50 | 1.25 | not measured | digits train, 1,437 images |" in quality
    assert "Guessing is right 33.3 % of the time. Read by resnet8" in quality
    bundles = section(text, "Bundles")
    assert "61.2 dB" in bundles and "59.2 dB" in bundles and "passed; INT8 in all blocks" in bundles
    assert str(made.bundles[1].manifest.files["model.onnx"]["sha256"]) in bundles
    assert "640, 64" in section(text, "Speed") and made.rest[1].manifest.digest in section(text, "Speed")
    limits = section(text, "Limits")
    assert "Few images." in limits and "Energy was not measured." in limits and "Not beside" not in limits
    chain = section(text, "Chain of evidence")
    for a in (made.teacher, made.pairs, made.student, *made.bundles, *made.rest):
        assert a.manifest.digest in chain
    assert "| ../teacher |" in chain and "the data set itself" in chain and "not given" not in chain
    assert str(made.home) not in text and "None" not in re.sub(r"None (was|that)", "", text) and "nan" not in text.split()


def test_order_does_not_matter_and_nothing_is_of_now(made: Made) -> None:
    one = make_card(made.folders, made.home / "README.md")
    assert make_card(made.folders[::-1], made.home / "README.md").text == one.text
    assert json.loads(json.dumps(one.facts)) == one.facts


def test_a_student_alone_invents_nothing(made: Made) -> None:
    text = make_card([made.student.path], made.home / "README.md").text
    assert "license" not in front(text) and "metrics" not in front(text)
    assert "| Licence | not given |" in text and "not given by whoever made this card" in text
    assert "| Seed | not recorded |" in section(text, "Pairs")  # the pairs' manifest has it, and was not given
    assert section(text, "Quality").strip() == "Not measured: no evaluation was given."
    assert section(text, "Bundles").strip() == "None was given." and section(text, "Speed").strip().startswith("Not measured")
    assert "Quality was not measured." in section(text, "Limits")
    assert "its folder was not given" in section(text, "Teacher") and DATA in section(text, "Data")  # by way of the lineage
    assert section(text, "Chain of evidence").count("not given") == 2


def test_bundles_without_their_student(made: Made) -> None:
    text = make_card([b.path for b in made.bundles], made.home / "README.md").text
    assert "the student's folder was not among those" in section(text, "Training")
    assert made.student.manifest.digest in section(text, "Chain of evidence") and "61.2 dB" not in text


def test_unfinished_training_is_said_first(tmp_path: Path) -> None:
    teacher = put_teacher(tmp_path / "t", complete=False)
    student = put_student(tmp_path / "s", put_pairs(tmp_path / "p", teacher), complete=False)
    text = make_card([student.path, teacher.path], tmp_path / "README.md").text
    head = text.split("# DiT-Nano")[1].split("A one-step")[0]
    assert "> **This model is not trained to the end: step 100 of 500 (20 %)**" in head
    assert "> **Its teacher is not trained to the end: step 600 of 6,000 (10 %)**" in head


def test_a_run_that_its_minutes_ended_is_finished(made: Made) -> None:
    m = made.student.manifest
    run = put(made.home / "timed", "student", {"student.safetensors": b"w"}, parents=[made.pairs.as_parent("pairs")], spec=True,
              info={**m.info, "step": 123, "ended_by": "minutes"}, settings={**m.settings, "minutes": 2.5, "loss": {"name": "l1+lpips"}})
    text = make_card([run.path], made.home / "README.md").text
    assert "| Steps | 123, ended by its 2.50 minutes |" in text and "not trained to the end" not in text and "--minutes 2.5" in text


def test_guidance_that_is_in_the_weights_is_said(made: Made) -> None:
    m = made.student.manifest
    run = put(made.home / "one", "student", {"student.safetensors": b"w"}, parents=[made.pairs.as_parent("pairs")], spec=True,
              info={**m.info, "loss": {**m.info["loss"], "distilled_guidance": 1.5}}, settings={**m.settings, "setup": {"name": "guided"}})
    assert "| Guidance | 1.5 is in the weights: one pass gives it" in make_card([run.path], made.home / "README.md").text
    assert "in the weights" not in make_card([made.student.path], made.home / "README.md").text


def test_a_teacher_card(made: Made) -> None:
    other = put_pairs(made.home / "held-out", made.teacher, seed=9)
    judged = put_evaluation(made.home / "q", of(other), [other.as_parent("pairs")], 0.7)
    text = make_card([judged.path, made.teacher.path], made.teacher.path / "README.md").text
    assert "edgedit teacher sample . --count 64" in text and "This teacher (pairs of it)" in text and "70.0 % ± 1.0" in text
    assert "## Bundles" not in text and "## Pairs" not in text and "this folder" in section(text, "Chain of evidence")


def test_a_teacher_trained_on_says_that_its_numbers_are_of_the_last_run(made: Made) -> None:
    m = made.teacher.manifest
    on = put(made.home / "on", "teacher", {"teacher.safetensors": b"on"}, info=m.info, settings=m.settings,
             parents=[*m.parents, made.teacher.as_parent("init")])
    student = put_student(made.home / "of-it", put_pairs(made.home / "its-pairs", on))
    row = "egan from the weights of | unet 0.1M/digits; its own images and time come on top |"
    assert f"| B{row}" in section(make_card([on.path], made.home / "README.md").text, "Training")
    assert f"| Its training: b{row}" in section(make_card([student.path, on.path], made.home / "README.md").text, "Teacher")
    text = make_card([on.path, made.teacher.path], made.home / "README.md").text
    assert "unet 0.1M/digits; its 768,000 images in 400.0 s come on top |" in section(text, "Training")


def bare(a: Artifact, folder: Path) -> Path:
    """A folder with the manifest of another and none of its files."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes((a.path / "manifest.json").read_bytes())
    return folder


def test_a_manifest_alone_will_do_for_what_a_model_was_made_from(made: Made) -> None:
    m = made.teacher.manifest
    first = put_teacher(made.home / "first", weights=b"first", complete=False)
    on = put(made.home / "on", "teacher", {"teacher.safetensors": b"on"}, info=m.info, settings=m.settings,
             parents=[*m.parents, first.as_parent("init")])
    pairs = put_pairs(made.home / "its-pairs", on)
    student = put_student(made.home / "of-it", pairs)
    kept = [bare(first, made.home.parent / "manifests" / "began"), bare(pairs, made.home.parent / "manifests" / "all-pairs")]
    for folders in ([student.path, on.path, *kept], [*kept[::-1], on.path, student.path]):
        text = make_card(folders, made.home / "README.md").text
        assert "at step 600 of 6,000; its 768,000 images in" in section(text, "Teacher")
        assert "| Precision, device | bf16, cpu |" in section(text, "Pairs") and "was not given" not in text
        training = section(text, "Training")
        lines = [line for line in training.splitlines() if line.startswith("edgedit")]
        verbs = ["edgedit teacher train", "edgedit teacher train", "edgedit pairs", "edgedit train"]
        assert [line.split(" --")[0] for line in lines] == verbs
        assert "--out began" in lines[0] and "--init began" in training and "--pairs all-pairs" in training
        assert "A run that is not trained to the end is its command" in training
        assert ("Not beside this card: pairs unet/digits (its manifest is), init unet 0.1M/digits (its manifest is)."
                in section(text, "Limits"))
        chain = section(text, "Chain of evidence")
        assert "| its manifest alone: ../manifests/began |" in chain and "of a manifest alone its digest" in chain
    assert "manifest alone" not in make_card(made.folders, made.home / "README.md").text


def test_a_manifest_alone_is_no_model_and_none_of_a_stranger(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"lacks 'student\.safetensors'"):
        make_card([bare(made.student, tmp_path / "s")], tmp_path / "README.md")
    with pytest.raises(ArtifactError, match=r"lacks 'model\.onnx'"):
        make_card([made.student.path, bare(made.bundles[0], tmp_path / "b")], tmp_path / "README.md")
    stranger = put_teacher(tmp_path / "t", weights=b"another")
    with pytest.raises(UsageError, match="does not belong to"):
        make_card([made.student.path, bare(stranger, tmp_path / "x")], tmp_path / "README.md")
    (made.teacher.path / "teacher.safetensors").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="truncated or altered"):
        make_card(made.folders, made.home / "README.md")


def test_other_pairs_of_the_same_teacher_are_the_teachers_quality(made: Made) -> None:
    other = put_pairs(made.home / "held-out", made.teacher, seed=9)
    judged = put_evaluation(made.home / "q", of(other), [other.as_parent("pairs")], 0.7)
    assert "The teacher (other pairs of it): 300 images" in make_card([judged.path, made.student.path], made.home / "README.md").text


def test_numbers_by_another_network_get_a_row_of_their_own(made: Made) -> None:
    other = put_evaluation(made.home / "q", of(made.student), [made.student.as_parent("student")], 0.5, classifier="c2" * 32)
    quality = section(make_card([*made.folders, other.path], made.home / "README.md").text, "Quality")
    assert quality.count("\n| accuracy |") == 2 and "| 50.0 % ± 1.0 |" in quality


def test_the_lead_takes_the_bundles_guidance(made: Made) -> None:
    swept = [put_evaluation(made.home / f"g{g}", of(made.student, guidance_scale=g), [made.student.as_parent("student")], g / 10)
             for g in (1.0, 2.0)]
    text = make_card([*made.folders, *(a.path for a in swept)], made.home / "README.md").text
    assert "A classifier takes 81.2 % ± 1.0 of 300 images, made with guidance 1.5, for the class asked for (its teacher's 90.0 % ± 1.0, " \
           "real images 98.0 % ± 1.0, guessing 33.3 %)." in text
    assert "| accuracy | 10.0 % ± 1.0 | 81.2 % ± 1.0 | 20.0 % ± 1.0 | 90.0 %" in text


def test_the_same_number_twice_is_not_overwritten(made: Made) -> None:
    again = put_evaluation(made.home / "q", of(made.student), [made.student.as_parent("student")], 0.5)
    quality = section(make_card([*made.folders, again.path], made.home / "README.md").text, "Quality")
    assert quality.count("This student: 300 images") == 2 and "81.2 %" in quality and "50.0 %" in quality


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_a_damaged_folder_is_refused(made: Made) -> None:
    (made.bundles[0].path / "model.onnx").write_bytes(b"graph fp33")
    with pytest.raises(ArtifactError, match="altered after it was made"):
        write_card(made.folders, made.home / "README.md")
    assert not (made.home / "README.md").exists()


@pytest.mark.parametrize("what", ["evaluation", "bundle", "record", "parity", "pairs", "teacher", "pairs evaluation", "real", "folder"])
def test_what_belongs_to_another_model_is_refused_with_both_sides(made: Made, tmp_path: Path, what: str) -> None:
    teacher = put_teacher(tmp_path / "x" / "teacher", weights=b"another")
    pairs = put_pairs(tmp_path / "x" / "pairs", teacher)
    student = put_student(tmp_path / "x" / "student", pairs, weights=b"another")
    bundle = put_bundle(tmp_path / "x" / "bundle", student)
    home = tmp_path / "x"
    stranger = {
        "evaluation": lambda: put_evaluation(home / "e", of(student), [student.as_parent("student")], 0.5), "bundle": lambda: bundle,
        "record": lambda: put_record(home / "r", bundle), "parity": lambda: put_parity(home / "l", student, [bundle]),
        "pairs": lambda: pairs, "teacher": lambda: teacher,
        "pairs evaluation": lambda: put_evaluation(home / "e", of(pairs), [pairs.as_parent("pairs")], 0.5),
        "real": lambda: put_evaluation(home / "e", {"kind": "images", "name": "cifar10", "split": "test", "sha256": "1" * 64}, [], 0.5),
        "folder": lambda: put_evaluation(home / "e", {"kind": "folder", "name": "pictures", "sha256": "1" * 64}, [], 0.5),
    }[what]()
    with pytest.raises(UsageError) as refused:
        make_card([*made.folders, stranger.path], made.home / "README.md")
    assert made.student.manifest.digest[:12] in str(refused.value) and str(stranger.path) in str(refused.value)


def test_two_models_nothing_and_twice_the_same(made: Made, tmp_path: Path) -> None:
    other = put_student(tmp_path / "other", made.pairs, weights=b"other")
    with pytest.raises(UsageError, match="one model, and two") as refused:
        make_card([made.student.path, other.path], made.home / "README.md")
    assert str(other.path) in str(refused.value) and str(made.student.path) in str(refused.value)
    with pytest.raises(UsageError, match="no model"):
        make_card([made.pairs.path], made.home / "README.md")
    with pytest.raises(UsageError, match="given twice"):
        make_card([made.student.path, made.student.path / "." / ".." / "student"], made.home / "README.md")
    images = put(tmp_path / "sweep", "sweep", {"rows.json": b"[]"})
    with pytest.raises(ArtifactError, match="of kind 'sweep'"):
        make_card([made.student.path, images.path], made.home / "README.md")


def test_a_record_of_another_graph_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another ONNX file"):
        make_card([made.student.path, made.bundles[0].path, put_record(tmp_path / "r", made.bundles[0], onnx="0" * 64).path],
                  made.home / "README.md")


def test_weights_keep_the_licence_they_carry(tmp_path: Path) -> None:
    info = {"name": "edm", "label": "edm", "license": "CC BY-NC-SA 4.0, NVIDIA: and so on", "parameters": 5}
    teacher = put(tmp_path / "t", "teacher", {"teacher.safetensors": b"w"}, info=info)
    assert "CC BY-NC-SA 4.0, NVIDIA" in make_card([teacher.path], tmp_path / "README.md").text
    make_card([teacher.path], tmp_path / "README.md", CardSettings(licence="CC-BY-NC-SA-4.0"))
    with pytest.raises(UsageError, match="another licence"):
        make_card([teacher.path], tmp_path / "README.md", CardSettings(licence="Apache-2.0"))


def test_odd_values_are_an_error_and_not_a_traceback(made: Made, tmp_path: Path) -> None:
    odd = put(tmp_path / "odd", "student", {"student.safetensors": b"w"}, parents=[made.pairs.as_parent("pairs")],
              info={**made.student.manifest.info, "parameters": "many"}, spec=True)
    with pytest.raises(ArtifactError, match="wrong type"):
        make_card([odd.path], tmp_path / "README.md")


def test_hostile_words_stay_words(made: Made) -> None:
    title = "a | b <script>alert(1)</script> --> ![x](y) `c`\n# d"
    text = make_card(made.folders, made.home / "README.md", CardSettings(title=title, licence="my own: #1", notes=("[x](y)",))).text
    heading = next(line for line in text.splitlines() if line.startswith("# "))
    assert "&lt;script&gt;" in heading and "![" not in heading and "# d" not in text.splitlines()
    assert text.count("-->") == 1 and text.rstrip().endswith("-->") and "<script>" not in text
    assert front(text)["license"] == "other" and front(text)["license_name"] == "my own: #1" and "\\[x\\](y)" in text


# --- pictures ---------------------------------------------------------------------------------------------------------------


def put_grid(folder: Path, bundle: Artifact) -> Path:
    file = folder / "grid.png"
    file.write_bytes(grid_png(16, 1))
    note = {"request": {"bundle": bundle.manifest.digest, "seed": 4, "start": 0, "count": 64, "classes": NAMES},
            "file": {"sha256": sha256_file(file)}}
    file.with_name("grid.png.json").write_text(json.dumps(note))
    return file


def test_a_picture_is_shown_by_relative_path_with_how_it_was_made(made: Made) -> None:
    put_grid(made.home, made.bundles[1])
    text = make_card(made.folders, made.home / "README.md", CardSettings(samples=("grid.png",))).text
    assert "](<grid.png>)" in text and "64 images of 3 classes in turn, fp16, guidance 1.5, seed 4" in text


def test_pictures_of_another_bundle_or_altered_ones_are_refused(made: Made) -> None:
    file = put_grid(made.home, made.bundles[1])
    asked = CardSettings(samples=("grid.png",))
    with pytest.raises(UsageError, match="another bundle"):
        make_card([made.student.path, made.bundles[0].path], made.home / "README.md", asked)
    file.write_bytes(grid_png(16, 2))
    with pytest.raises(ArtifactError, match="altered"):
        make_card(made.folders, made.home / "README.md", asked)
    file.write_bytes(b"no picture")
    with pytest.raises(ArtifactError, match="not a PNG"):
        make_card(made.folders, made.home / "README.md", asked)


def test_a_teachers_picture_says_how_it_was_sampled(made: Made) -> None:
    file = put_grid(made.home, made.bundles[1])
    asked, card = CardSettings(samples=("grid.png",)), made.home / "README.md"
    note = {"request": {"teacher": made.teacher.manifest.digest, "seed": 4, "count": 80, "guidance": 1.5, "steps": 18},
            "file": {"sha256": sha256_file(file)}}
    file.with_name("grid.png.json").write_text(json.dumps(note))
    for folders in ([made.teacher.path], made.folders):
        assert "80 images, class by class, 18 Heun steps, guidance 1.5, seed 4" in make_card(folders, card, asked).text
    note["request"]["teacher"] = "0" * 64
    file.with_name("grid.png.json").write_text(json.dumps(note))
    with pytest.raises(UsageError, match="another teacher"):
        make_card([made.teacher.path], card, asked)


def test_a_picture_of_an_evaluation_is_known_by_its_hash(made: Made) -> None:
    judged = put(made.home / "near", "evaluation", {"nearest.png": grid_png(16, 3), "evaluation.json": (
        made.rest[2].path / "evaluation.json").read_bytes()}, parents=[made.student.as_parent("student")], info={"label": "near"})
    text = make_card([made.student.path, judged.path], made.home / "README.md", CardSettings(samples=("near/nearest.png",))).text
    assert f"training images that they come nearest to: of the evaluation near ({judged.manifest.digest[:12]})" in text


def test_raw_weights_held_out_noise_and_distances_to_the_teacher(made: Made) -> None:
    raw = put_evaluation(made.home / "raw", of(made.student, weights="raw", step=500), [made.student.as_parent("student")], 0.6)
    body = json.loads((raw.path / "evaluation.json").read_text())
    source = of(made.student, pairs={"digest": "ff" * 32}, labels="of the pairs")
    body |= {"source": {**source, "used": 50}, "training_noise": {"verdict": "held out"}, "perceptual": {"name": "lpips", "net": "squeeze",
             "trunk_sha256": "ab" * 32}, "metrics": [{"metric": "teacher-lpips", "name": "teacher-lpips-squeeze-64", "value": 0.125,
                                                      "uncertainty": None, "images": 50}]}
    paired = put(made.home / "paired", "evaluation", {"evaluation.json": json.dumps(body).encode()},
                 parents=[made.student.as_parent("student")], info={"label": "paired"})
    text = make_card([*made.folders, raw.path, paired.path], made.home / "README.md").text
    assert "takes 81.2 %" in text and "This student, raw weights of step 500 (no EMA): 300 images" in text
    assert "noise and classes of pairs, noise held out" in text and "| teacher-lpips-squeeze-64 |" in text
    assert "Read by lpips, net squeeze, trunk sha256 abababababab" in text


def test_distances_on_other_pairs_stand_in_other_rows(made: Made) -> None:
    folders = []
    for k, (digest, value) in enumerate((("ff" * 32, 0.125), ("ee" * 32, 0.25), ("ff" * 32, 0.5))):
        judged = made.bundles[0] if k == 2 else made.student
        body = {"source": of(judged, pairs={"digest": digest}, labels="of the pairs"), "notes": [], "metrics": [
            {"metric": "teacher-l1", "name": "teacher-l1", "value": value, "uncertainty": None, "images": 50, "reference_images": None}]}
        folders.append(put(made.home / f"paired-{k}", "evaluation", {"evaluation.json": json.dumps(body).encode()},
                           parents=[judged.as_parent(judged.manifest.kind)], info={"label": str(k)}).path)
    card = make_card([made.student.path, made.bundles[0].path, *folders], made.home / "README.md")
    rows = {r["reference"]: [c["value"] for c in r["cells"].values()] for r in card.facts["quality"]["rows"]}
    assert rows == {"pairs ffffffffffff": [0.125, 0.5], "pairs eeeeeeeeeeee": [0.25]}
    lines = [line for line in card.text.splitlines() if line.startswith("| teacher-l1 |")]
    assert sorted(line.split("|")[-2].strip() for line in lines) == sorted(rows)


# --- the check --------------------------------------------------------------------------------------------------------------


def test_a_card_is_held_to_its_folders(made: Made) -> None:
    put_grid(made.home, made.bundles[0])
    file = made.home / "README.md"
    write_card(made.folders, file, CardSettings(licence="MIT", samples=("grid.png",), notes=("odd -- pairs",)))
    assert check_card(file).text == file.read_text() == check_card(file, made.folders[::-1]).text
    file.write_text(file.read_text().replace("81.2 %", "91.2 %"))
    with pytest.raises(ArtifactError, match="does not agree") as differs:
        check_card(file)
    assert "91.2 %" in str(differs.value) and "81.2 %" in str(differs.value)


def test_a_card_no_longer_agrees_when_a_folder_changes(made: Made) -> None:
    file = made.home / "README.md"
    write_card(made.folders, file)
    put_evaluation(made.home / "quality", of(made.student), [made.student.as_parent("student")], 0.7, fid=2.5)
    with pytest.raises(ArtifactError, match=r"70\.0 %"):
        check_card(file)
    with pytest.raises(ArtifactError, match="does not agree"):
        check_card(file, [made.student.path])


def test_the_folders_move_together(made: Made, tmp_path: Path) -> None:
    write_card(made.folders, made.home / "README.md")
    (tmp_path / "engines").rename(tmp_path / "elsewhere")
    check_card(tmp_path / "elsewhere" / "nano" / "README.md")


def test_no_other_text_is_replaced(made: Made) -> None:
    file = made.home / "README.md"
    file.write_text("# Mine\n")
    with pytest.raises(OutputError, match="did not make"):
        write_card(made.folders, file)
    assert file.read_text() == "# Mine\n"
    with pytest.raises(ArtifactError, match="not a card"):
        check_card(file)
    file.unlink()
    write_card(made.folders, file)
    write_card([made.student.path], file)  # its own it replaces
    assert "None was given." in file.read_text()
