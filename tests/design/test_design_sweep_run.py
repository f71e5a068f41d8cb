"""A sweep with edgedit's real verbs, at the smallest sizes: what a row holds, a failing row beside good ones, a stop, cut budgets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgedit.cli import main
from edgedit.core.artifact import read_manifest
from edgedit.core.chain import chain
from edgedit.core.errors import UsageError
from edgedit.core.settings import resolve
from edgedit.design.sweep.results import load_sweep
from edgedit.design.sweep.run import Swept, sweep
from edgedit.design.sweep.settings import SweepSettings
from edgedit.design.sweep.table import Table, read_table
from tests.design.sweep_kit import TINY, write_pairs


def table(*rows: dict[str, Any], **over: Any) -> Table:
    body = {"name": "tiny", "train": TINY | {"steps": 40, "checkpoint_every": 5} | over, "export": {"batch": 8},
            "profile": {"power": "none", "idle_s": 0, "warmup_batches": 1, "images": 64},
            "evaluate": {"metrics": ["spread"], "count": 40, "threads": 1}, "row": list(rows)}
    return read_table(body, "tiny")


def settings(pairs: Path, *sets: str, **values: Any) -> SweepSettings:
    given = {key.replace("__", "."): value for key, value in values.items()}
    return resolve(SweepSettings, sets=[f'evaluate.reference="{pairs}"', *sets], options=given)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 64)


def test_a_training_is_a_row_and_says_what_was_cut(pairs: Path, tmp_path: Path) -> None:
    made = sweep(table({"design": [1, 16, 2]}), pairs, tmp_path / "s", settings(pairs, budget__steps=2, stages=("train",)))
    row = made.rows[0]
    assert made.complete and (row.label, row.parameters, row.deployed_parameters) == ("(1,16,2)", 10_560, 5_232)
    assert row.budget == {"images_seen": 32, "steps": 2, "epochs": 0.5, "pairs": 64, "cut": "trained on 32 of the table's 640 images"}
    assert row.loss == "l1" and row.setup == "get" and row.quality is None and row.final_loss is not None
    manifest = read_manifest(made.out)
    assert manifest.kind == "sweep" and manifest.info["label"] == "tiny" and manifest.parents[0].kind == "student"
    assert load_sweep(made.out) == made.rows
    body = json.loads((made.out / "rows.json").read_text())
    assert set(body[0]) >= {"name", "table", "published", "spec", "label", "setup", "loss", "parameters", "deployed_parameters", "budget",
                            "quality", "accuracy", "seconds", "status", "why", "paths", "images_per_s", "latency_50k_s",
                            "energy_j_per_image", "device"}


@pytest.mark.slow
def test_minutes_end_a_training_and_more_of_them_go_on(pairs: Path, tmp_path: Path) -> None:
    rows = table({"name": "a", "design": [2, 16, 2]}, steps=100_000)
    short, longer = (settings(pairs, budget__minutes=minutes, stages=("train",)) for minutes in (0.02, 0.04))
    first = sweep(rows, pairs, tmp_path / "s", short).rows[0]
    assert first.status == "done" and "training ended by its minutes" in first.budget["cut"]
    more = sweep(rows, pairs, tmp_path / "s", longer).rows[0]
    assert more.budget["steps"] > first.budget["steps"] > 0 and more.status == "done"


def test_all_stages_of_good_rows_beside_one_that_cannot_train(pairs: Path, tmp_path: Path) -> None:
    rows = ({"name": "helped", "design": [2, 16, 2], "train": {"setup": "ta"}, "students": {"setup.assistant": "helper"}},
            {"name": "bad", "design": [1, 16, 2], "train": {"setup": {"name": "mi1", "layers": [1, 5]}}},
            {"name": "helper", "design": [2, 32, 2], "helper": True})
    (here := tmp_path / "here.toml").write_text('kind = "cpu"\nfp32_tflops = 0.1\ndram_gb_s = 30\nexponentials_g = 4\n')
    given = settings(pairs, budget__steps=3, budget__pairs_limit=50, device=str(here))
    made = sweep(table(*rows), pairs, tmp_path / "s", given)
    good, bad = made.rows
    assert good.status == "done" and set(good.paths) == {"student", "bundle", "record", "evaluation"} and not made.complete
    assert good.quality is not None and good.quality["name"] == "spread" and good.quality["n"] == 40
    assert good.images_per_s and good.latency_50k_s == pytest.approx(50_000 / good.images_per_s) and good.device
    assert good.budget["pairs"] == 50
    assert set(good.predicted_s) == {"floor"} and good.predicted_for == "here"
    for words in ("trained on 48 of the table's 640 images", "the first 50 of 64 pairs", "profiled over 64 of 50,000 images",
                  "scored on 40 of 50,000 images"):
        assert words in good.budget["cut"]
    assert bad.status == "failed" and bad.why.startswith("train: ") and "MI1 needs at least two layers" in bad.why
    assert {link.status for link in chain(made.out)} == {"verified"}
    begin = time.monotonic()
    assert sweep(table(*rows[:1], rows[2], rows[1]), pairs, tmp_path / "s", given).rows[0] == good
    assert time.monotonic() - begin < 15, "only the one that failed is tried again"


def test_a_stop_in_a_training_goes_on_with_the_same_command(pairs: Path, tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from tests.design.test_design_sweep_run import settings, sweep, table\n"
            "from edgedit.core.errors import EdgeditError\n"
            "p = Path(sys.argv[1])\n"
            "t = table({'design': [1, 16, 2]}, steps=4000)\n"
            "try: sweep(t, p, sys.argv[2], settings(p, stages=('train',)))\n"
            "except EdgeditError as error: print(error); raise SystemExit(error.code)")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(pairs), str(tmp_path / "s")]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    student, end = tmp_path / "s/rows/1-16-2/student", time.monotonic() + 60
    while not list(student.glob("state/step-*")):
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGINT)
    assert run.wait(60) == 130
    assert run.stdout is not None and "the same command" in run.stdout.read()
    step = read_manifest(student).info["step"]
    assert 0 < step < 4000
    assert load_sweep(tmp_path / "s")[0].status == "stopped"
    made = sweep(table({"design": [1, 16, 2]}, steps=step + 1), pairs, tmp_path / "s", settings(pairs, stages=("train",)))
    assert made.complete and made.rows[0].budget["steps"] == step + 1
    assert f"going on from step {step} of" in (tmp_path / "s/jobs/train-1-16-2/log").read_text()


def test_a_table_that_is_skipped_whole_starts_nothing(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing of sweep"):
        sweep(table({"design": [1, 16, 2], "skip": "not today"}), pairs, tmp_path / "s", settings(pairs))
    assert not (tmp_path / "s").exists()


def test_swept_is_complete_where_the_rest_is_skipped(tmp_path: Path) -> None:
    assert Swept(tmp_path, []).complete


@pytest.mark.parametrize(("given", "words"), [("train.los=l1", "los"), ("export.precision=fp8", "precision"), ("profile.imges=3", "imges")])
def test_a_plan_that_a_verb_would_not_take_is_refused(given: str, words: str, pairs: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "table2", "--pairs", str(pairs), "--out", str(tmp_path / "s"), "--set", given, "--dry-run"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and words in said and "1-128-8: " in said and not (tmp_path / "s").exists()
