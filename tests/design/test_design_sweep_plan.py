"""From tables to command lines: each is one that edgedit takes, budgets reach them, and same commands become one job."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main

from edgedit.cli import app
from edgedit.core.artifact import create
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.settings import resolve
from edgedit.design.sweep.plan import BATCH, EPOCHS, Plan, make_plan
from edgedit.design.sweep.settings import SweepSettings
from edgedit.design.sweep.table import find_table, presets, read_table
from edgedit.distill.settings import TrainSettings
from tests.design.sweep_kit import write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", image=32, channels=3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with create(tmp_path_factory.mktemp("t") / "teacher", "teacher") as draft:
        draft.write("x", "")
    return draft.path.parent / "teacher"


def plan(table: str, pairs: Path, *sets: str, **values: Any) -> Plan:
    given = {key.replace("__", "."): value for key, value in values.items()}
    return make_plan(find_table(table), pairs, resolve(SweepSettings, sets=sets, options=given))


def options(command: tuple[str, ...], name: str = "--set") -> list[str]:
    return [b for a, b in itertools.pairwise(command) if a == name]


def test_defaults_are_those_of_train() -> None:
    assert (TrainSettings().batch, TrainSettings().epochs) == (BATCH, EPOCHS)


@pytest.mark.parametrize("table", presets())
def test_every_command_is_one_that_edgedit_takes(table: str, pairs: Path, teacher: Path) -> None:
    group = typer.main.get_command(app)
    for job in plan(table, pairs, teacher=teacher, budget__steps=7).jobs.values():
        python, m, program, verb, *rest = job.filled(Path("/s"), "py")
        assert (python, m, program) == ("py", "-m", "edgedit")
        context = group.commands[verb].make_context(verb, rest, resilient_parsing=False)  # type: ignore[attr-defined]
        if verb == "train":
            settings = resolve(TrainSettings, sets=context.params["sets"])
            assert settings.steps == 7 and settings.batch == BATCH
            assert (settings.model.depth, settings.model.width) == next(
                r.design[:2] for r in find_table(table).rows if r.design and r.name == job.name.removeprefix("train-"))


def test_budgets(pairs: Path) -> None:
    train = "train-5-64-8"
    assert "steps=3" in options(plan("table6", pairs, budget__images_seen=2 * BATCH + 1).jobs[train].command)
    assert "epochs=2.0" in options(plan("table6", pairs, budget__epochs=2).jobs[train].command)
    assert "minutes=1.5" in plan("table6", pairs, budget__minutes=1.5).jobs[train].command
    long = plan("table6", pairs).jobs["train-7-192-12-200ep"]
    assert "epochs=200" in options(long.command)
    with pytest.raises(UsageError, match="three ways"):
        plan("table6", pairs, budget__steps=3, budget__epochs=2)
    made = plan("table6", pairs, budget__profile_images=77, budget__evaluate_images=88)
    assert "images=77" in options(made.jobs["profile-5-64-8"].command)
    assert options(made.jobs["evaluate-5-64-8"].command, "--count") == ["88"]


def test_same_commands_are_one_job(pairs: Path) -> None:
    made = plan("table6", pairs, budget__steps=5)
    rows = {row.name: row for row in made.rows}
    assert rows["7-192-12-200ep"].jobs == rows["7-192-12"].jobs and rows["7-192-12-200ep"].shared_with == "7-192-12"
    assert len(made.jobs) == 12 * 4
    assert "7-192-12-200ep" in "".join(plan("table6", pairs).jobs), "without a cut it is a training of its own"
    fig3 = plan("fig3", pairs)
    assert fig3.rows[3].jobs == next(r for r in fig3.rows if r.name == "heads-4").jobs


def test_a_helper_is_trained_first_and_once(pairs: Path) -> None:
    made = plan("table3", pairs, stages=("train",))
    names = list(made.jobs)
    assert names.index("train-ta-assistant") < names.index("train-ta-row2") and len(names) == 5
    assert made.jobs["train-ta-row3"].after == ("train-ta-assistant",)
    assert 'setup.assistant="{sweep}/rows/ta-assistant/assistant"' in options(made.jobs["train-ta-row3"].command)
    assert "ta-assistant" not in [row.name for row in made.rows]
    assert "train-ta-assistant" not in plan("table3", pairs, rows=("ta-row1",)).jobs


def test_rows_that_need_a_teacher_are_skipped_without_one(pairs: Path, teacher: Path) -> None:
    row = plan("table1", pairs).rows[-1]
    assert "--teacher" in row.skip and not row.jobs
    made = plan("table1", pairs, teacher=teacher)
    assert f'setup.teacher="{teacher}"' in options(made.jobs["train-dmd-lpips"].command)
    with pytest.raises(UsageError, match="nothing of sweep"):
        plan("table1", pairs, rows=("dmd-lpips",))
    with pytest.raises(ArtifactError, match="needed is 'teacher'"):
        plan("table1", pairs, teacher=pairs)
    with pytest.raises(ArtifactError):
        plan("table1", pairs, teacher=pairs.parent / "nowhere")


def test_what_a_user_sets_wins_and_is_told(pairs: Path) -> None:
    made = plan("table6", pairs, "train.loss=l1", "train.threads=1", "train.optimizer.lr=1e-3", "export.precision=int8")
    given = options(made.jobs["train-1-128-8"].command)
    assert {"loss.name=l1", "threads=1", "optimizer.lr=0.001"} <= set(given)
    assert made.rows[0].changed == ("train.loss=l1", "train.optimizer.lr=0.001") and made.rows[0].loss == "l1"
    assert options(made.jobs["export-1-128-8"].command, "--calibrate") == [str(pairs)]


def test_what_cannot_be_planned(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no row 'x'"):
        plan("table6", pairs, rows=("x",))
    with pytest.raises(UsageError, match="no stage 'trian'"):
        plan("table6", pairs, stages=("trian",))
    with pytest.raises(ArtifactError):
        plan("table6", tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"row '5-62-8': spec\.width must be a multiple"):
        make_plan(read_table({"row": [{"design": [5, 62, 8]}]}, "x"), pairs, SweepSettings())


def test_designs_are_the_rows_alone(pairs: Path) -> None:
    with pytest.raises(UsageError, match="--set train may not"):
        plan("table2", pairs, "train.model.depth=3")
    with pytest.raises(UsageError, match="row 'a' may not"):
        make_plan(read_table({"row": [{"name": "a", "design": [1, 16, 2], "train": {"model": {"width": 8}}}]}, "x"), pairs, SweepSettings())
    assert plan("table2", pairs, "train.model.patch=4").rows[0].spec.patch == 4


def test_guidance_is_the_exports(pairs: Path) -> None:
    rows = [{"design": [1, 16, 2]}, {"design": [1, 16, 4], "export": {"guidance_scale": 1.0}},
            {"design": [2, 16, 2], "train": {"setup": "guided"}}]
    assert [r.guidance for r in make_plan(read_table({"row": rows}, "x"), pairs, SweepSettings()).rows] == [1.5, 1.0, 1.0]
    assert {r.guidance for r in plan("table2", pairs, "export.guidance_scale=none").rows} == {1.5}
    made, body = shutil.copytree(pairs, pairs.parent / "guided"), json.loads((pairs / "manifest.json").read_text())
    body["info"]["teacher"]["guidance"] = 2.0  # students of guided pairs run in one pass
    (made / "manifest.json").write_text(json.dumps(body))
    assert {r.guidance for r in plan("table2", made).rows} == {1.0}


def test_a_limit_of_pairs_is_a_job_before_all_trainings(pairs: Path, tmp_path: Path) -> None:
    made = plan("table6", pairs, budget__pairs_limit=20, budget__epochs=256)
    assert next(iter(made.jobs)) == "pairs" and all("pairs" in j.after for j in made.jobs.values() if j.kind == "train")
    assert made.rows[0].steps == 20 and "{sweep}/pairs" in made.jobs["train-1-128-8"].command
    assert "pairs" not in plan("table6", pairs, budget__pairs_limit=40).jobs
