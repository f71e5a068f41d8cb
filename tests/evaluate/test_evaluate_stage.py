"""The stage: resumes, returns at once, refuses what does not fit, and several processes give what one gives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from evaluate_kit import Painter, pictures

from edgedit.core.artifact import open_artifact
from edgedit.core.errors import Interrupted, OutputError, UsageError
from edgedit.evaluate import inception, stage
from edgedit.evaluate.generated import GeneratedSource
from edgedit.evaluate.moments import Moments
from edgedit.evaluate.settings import EvaluateSettings
from edgedit.evaluate.sources import ArraySource
from edgedit.evaluate.stage import EVALUATION_FILE, evaluate
from edgedit.evaluate.statistics import Statistics, load_statistics, save_statistics
from edgedit.learn.ranks import ALONE, Ranks

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def files(judge, stem):
    return {"classifier": str(judge), "extractor_weights": str(stem)}


def stored(name, count, seed):
    return ArraySource(name, pictures(count, seed), np.arange(count) % 3, NAMES, {"name": name, "split": "train"})


def made(count=30):
    return GeneratedSource("painter", Painter(), (3, 32, 32), NAMES, count=count, facts={"guidance_scale": 1.5})


def pixels(files, **more):
    return EvaluateSettings(**{"metrics": ("nearest", "accuracy", "spread"), "classifier": files["classifier"], "chunk": 8, **more})


def body_of(out):
    return json.loads(open_artifact(out, "evaluation").file(EVALUATION_FILE).read_text())


def numbers(out):
    return {m["name"]: (m["value"], m["uncertainty"]) for m in body_of(out)["metrics"]}


def test_the_record_names_what_decides_the_numbers(files, tmp_path):
    said = []
    manifest = evaluate(made(), stored("train", 40, 1), tmp_path / "e", pixels(files), held_out=stored("test", 20, 2), say=said.append)
    body = body_of(tmp_path / "e")
    assert [m["metric"] for m in body["metrics"]] == ["accuracy", "spread", "nearest"] and body["protocol"] is None
    assert [body["source"][k] for k in ("seed", "labels", "guidance_scale", "used")] == [0, "balanced", 1.5, 30]
    assert "127.5 + 128" in body["source"]["quantisation"] and len(body["reference"]["sha256"]) == 64
    assert body["classifier"]["name"] == "resnet8" and body["extractor"] is None
    assert body["metrics"][2]["details"]["held_out_images"] == 20 and [m["reference_images"] for m in body["metrics"]] == [None, 40, 40]
    assert manifest.info["count"] == 30 and not (tmp_path / "e.partial").exists()
    assert {e.text for e in said} == {"evaluate", "reference's spread", "held-out images"} and said[-1].done == said[-1].total


class Killed(ArraySource):
    """Fails when asked for images beyond `limit`; counts what it gave."""

    @property
    def identity(self):
        return {"sha256": "same", "count": self.count}

    def images(self, indices):
        if self.facts["asked"] + len(indices) > self.facts["limit"]:
            raise KeyboardInterrupt
        self.facts["asked"] += len(indices)
        return super().images(indices)


def test_a_killed_evaluation_goes_on_and_a_finished_one_returns(files, tmp_path):
    settings = pixels(files, metrics=("accuracy",))
    facts = {"sha256": "same", "asked": 0, "limit": 20}

    def told():
        return Killed("k", pictures(30), np.arange(30) % 3, NAMES, facts)

    with pytest.raises(Interrupted, match="evaluate: stopped"):
        evaluate(told(), None, tmp_path / "e", settings)
    assert facts["asked"] == 16 and len(list((tmp_path / "e.partial" / "source").glob("chunk-*.npz"))) == 2
    (tmp_path / "e.partial" / "source" / "chunk-00001.npz").write_bytes(b"cut")  # a damaged chunk is made again
    facts["limit"] = 99
    said = []
    first = evaluate(told(), None, tmp_path / "e", settings, say=said.append)
    assert facts["asked"] == 16 + 1 + 22  # one tells which arrays are wanted
    assert (said[0].done, said[0].started) == (8, 8)
    facts["limit"] = 0
    assert evaluate(told(), None, tmp_path / "e", settings) == first
    facts["limit"] = 99
    evaluate(told(), None, tmp_path / "whole", settings)
    assert numbers(tmp_path / "e") == numbers(tmp_path / "whole")
    with pytest.raises(UsageError, match="holds another evaluation") as error:
        evaluate(told(), None, tmp_path / "e", pixels(files, metrics=("accuracy",), count=10))
    assert "settings.count: None there, 10 now" in str(error.value)


@pytest.mark.parametrize("limit", [20, 30])
def test_a_chunk_of_an_earlier_version_that_measured_less_is_made_again(files, tmp_path, limit, monkeypatch):
    """Some chunks, or all of them, lack an array; the others are kept."""
    settings, facts = pixels(files, metrics=("nearest",)), {"sha256": "same", "asked": 0, "limit": limit}

    def told():
        return Killed("k", pictures(30), np.arange(30) % 3, NAMES, facts)

    def again(out):
        return evaluate(told(), ArraySource("t", pictures(40, 1), np.arange(40) % 3, NAMES), out, settings,
                        held_out=ArraySource("h", pictures(20, 2), np.arange(20) % 3, NAMES))

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(stage, "held_out_nearest", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
        again(tmp_path / "e")
    chunks = sorted((tmp_path / "e.partial" / "source").glob("chunk-*.npz"))
    assert len(chunks) == (2 if limit == 20 else 4)
    kept = chunks[:1] if limit == 20 else []
    for file in chunks:
        if file not in kept:
            with np.load(file) as arrays:
                nearest = arrays["nearest"]
            np.savez(file, nearest=nearest)
    facts |= {"asked": 0, "limit": 999}
    again(tmp_path / "e")
    resumed, facts["asked"] = facts["asked"], 0
    again(tmp_path / "whole")
    assert resumed == facts["asked"] + 1 - 8 * len(kept)
    assert numbers(tmp_path / "e") == numbers(tmp_path / "whole")


def test_batch_and_device_may_change_when_it_goes_on(files, tmp_path):
    first = evaluate(made(), None, tmp_path / "e", pixels(files, metrics=("accuracy",), batch=3))
    assert evaluate(made(), None, tmp_path / "e", pixels(files, metrics=("accuracy",), batch=5, device="cpu")) == first


def test_strangers_are_left_alone(files, tmp_path):
    (tmp_path / "e.partial").mkdir()
    (tmp_path / "e.partial" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="did not make"):
        evaluate(made(), None, tmp_path / "e", pixels(files, metrics=("accuracy",)))
    assert (tmp_path / "e.partial" / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize(("metrics", "reference", "text"), [
    (("fid",), None, "fid compare with a reference"), (("spread",), "statistics", "statistics alone"),
    (("pr",), "statistics", "statistics alone")])
def test_metrics_that_cannot_be_had(files, tmp_path, metrics, reference, text):
    given = Statistics(np.zeros(64), np.eye(64)) if reference else None
    with pytest.raises(UsageError, match=text):
        evaluate(made(), given, tmp_path / "e", EvaluateSettings(metrics=metrics, extractor_weights=files["extractor_weights"], tap="64"))


def test_accuracy_needs_labels_classes_and_a_classifier(files, tmp_path):
    with pytest.raises(UsageError, match="needs a classifier"):
        evaluate(made(), None, tmp_path / "e", EvaluateSettings(metrics=("accuracy",)))
    with pytest.raises(UsageError, match="has none"):
        evaluate(ArraySource("x", pictures(4)), None, tmp_path / "e", pixels(files, metrics=("accuracy",)))
    with pytest.raises(UsageError, match="3 classes apart, x has 4"):
        four = ArraySource("x", pictures(4), np.arange(4), tuple("abcd"))
        evaluate(four, None, tmp_path / "e", pixels(files, metrics=("accuracy",)))


def test_statistics_are_kept_and_used_again(files, tmp_path, monkeypatch):
    settings = EvaluateSettings(metrics=("fid", "kid"), extractor_weights=files["extractor_weights"], tap="64", chunk=5, kid_subset_size=4)
    source, train = stored("s", 12, 3), stored("train", 14, 1)
    said = []
    evaluate(source, train, tmp_path / "a", settings, cache=tmp_path / "cache", say=said.append)
    [file] = (tmp_path / "cache" / "references").glob("*.npz")
    assert any(str(file) in e.text for e in said) and any("covariance has no full rank" in e.text for e in said)
    asked = []
    monkeypatch.setattr(ArraySource, "images", lambda self, i: asked.append(self.name) or self.array[i])
    evaluate(source, train, tmp_path / "b", settings, cache=tmp_path / "cache")
    assert "train" not in asked and numbers(tmp_path / "a") == numbers(tmp_path / "b")
    evaluate(source, load_statistics(file), tmp_path / "c", settings)
    assert numbers(tmp_path / "c") == numbers(tmp_path / "a")
    assert body_of(tmp_path / "c")["protocol"] == "custom-64/tf1-compat/train-train0.014k/uint8/0.012k"


def test_statistics_of_another_extractor_are_refused(files, tmp_path):
    settings = EvaluateSettings(metrics=("fid",), extractor_weights=files["extractor_weights"], tap="64")
    moments = Moments.of(np.random.default_rng(0).normal(0, 1, (9, 32)))
    with pytest.raises(UsageError, match="have 32 features, the extractor gives 64"):
        evaluate(made(), Statistics(moments.mean, moments.covariance), tmp_path / "e", settings)
    save_statistics(tmp_path / "s.npz", Statistics(np.zeros(64), np.eye(64), 5, {"extractor": {"sha256": "0" * 64}}))
    with pytest.raises(UsageError, match="of another extractor"):
        evaluate(made(), load_statistics(tmp_path / "s.npz"), tmp_path / "e", settings)


def test_only_the_published_file_makes_a_fid(files, tmp_path, monkeypatch):
    from edgedit.core.files import sha256_file

    monkeypatch.setattr(inception, "PUBLISHED", sha256_file(Path(files["extractor_weights"]))[:8])
    settings = EvaluateSettings(metrics=("fid",), extractor_weights=files["extractor_weights"], tap="64")
    manifest = evaluate(stored("s", 4, 1), stored("train", 5, 2), tmp_path / "e", settings)
    assert list(manifest.info["metrics"]) == ["FID-64-0.004k"] and not body_of(tmp_path / "e")["comparable_with_papers"]


class Threads(Ranks):
    """Ranks of this process: each runs in a thread, `gather` and `lead` meet at a barrier."""

    board: ClassVar[list] = []
    meeting: ClassVar[threading.Barrier] = threading.Barrier(3)

    def gather(self, value):
        self.meeting.wait()
        self.board.append((self.rank, value))
        self.meeting.wait()
        values = [v for _, v in sorted(self.board, key=lambda entry: entry[0])]
        self.meeting.wait()
        if self.main:
            self.board.clear()
        return values

    def barrier(self):
        self.gather(None)

    def lead(self, work):
        return self.gather(work() if self.main else None)[0]


def shared(files, out, ranks=ALONE):
    settings = EvaluateSettings(metrics=("fid", "kid", "accuracy", "spread", "nearest"), tap="64", chunk=4, device="cpu", **files)
    return evaluate(made(18), stored("train", 15, 1), out, settings, held_out=stored("test", 10, 2), ranks=ranks)


def same_numbers(one, two):
    assert two.settings == one.settings and list(two.info["metrics"]) == list(one.info["metrics"])
    for name, value in one.info["metrics"].items():
        assert two.info["metrics"][name] == (pytest.approx(value, rel=1e-6) if name.startswith("Fréchet") else value), name


def test_three_ranks_give_what_one_gives(files, tmp_path):
    """Features travel as moments, whose sum rounds by the order of the ranks; all other rows come together unchanged."""
    found = {}
    ranks = [threading.Thread(target=lambda k=k: found.update({k: shared(files, tmp_path / "many", Threads(k, 3))})) for k in range(3)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(120)
    one = shared(files, tmp_path / "one")
    assert [found[k].digest for k in range(3)] == 3 * [found[0].digest]
    same_numbers(one, found[0])


_RANK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from edgedit.learn.ranks import joined
from test_evaluate_stage import shared
with joined("cpu") as ranks:
    shared({"classifier": sys.argv[3], "extractor_weights": sys.argv[4]}, Path(sys.argv[1]), ranks)
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(files, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-c", _RANK, str(tmp_path / "two"), str(Path(__file__).parent), *files.values()]
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "WORLD_SIZE": "2", "RANK": str(k), "LOCAL_RANK": str(k), "MASTER_ADDR": "127.0.0.1",
                                  "MASTER_PORT": str(port), "PYTHONPATH": str(Path(__file__).parents[2])}) for k in range(2)]
    one = shared(files, tmp_path / "one")
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert body_of(tmp_path / "two")["environment"]["processes"] == 2 and not (tmp_path / "two.partial").exists()
    same_numbers(one, open_artifact(tmp_path / "two", "evaluation").manifest)
