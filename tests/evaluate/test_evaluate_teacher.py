"""Distance to the teacher: the numbers, what is recorded, and whether the pairs were held out."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest
from evaluate_kit import Painter, teacher_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.artifact import Parent, create, open_artifact
from edgedit.core.errors import UsageError
from edgedit.core.noise import noise
from edgedit.core.pairset import PairSet
from edgedit.evaluate.generated import GeneratedSource
from edgedit.evaluate.seen import seen_notes, training_noise
from edgedit.evaluate.settings import EvaluateSettings
from edgedit.evaluate.stage import EVALUATION_FILE, evaluate
from edgedit.evaluate.teacher import teacher_scores

NAMES = ("a", "b", "c")


def of(pairs, start=0, **more):
    given = {"count": len(pairs) - start, "start": start, "pairs": pairs, **more}
    return GeneratedSource("painter", Painter(), (3, 32, 32), NAMES, **given)


def body_of(out):
    return json.loads(open_artifact(out, "evaluation").file(EVALUATION_FILE).read_text())


class Darkness:
    """Stands for LPIPS: difference of mean levels."""

    facts: ClassVar = {"name": "lpips", "net": "squeeze", "resolution": 64, "trunk_sha256": "1" * 64}

    def __call__(self, made, wanted):
        return np.abs(made.mean((1, 2, 3)) - wanted.mean((1, 2, 3)))


def test_noise_and_classes_are_the_pairs(tmp_path):
    pairs = teacher_pairs(tmp_path / "pairs", start=4)
    source, where = of(pairs, 3), np.array([5, 0, 8])
    expected = Painter().infer(noise(5, where + 7, (3, 32, 32)), np.array([0, 1, 0], np.int32))
    assert source.labels(where).tolist() == [0, 1, 0]
    np.testing.assert_array_equal(source.images(where), expected)
    np.testing.assert_array_equal(source.targets(where), pairs.images(where + 3))
    with pytest.raises(UsageError, match="holds 12 pairs"):
        of(pairs, 3, count=10)
    with pytest.raises(UsageError, match="do not fit"):
        GeneratedSource("p", Painter(), (3, 16, 16), NAMES, count=1, pairs=pairs)


def test_the_numbers_and_their_standard_errors(tmp_path):
    pairs = teacher_pairs(tmp_path / "pairs")
    settings = EvaluateSettings(metrics=("teacher",), chunk=5, count=9)
    evaluate(of(pairs, 2, facts={"guidance_scale": 1.5}), None, tmp_path / "e", settings, perceptual=Darkness())
    body = body_of(tmp_path / "e")
    away = of(pairs, 2).images(np.arange(9)).astype(float) - pairs.images(np.arange(2, 11))
    l1, mse = np.abs(away).mean((1, 2, 3)), np.square(away).mean((1, 2, 3))
    found = {m["name"]: m for m in body["metrics"]}
    assert list(found) == ["teacher-l1", "teacher-rmse", "teacher-lpips-squeeze-64"]
    assert found["teacher-l1"]["value"] == pytest.approx(l1.mean())
    assert found["teacher-l1"]["uncertainty"] == pytest.approx(l1.std(ddof=1) / 3)
    assert found["teacher-l1"]["details"]["in_unit_range"] == pytest.approx(np.abs(away / 127.5).mean())
    rmse = found["teacher-rmse"]
    assert rmse["value"] == pytest.approx(mse.mean() ** 0.5)
    assert rmse["details"]["psnr_db"] == pytest.approx(10 * np.log10(255**2 / mse.mean()))
    assert rmse["uncertainty"] == pytest.approx(np.ptp([(mse.mean() + s * mse.std(ddof=1) / 3) ** 0.5 for s in (-1, 1)]) / 2, rel=0.05)
    assert found["teacher-lpips-squeeze-64"]["details"] == Darkness.facts == body["perceptual"]
    assert body["source"]["pairs"]["teacher"]["guidance"] == 2.0 and body["source"]["guidance_scale"] == 1.5
    assert any("guidance 1.5" in note for note in body["notes"])
    assert [p.role for p in open_artifact(tmp_path / "e").manifest.parents] == ["pairs"]
    again = evaluate(of(pairs, 2, facts={"guidance_scale": 1.5}), None, tmp_path / "e", settings, perceptual=Darkness())
    assert again.digest == open_artifact(tmp_path / "e").manifest.digest
    with pytest.raises(UsageError, match="another evaluation"):
        evaluate(of(pairs, 2, facts={"guidance_scale": 1.5}), None, tmp_path / "e", settings)


def test_equal_images_have_no_psnr_and_one_pair_no_error():
    same = teacher_scores(np.zeros(3), np.zeros(3), None, None)
    assert [s.value for s in same] == [0, 0] and same[1].details["psnr_db"] is None
    assert [s.uncertainty for s in teacher_scores(np.ones(1), np.ones(1), None, None)] == [None, None]


def test_without_pairs_there_is_no_teacher(tmp_path):
    alone = GeneratedSource("painter", Painter(), (3, 32, 32), NAMES, count=4)
    with pytest.raises(UsageError, match="needs teacher pairs"):
        evaluate(alone, None, tmp_path / "e", EvaluateSettings(metrics=("teacher",)))


# --- held out ---------------------------------------------------------------------------------------------------------------


def student(*pairs: PairSet | Parent, role: str = "student", path: str = "nowhere/student") -> Parent:
    parents = tuple(p if isinstance(p, Parent) else p.artifact.as_parent("pairs") for p in pairs)
    return Parent(role, "student", f"{role} {[p.digest for p in parents]}", path, "(1,16,2)", parents)


def gone(parent: Parent) -> Parent:
    """The same artifact, not at hand any more."""
    return Parent(parent.role, parent.kind, parent.digest, "nowhere/pairs", parent.label, parent.parents)


def told(source: GeneratedSource, count: int | None = None):
    found = training_noise(source, np.arange(count or source.count))
    return found["verdict"], found["seen"]


def cut(pairs: PairSet, out, count: int) -> PairSet:
    """The first pairs of a set, as a sweep makes them: same seed, the whole set as parent."""
    teacher_pairs(out, count, seed=int(pairs.info["seed"]))
    with create(out, "pairs") as draft:
        for name in open_artifact(out).manifest.files:
            draft.write(name, (out / name).read_bytes())
        draft.info, draft.parents = {**pairs.info, "count": count}, [pairs.artifact.as_parent("pairs")]
    return PairSet.open(out)


def test_the_very_set_was_trained_on(tmp_path):
    pairs = teacher_pairs(tmp_path / "pairs")
    assert told(of(pairs, parents=(student(gone(pairs.artifact.as_parent("pairs"))),))) == ("trained on", 12)
    notes = seen_notes(training_noise(of(pairs, parents=(student(pairs),)), np.arange(12)), paired=True)
    assert len(notes) == 1 and notes[0].startswith("12 of the 12 pairs were trained on")


def test_another_seed_is_held_out_and_later_pairs_of_the_same_seed_too(tmp_path):
    taught, other = teacher_pairs(tmp_path / "a"), teacher_pairs(tmp_path / "b", seed=6)
    later, between = teacher_pairs(tmp_path / "c", start=12), teacher_pairs(tmp_path / "d", start=8)
    verdicts = [told(of(pairs, parents=(student(taught),))) for pairs in (other, later, between)]
    assert verdicts == [("held out", 0), ("held out", 0), ("trained on", 4)]
    assert told(of(between, 4, parents=(student(taught),))) == ("held out", 0)


@pytest.mark.parametrize("at_hand", [True, False])
def test_the_pairs_behind_those_that_a_limited_training_took(tmp_path, at_hand):
    whole = teacher_pairs(tmp_path / "whole")
    part = cut(whole, tmp_path / "part", 8).artifact.as_parent("pairs")
    lineage = student(part if at_hand else gone(part))
    assert told(of(whole, parents=(lineage,), taught={"count": 8})) == ("trained on", 8)
    assert told(of(whole, 8, parents=(lineage,), taught={"count": 8})) == ("held out", 0)
    if not at_hand:
        assert told(of(whole, 8, parents=(lineage,))) == ("unknown", 0)


def test_a_part_of_what_was_trained_on(tmp_path):
    whole = teacher_pairs(tmp_path / "whole")
    part = cut(whole, tmp_path / "part", 8)
    assert told(of(part, parents=(student(gone(whole.artifact.as_parent("pairs"))),))) == ("trained on", 8)


def test_what_cannot_be_told_is_said(tmp_path):
    taught, other = teacher_pairs(tmp_path / "a"), teacher_pairs(tmp_path / "b", seed=6)
    lineage = student(gone(taught.artifact.as_parent("pairs")))
    found = training_noise(of(other, parents=(lineage,)), np.arange(3))
    assert found["verdict"] == "unknown" and "not at hand" in seen_notes(found, paired=True)[0] and not seen_notes(found, paired=False)
    recorded = {"noise": "seed", "seed": 5, "start": 0, "count": 12}
    assert told(of(other, parents=(lineage,), taught=recorded)) == ("held out", 0)
    assert told(of(teacher_pairs(tmp_path / "c", start=11), parents=(lineage,), taught=recorded)) == ("trained on", 1)
    assert told(of(other, parents=(student(),))) == ("unknown", 0)


def test_pairs_are_looked_for_beside_their_student(tmp_path):
    taught, other = teacher_pairs(tmp_path / "moved" / "pairs"), teacher_pairs(tmp_path / "b", seed=6)
    lineage = student(gone(taught.artifact.as_parent("pairs")), path=str(tmp_path / "moved" / "student"))
    assert told(of(other, parents=(lineage,))) == ("held out", 0)
    replaced = Parent("pairs", "pairs", "another digest", str(taught.artifact.path))
    assert told(of(other, parents=(student(replaced),))) == ("unknown", 0)


def test_the_lineage_counts_whole_and_calibration_apart(tmp_path):
    """A student that began from another has seen that one's pairs; a bundle's own pairs only set its scales."""
    first, second = teacher_pairs(tmp_path / "a"), teacher_pairs(tmp_path / "b", seed=6)
    began = student(second, student(first, role="init"))
    assert told(of(first, parents=(began,))) == ("trained on", 12)
    bundle = Parent("bundle", "bundle", "b", "", "int8", (student(second), first.artifact.as_parent("pairs")))
    found = training_noise(of(first, parents=(bundle,)), np.arange(12))
    assert (found["verdict"], found["seen"]) == ("held out", 0)
    assert seen_notes(found, paired=True) == ["12 of the 12 images have noise that the bundle int8 was calibrated on"]
    assert told(of(second, parents=(bundle,))) == ("trained on", 12)


@pytest.mark.parametrize("role", ["init", "assistant", "source"])
@pytest.mark.parametrize("bundled", [False, True])
def test_what_a_student_says_of_its_pairs_is_not_said_of_an_ancestors(tmp_path, role, bundled):
    """The ancestor's pairs are gone: of another seed, for all that is known, or of this very one."""
    first, own = teacher_pairs(tmp_path / "a"), teacher_pairs(tmp_path / "b", seed=6)
    recorded = {"noise": "seed", "seed": 6, "start": 0, "count": 12}
    lineage = student(gone(own.artifact.as_parent("pairs")), student(gone(first.artifact.as_parent("pairs")), role=role))
    top = Parent("bundle", "bundle", "b", "", "fp16", (lineage,)) if bundled else lineage
    other = teacher_pairs(tmp_path / "c", start=4)  # eight of them are among the ancestor's
    found = training_noise(of(other, parents=(top,), taught=recorded), np.arange(8))
    assert found["verdict"] == "unknown" and [s["seen"] for s in found["sets"]] == [0, None]
    assert told(of(teacher_pairs(tmp_path / "d", seed=6, start=4), parents=(top,), taught=recorded)) == ("trained on", 8)
    alone = Parent("bundle", "bundle", "b", "", "fp16", (student(gone(own.artifact.as_parent("pairs"))),)) if bundled else student(
        gone(own.artifact.as_parent("pairs")))
    assert told(of(other, parents=(alone,), taught=recorded)) == ("held out", 0)


