"""The extractor: what a weights file makes of the numbers' names, and files that are not what they should be.

The comparison with torch-fidelity runs both whole paths over the same images with the same random weights.
"""

from __future__ import annotations

import pickle
import urllib.error

import numpy as np
import pytest
import torch
from evaluate_kit import CIFAR, STEM, pictures

from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.core.files import sha256_file
from edgedit.evaluate import inception, scores
from edgedit.evaluate.inception import Inception, Weights, find_weights
from edgedit.evaluate.moments import Moments, frechet
from edgedit.evaluate.settings import EvaluateSettings
from edgedit.evaluate.sources import ArraySource
from edgedit.evaluate.stage import evaluate

CPU = torch.device("cpu")


def opened(file, tap="64", **options):
    return Inception(find_weights(str(file)), tap, **{"logits": False, "device": CPU, "batch": 8, **options})


def test_the_same_numbers_as_torch_fidelity(weights, tmp_path):
    """FID, IS and KID through the stage (chunks, streamed moments, own square root) and through calculate_metrics."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    made, real = pictures(6, 1), pictures(5, 2) // 2 + 60

    class Listed(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            return self.images[i]

    theirs = torch_fidelity.calculate_metrics(
        input1=Listed(made), input2=Listed(real), isc=True, fid=True, kid=True, cuda=False, cache=False, verbose=False, batch_size=5,
        isc_splits=2, kid_subsets=4, kid_subset_size=4, feature_layer_fid="192", feature_layer_kid="192", save_cpu_ram=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights))
    settings = EvaluateSettings(metrics=("kid", "is", "fid"), tap="192", extractor_weights=str(weights), is_splits=2, kid_subsets=4,
                                kid_subset_size=4, chunk=4, batch=3)
    manifest = evaluate(ArraySource("made", made), ArraySource("real", real), tmp_path / "out", settings)
    ours = manifest.info["metrics"]
    assert list(ours) == ["Fréchet-custom-192-0.006k", "IS-custom-0.006k", "KID-custom-192-0.006k"]
    fid, score, kid = ours.values()
    assert fid > 1 and fid == pytest.approx(theirs["frechet_inception_distance"], rel=2e-4)
    assert score > 1.001 and score - 1 == pytest.approx(theirs["inception_score_mean"] - 1, rel=1e-3)  # random logits vary little
    assert abs(kid) > 0.01 and kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)


def test_precision_and_recall_are_torch_fidelitys_in_pieces(monkeypatch):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (80, 6)).astype(np.float32), rng.normal(0.7, 0.6, (90, 6)).astype(np.float32)
    monkeypatch.setattr(scores, "_piece", lambda balls: 7)
    found = scores.precision_recall(a, b, 3, CPU)
    assert [s.value for s in found] == pytest.approx(calculate_precision_recall_full(torch.from_numpy(a), torch.from_numpy(b), 3))
    assert 0.1 < found[0].value < found[1].value + 0.9 and found[0].metric == "precision"


def test_the_order_of_images_decides_nothing_but_a_classwise_split_would():
    """Ten classes in ten splits: unshuffled, every split holds one class and the score is 1 (science.md §8)."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = np.repeat(10 * np.eye(10, dtype=np.float32), 30, axis=0)
    assert isc_features_to_metric(torch.from_numpy(logits), 10, False)["inception_score_mean"] == pytest.approx(1, abs=1e-6)
    assert scores.inception_score(logits, 10).value > 8


def test_too_few_images_for_the_splits():
    with pytest.raises(UsageError, match="10 splits"):
        scores.inception_score(np.zeros((9, 4), np.float32), 10)


def test_kid_of_as_many_images_as_a_subset_takes_still_varies():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(0, 1, (40, 5)).astype(np.float32) for _ in range(2))
    found = scores.kernel_distance(a, b, 20, 40)
    assert found.uncertainty > 1e-4 and found.details["subset_size"] == 20


def test_kinds_of_weights(weights, monkeypatch):
    net = opened(weights, "auto")
    assert (net.kind, net.tap, net.facts["sha256"]) == ("custom", "2048", sha256_file(weights))
    monkeypatch.setattr(inception, "PUBLISHED", sha256_file(weights)[:8])
    assert opened(weights).kind == "published"


