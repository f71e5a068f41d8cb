"""Bundle: what is read from a manifest, class names, batches, and every way a bundle can be wrong."""

from __future__ import annotations

import json

import pytest
from bundle_kit import make_bundle, small_spec

from edgedit.core.artifact import create
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.device.bundle import Bundle


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b")


def test_the_typed_view(path):
    bundle = Bundle.open(path)
    assert (bundle.precision, bundle.attention, bundle.batch, bundle.dynamic, bundle.opset) == ("fp32", "pattern", 4, False, 17)
    assert bundle.guidance_scale == 1.5 and bundle.guided and bundle.null_class == 4
    assert bundle.noise_shape == (3, 8, 8) and bundle.image_shape == (8, 8, 3)
    assert bundle.model.read_bytes() and len(bundle.digest) == 64


def test_the_subject_counts_guidance(path):
    subject = Bundle.open(path).subject(4)
    assert subject.forward_batch == 8 and subject.flops_per_image == 2 * small_spec().flops
    plain = Bundle.open(make_bundle(path.parent / "plain", settings={"guidance_scale": 1})).subject(4)
    assert plain.forward_batch == 4 and plain.flops_per_image == small_spec().flops


def test_classes_by_name_case_and_number(path):
    bundle = Bundle.open(path)
    assert [bundle.class_index(n) for n in ("ant", "DOG", " bee ", "2", 3)] == [0, 3, 1, 2, 3]


def test_an_unknown_class_suggests_the_nearest(path):
    with pytest.raises(UsageError, match="did you mean 'cat'"):
        Bundle.open(path).class_index("kat")


@pytest.mark.parametrize("number", ["4", "-1", 99])
def test_a_class_number_out_of_range_lists_the_classes(path, number):
    with pytest.raises(UsageError, match=r"out of range(.|\n)*ant, bee, cat, dog"):
        Bundle.open(path).class_index(number)


def test_a_name_that_is_a_number_wins_over_the_number(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b", class_names=("3", "2", "1", "0")))
    assert bundle.class_index("3") == 0 and bundle.class_index(0) == 3


def test_batches(path, tmp_path):
    fixed = Bundle.open(path)
    assert fixed.choose_batch(None) == fixed.choose_batch(4) == 4
    with pytest.raises(UsageError, match=r"batch 4 only(.|\n)*--batch 4"):
        fixed.choose_batch(8)
    with pytest.raises(UsageError, match="1 or more"):
        fixed.choose_batch(0)
    assert Bundle.open(make_bundle(tmp_path / "d", dynamic=True)).choose_batch(7) == 7


def test_an_altered_model_is_refused(tmp_path):
    path = make_bundle(tmp_path / "b")
    model = bytearray((path / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (path / "model.onnx").write_bytes(model)
    with pytest.raises(ArtifactError, match="altered"):
        Bundle.open(path)
    (path / "model.onnx").write_bytes(model[:-5])
    with pytest.raises(ArtifactError, match="truncated"):
        Bundle.open(path, verify=False)


def test_no_manifest_no_folder_other_kind(tmp_path):
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "model.onnx").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"no manifest.json(.|\n)*edgedit export"):
        Bundle.open(tmp_path / "loose")
    with pytest.raises(ArtifactError, match="is not there"):
        Bundle.open(tmp_path / "nowhere")
    with create(tmp_path / "pairs", "pairs") as draft:
        draft.write("x", "x")
    with pytest.raises(ArtifactError, match="of kind 'pairs'"):
        Bundle.open(tmp_path / "pairs")


@pytest.mark.parametrize("section, key, value", [
    ("settings", "batch", None), ("settings", "batch", "many"), ("settings", "batch", True), ("settings", "dynamic", 1),
    ("settings", "guidance_scale", "1.5"), ("settings", "precision", None), ("info", "class_names", "cat"),
    ("info", "class_names", [1, 2, 3, 4]), ("info", "parameters", None)])
def test_a_manifest_with_a_hole_names_it(tmp_path, section, key, value):
    path = make_bundle(tmp_path / "b", **{section: {key: value}})
    with pytest.raises(ArtifactError, match=rf"{section}\.{key}"):
        Bundle.open(path)


@pytest.mark.parametrize("change, says", [
    ({"settings": {"batch": 0}}, "not a batch"), ({"info": {"class_names": ["one"]}}, "differ in number")])
def test_a_manifest_that_contradicts_itself(tmp_path, change, says):
    with pytest.raises(ArtifactError, match=says):
        Bundle.open(make_bundle(tmp_path / "b", **change))


@pytest.mark.parametrize("spec", [None, {"depth": 1}, {"depth": 1, "width": 8, "heads": 3},
                                  {"depth": 1, "width": 8, "heads": 2, "x": 1}])
def test_a_spec_that_is_none(tmp_path, spec):
    path = make_bundle(tmp_path / "b")
    body = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**body, "spec": spec}))
    with pytest.raises(ArtifactError, match="spec"):
        Bundle.open(path)
