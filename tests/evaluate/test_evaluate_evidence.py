"""The picture of nearest training images: part of the artifact, with copies first."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
from evaluate_kit import pictures
from PIL import Image

from edgedit.core.artifact import create, open_artifact
from edgedit.evaluate.evidence import SHOWN, Found, nearest_picture
from edgedit.evaluate.settings import EvaluateSettings
from edgedit.evaluate.sources import ArraySource
from edgedit.evaluate.stage import EVALUATION_FILE, NEAREST_FILE, evaluate

SETTINGS = EvaluateSettings(metrics=("nearest",), chunk=8)


def sources(count=24, side=32, channels=3, names=("a", "b", "c")):
    labels = (lambda n: np.arange(n) % 3) if names else (lambda n: None)
    train, made = pictures(40, 1, side, channels), pictures(count, 2, side, channels)
    made[min(7, count - 1)] = train[29]
    return ArraySource("made", made, labels(count), names), ArraySource("train", train, labels(40), names)


def details(out):
    return json.loads(open_artifact(out, "evaluation").file(EVALUATION_FILE).read_text())["metrics"][0]["details"]


def test_a_copy_comes_first_beside_what_it_is_a_copy_of(tmp_path):
    made, train = sources()
    evaluate(made, train, tmp_path / "e", SETTINGS)
    shown = details(tmp_path / "e")["shown"]
    assert shown["nearest"][0] == {"image": 7, "training_image": 29, "distance": 0.0}
    assert [len(rows) for rows in shown.values()] == [SHOWN, SHOWN]
    distances = [row["distance"] for row in shown["nearest"]]
    assert distances == sorted(distances) and len({row["image"] for row in shown["random"]}) == SHOWN
    file = open_artifact(tmp_path / "e").file(NEAREST_FILE)
    pixels = np.asarray(Image.open(file))
    copy = train.array[29].repeat(3, 0).repeat(3, 1)                     # 32 pixels are shown as 96
    places = [(y, x) for y in range(60) for x in range(220) if np.array_equal(pixels[y : y + 96, x : x + 96], copy)]
    assert len(places) == 2 and places[0][0] == places[1][0]             # twice, side by side, in the first row


def test_the_rows_are_numbers_of_the_source_also_of_a_subset(tmp_path):
    made, train = sources(count=30)
    evaluate(made, train, tmp_path / "e", SETTINGS.model_copy(update={"count": 9, "subset_seed": 3}))
    rows = details(tmp_path / "e")["shown"]["random"]
    assert len(rows) == 9 and max(row["image"] for row in rows) > 9
    for row in rows:
        away = made.array[row["image"]].astype(float) - train.array[row["training_image"]]
        assert row["distance"] == pytest.approx(np.square(away).mean() ** 0.5)


def test_grey_images_small_and_large_and_none_with_labels():
    for side, channels in ((8, 1), (32, 3), (128, 3)):
        made, train = sources(5, side, channels, ())
        found = Found(np.linspace(3, 9, 5), np.arange(5), bound=2.5)
        picture = Image.open(BytesIO(nearest_picture(made, train, np.arange(5), found, 0)))
        assert picture.format == "PNG" and picture.width > 4 * 2 * 90


def test_an_evaluation_of_before_the_picture_is_returned_as_it_is(tmp_path):
    made, train = sources()
    evaluate(made, train, tmp_path / "e", SETTINGS)
    new = open_artifact(tmp_path / "e").manifest
    plan = {k: v for k, v in new.settings.items() if k != "perceptual"}
    with create(tmp_path / "e", "evaluation") as draft:
        draft.write(EVALUATION_FILE, "{}")
        draft.settings, draft.info = plan, new.info
    old = open_artifact(tmp_path / "e").manifest
    assert evaluate(made, train, tmp_path / "e", SETTINGS).digest == old.digest