def test_a_file_that_ends_early_gives_the_same_features(weights, stem, tmp_path):
    short, image, grey = opened(stem, "auto"), pictures(2), pictures(2, channels=1)
    assert (short.tap, short.kind) == ("768", "custom")
    short, whole = opened(stem), opened(weights)
    features = whole.rows(image, None)["features"]
    np.testing.assert_array_equal(short.rows(image, None)["features"], features)
    np.testing.assert_array_equal(whole.rows(grey, None)["features"], whole.rows(np.repeat(grey, 3, 3), None)["features"])
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in torch.load(stem, weights_only=True).items()}, tmp_path / "stem.safetensors")
    np.testing.assert_array_equal(opened(tmp_path / "stem.safetensors").rows(image, None)["features"], features)


@pytest.mark.parametrize(("options", "text"), [({"tap": "2048"}, "it gives no FID"), ({"logits": True}, "it gives no Inception Score")])
def test_what_a_file_that_ends_early_cannot_give(stem, options, text):
    with pytest.raises(UsageError, match=text):
        opened(stem, **{"tap": "auto", **options})


class _Shell:
    def __reduce__(self):
        import os

        return os.system, ("touch gotcha",)


def test_nothing_in_a_weights_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": _Shell()}, tmp_path / "hostile.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(_Shell(), protocol=2))
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "hostile.pth").read_bytes()[:100])
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("hostile.pth", "plain.pkl", "script.pt", "cut.pth", "empty.pth"):
        with pytest.raises(ArtifactError, match="cannot be read as weights"):
            opened(tmp_path / name)
    assert not (tmp_path / "gotcha").exists()


def test_weights_of_another_network(tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "x.pth")
    with pytest.raises(ArtifactError, match="does not hold the Inception network"):
        opened(tmp_path / "x.pth")
    torch.save([1, 2], tmp_path / "y.pth")
    with pytest.raises(ArtifactError, match="holds no state dict"):
        opened(tmp_path / "y.pth")


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(MissingError, match="no extractor weights"):
        find_weights(str(tmp_path / "x.pth"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refused(url, *rest, **more):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    with pytest.raises(MissingError, match="could not be downloaded") as error:
        find_weights(None)
    assert inception.URL in error.value.fix and "--extractor-weights" in error.value.fix
    (tmp_path / "checkpoints" / inception.FILE).write_bytes(b"something else")
    with pytest.raises(MissingError, match="is not the published file"):
        find_weights(None)


@pytest.mark.skipif(not STEM.is_file(), reason="no stem of the FID network in shared/data")
def test_the_real_stem_is_known_by_its_behaviour(tmp_path):
    assert opened(STEM, "auto").kind == "stem"
    changed = torch.load(STEM, weights_only=True)
    changed["Mixed_6e.branch_pool.conv.weight"] = changed["Mixed_6e.branch_pool.conv.weight"].clone() + 0.01
    changed["Mixed_6e.branch1x1.conv.weight"] = -changed["Mixed_6e.branch1x1.conv.weight"]
    torch.save(changed, tmp_path / "changed.pth")
    assert opened(tmp_path / "changed.pth", "auto").kind == "custom"


@pytest.mark.slow
@pytest.mark.skipif(not (STEM.is_file() and CIFAR.is_dir()), reason="no stem of the FID network, or no CIFAR-10")
def test_distances_of_the_real_stem():
    """400 test images against 1,000 training images: 0.275 was measured for a random subset, 0.589 for one class alone."""
    from edgedit.teach.cifar import find_cifar10, read_cifar10

    train, _, _ = read_cifar10(find_cifar10(CIFAR), "train")
    images, labels, _ = read_cifar10(find_cifar10(CIFAR), "test")
    net = Inception(Weights(STEM, sha256_file(STEM)), "768", logits=False, device=CPU, batch=50)
    real, clean, cats = (Moments.of(net.rows(x, None)["features"]) for x in (train[:1000], images[:400], images[labels == 3][:400]))
    assert 0.24 < frechet(clean.mean, clean.covariance, real.mean, real.covariance) < 0.32
    assert 0.5 < frechet(cats.mean, cats.covariance, real.mean, real.covariance) < 0.8
