"""Sources: every kind gives the same images for the same indices, labels where it has them, and says what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from evaluate_kit import Painter, pictures
from PIL import Image

from edgedit.core import noise
from edgedit.core.errors import ArtifactError, NumericsError, UsageError
from edgedit.evaluate.generated import GeneratedSource, random_labels
from edgedit.evaluate.sources import CIFAR10, ArraySource, FolderSource, choose, npz_source, rgb

NAMES = ("a", "b", "c")


def made(runtime=None, **options):
    return GeneratedSource("painter", runtime or Painter(), (3, 8, 8), NAMES, **{"count": 20, **options})


def write(folder, names, images):
    for name, image in zip(names, images, strict=True):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file)


def test_generated_images_are_those_of_their_index_in_any_order_and_batch():
    free, fixed = made(batch=7), made(Painter(batch=8))
    whole = free.images(np.arange(20))
    z = noise.noise(0, range(20), (3, 8, 8))
    np.testing.assert_array_equal(whole, Painter().infer(z, noise.labels(0, range(20), 3)))
    np.testing.assert_array_equal(fixed.images(np.array([5, 3, 19])), whole[[5, 3, 19]])
    assert fixed.runtime.calls == [8] and free.runtime.calls == [7, 7, 6]
    np.testing.assert_array_equal(made(start=4).images(np.arange(5)), whole[4:9])
    assert made(start=4).labels(np.arange(3)).tolist() == [1, 2, 0]


def test_random_labels_are_a_function_of_seed_and_index_and_uniform():
    whole = random_labels(3, range(30_000), 10)
    np.testing.assert_array_equal(random_labels(3, [17, 2, 29_999, 2], 10), whole[[17, 2, 29_999, 2]])
    counts = np.bincount(whole, minlength=10)
    assert abs(counts - 3000).max() < 300 and not np.array_equal(whole[:50], random_labels(4, range(50), 10))
    source = made(random_labels=True, seed=3, start=5)
    np.testing.assert_array_equal(source.labels(np.arange(9)), random_labels(3, range(5, 14), 3))
    assert source.identity["labels"] == "random" and made().identity["labels"] == "balanced"


def test_a_runtime_that_makes_something_else_is_refused():
    broken = Painter()
    broken.infer = lambda z, c: np.zeros((len(z), 4, 4, 3), np.uint8)
    with pytest.raises(NumericsError, match="another form"):
        made(broken).images(np.arange(3))


def test_folder_by_file_names_and_by_subfolders(tmp_path):
    images = pictures(4)
    write(tmp_path / "flat", ["000000-dog.png", "000001-cat.png", "000002-dog.png", "000003-cat.png"], images)
    flat = FolderSource(tmp_path / "flat")
    assert flat.class_names == ("cat", "dog") and flat.labels(np.arange(4)).tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(flat.images(np.array([2, 0])), images[[2, 0]])
    assert FolderSource(tmp_path / "flat", CIFAR10).labels(np.arange(2)).tolist() == [5, 3]
    write(tmp_path / "deep", ["b/x.png", "a/y.png"], images[:2])
    deep = FolderSource(tmp_path / "deep")
    assert deep.class_names == ("a", "b") and deep.labels(np.arange(2)).tolist() == [0, 1]
    np.testing.assert_array_equal(deep.images(np.array([0])), images[1:2])
    write(tmp_path / "plain", ["x.png", "y.png"], images[:2])
    with pytest.raises(UsageError, match="have no labels"):
        FolderSource(tmp_path / "plain").labels(np.arange(2))


def test_the_identity_of_a_folder_is_its_content(tmp_path):
    for name, count in (("one", 2), ("two", 2)):
        write(tmp_path / name / "x", [f"{i}.png" for i in range(count)], pictures(count))
    one, two = (FolderSource(tmp_path / n / "x").identity for n in ("one", "two"))
    assert one == two
    write(tmp_path / "two" / "x", ["1.png"], pictures(1, seed=9))
    assert FolderSource(tmp_path / "two" / "x").identity["sha256"] != one["sha256"]
    Image.fromarray(pictures(1)[0]).save(tmp_path / "two" / "x" / "2.jpg")
    assert FolderSource(tmp_path / "two" / "x").identity["lossy_files"] == 1


def test_bad_images_in_a_folder(tmp_path):
    with pytest.raises(UsageError, match="holds no images"):
        FolderSource(tmp_path)
    write(tmp_path, ["a.png"], pictures(1))
    write(tmp_path, ["b.png"], pictures(1, side=16))
    with pytest.raises(UsageError, match="differ in size"):
        FolderSource(tmp_path).images(np.arange(2))
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ArtifactError, match="without transparency"):
        FolderSource(tmp_path).images(np.arange(2))
    (tmp_path / "b.png").write_bytes(b"not a png")
    with pytest.raises(ArtifactError, match=r"b\.png cannot be read as an image"):
        FolderSource(tmp_path).images(np.arange(2))


def test_grey_images_are_repeated(tmp_path):
    grey = pictures(2, channels=1)
    write(tmp_path, ["a.png", "b.png"], grey)
    found = FolderSource(tmp_path).images(np.arange(2))
    assert found.shape == (2, 32, 32, 1) and rgb(found).shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(rgb(found)[..., 2], grey[..., 0])
    write(tmp_path, ["b.png"], pictures(1))
    assert FolderSource(tmp_path).images(np.arange(2)).shape == (2, 32, 32, 3)


def test_a_subset_of_stored_images_is_random_and_one_of_made_images_the_first():
    sorted_by_class = ArraySource("sorted", pictures(100), np.repeat(np.arange(10), 10), tuple("0123456789"))
    some = choose(sorted_by_class, 30, seed=1)
    assert len(set(some)) == 30 and len(set(sorted_by_class.labels(some))) > 5 and (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, choose(sorted_by_class, 30, seed=1))
    assert not np.array_equal(some, choose(sorted_by_class, 30, seed=2))
    np.testing.assert_array_equal(choose(made(), 5, seed=1), np.arange(5))
    np.testing.assert_array_equal(choose(sorted_by_class, None, seed=1), np.arange(100))
    with pytest.raises(UsageError, match="holds 100 images"):
        choose(sorted_by_class, 101, seed=1)


def test_npz(tmp_path):
    images, labels = pictures(3), np.array([2, 0, 9], np.int32)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    source = npz_source(tmp_path / "x.npz", CIFAR10)
    assert source.class_names == CIFAR10 and source.labels(np.arange(3)).tolist() == [2, 0, 9]
    np.testing.assert_array_equal(source.images(np.array([2])), images[2:])
    np.savez(tmp_path / "adm.npz", images)
    assert npz_source(tmp_path / "adm.npz").class_names == ()
    np.savez(tmp_path / "other.npz", x=images)
    with pytest.raises(ArtifactError, match="holds no images"):
        npz_source(tmp_path / "other.npz")
    np.savez(tmp_path / "object.npz", images=np.array([{}], dtype=object))
    with pytest.raises(ArtifactError, match="cannot be read"):
        npz_source(tmp_path / "object.npz")
    np.savez(tmp_path / "float.npz", images=images / 255)
    with pytest.raises(UsageError, match="does not hold images"):
        npz_source(tmp_path / "float.npz")