def test_of_weights_that_came_as_a_file_nothing_is_known(tmp_path):
    first, second = teacher_pairs(tmp_path / "a"), teacher_pairs(tmp_path / "b", seed=6)
    own = student(second)
    began = Parent(own.role, own.kind, own.digest, own.path, own.label, (*own.parents, Parent("init", "weights", "w", "w.safetensors")))
    assert told(of(first, parents=(own,)))[0] == "held out" and told(of(first, parents=(began,)))[0] == "unknown"


def test_made_images_without_pairs_say_so_too(tmp_path):
    taught, said = teacher_pairs(tmp_path / "a"), []
    for seed, verdict in ((5, "trained on"), (6, "held out")):
        source = GeneratedSource("painter", Painter(), (3, 32, 32), NAMES, count=20, seed=seed, start=2, parents=(student(taught),))
        train = GeneratedSource("train", Painter(), (3, 32, 32), NAMES, count=20, seed=9)
        evaluate(source, train, tmp_path / str(seed), EvaluateSettings(metrics=("spread",)), say=said.append)
        assert body_of(tmp_path / str(seed))["training_noise"]["verdict"] == verdict
    assert [e.text for e in said if e.level == "warning"] == [
        "10 of the 20 images have noise that was trained on: this is no held-out measurement; --seed takes other noise"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2), st.integers(0, 2), st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20))
def test_seen_is_what_a_comparison_one_by_one_gives(seed, theirs, start, first, asked, count):
    """The student's pairs known by what its manifest says of them."""
    lineage = student(Parent("pairs", "pairs", "d", ""))
    source = GeneratedSource("p", Painter(), (3, 32, 32), NAMES, count=asked, seed=seed, start=start, parents=(lineage,),
                             taught={"noise": "seed", "seed": theirs, "start": first, "count": count})
    one_by_one = sum((seed, i) in {(theirs, k) for k in range(first, first + count)} for i in range(start, start + asked))
    assert told(source) == ("trained on" if one_by_one else "held out", one_by_one)
