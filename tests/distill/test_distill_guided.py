from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_kit import tiny, write_pairs

from edgedit.core.artifact import open_artifact, seal
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.pairset import PairSet
from edgedit.distill import TrainSettings, train
from edgedit.distill.data import Batch, Batches
from edgedit.distill.setup import Context
from edgedit.distill.setups import guided
from edgedit.learn.ranks import ALONE
from edgedit.model.checkpoint import load_student
from edgedit.model.dit import DiT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that tells classes apart."""
    out = tmp_path_factory.mktemp("source") / "student"
    train(pairs, out, tiny(steps=150, checkpoint_every=150, log_every=50))
    return out


def options(source: Path, **more: Any) -> TrainSettings:
    return tiny(**{"setup__name": "guided", "setup__student": str(source), **more})


def build(pairs: Path, source: Path, **more: Any) -> guided.Setup:
    settings, data = options(source, **more), PairSet.open(pairs)
    model = DiT(settings.model.spec(data.shape, data.classes))
    return guided.Setup(Context(settings, data, model.spec, model, CPU, ALONE))


def batch_of(pairs: Path, step: int = 0, size: int = 32) -> Batch:
    return Batches(PairSet.open(pairs), size, 3, 0.2).make(step)


def test_a_setup_that_is_not_in_the_paper_takes_less_than_100_lines():
    assert len(Path(guided.__file__).read_text(encoding="utf-8").splitlines()) < 100


@pytest.mark.parametrize("fresh", [True, False])
def test_the_target_is_the_guided_image_of_the_sources_averaged_weights(pairs, source, fresh):
    setup, batch = build(pairs, source, setup__scale=2.0, setup__fresh=fresh), batch_of(pairs)
    teacher, _, _ = load_student(source)
    noise = batch.normal() if fresh else batch.noise
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def student(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        asked.append((z, labels))
        return torch.full_like(z, 0.3, requires_grad=True)

    loss, logs = setup.loss(student, batch)
    c, u = teacher(noise, batch.labels), teacher(noise, torch.full_like(batch.labels, 3))
    target = (u + 2.0 * (c - u)).clamp(-1, 1)
    assert loss.item() == pytest.approx((target - 0.3).abs().mean().item(), rel=1e-5) and not logs
    assert len(asked) == 1 and torch.equal(asked[0][0], noise) and torch.equal(asked[0][1], batch.labels)
    null = batch.labels == 3
    assert null.any() and torch.allclose(target[null], u[null].clamp(-1, 1), atol=1e-5)
    assert not torch.allclose(target[~null], c[~null], atol=1e-2)


def test_gradients_reach_the_student_and_not_the_source(pairs, source):
    setup = build(pairs, source)
    student, _, _ = load_student(source)
    student.requires_grad_(True)
    setup.loss(student, batch_of(pairs))[0].backward()
    assert all(float(p.grad.abs().max()) > 0 for p in student.parameters() if p.grad is not None)
    assert not any(p.requires_grad or p.grad is not None for p in setup.source.parameters())


def test_one_pass_learns_what_two_gave_and_the_chain_names_the_source(pairs, source, tmp_path):
    out = tmp_path / "guided"
    settings = options(source, setup__scale=2.0, steps=150, checkpoint_every=150, optimizer__lr=2e-3, optimizer__schedule="cosine")
    manifest = train(pairs, out, settings, init=source)
    digest = open_artifact(source).manifest.digest
    assert [(p.role, p.kind, p.digest) for p in manifest.parents][1:] == [("init", "student", digest), ("source", "student", digest)]
    assert manifest.info["loss"] == {"name": "l1", "distilled_guidance": 2.0}
    teacher, student = load_student(source)[0], load_student(out)[0]
    noise, labels = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(96) % 3
    target = teacher.guided(noise, labels, 2.0).clamp(-1, 1)
    before, after = ((m(noise, labels).clamp(-1, 1) - target).abs().mean().item() for m in (teacher, student))
    assert after < 0.5 * before
    null = torch.full_like(labels, 3)
    assert (student(noise, null) - teacher(noise, null)).abs().mean().item() < 0.5 * before


def test_a_resumed_run_is_an_uninterrupted_one(pairs, source, tmp_path):
    for name, parts in (("whole", (6,)), ("parts", (4, 6))):
        for steps in parts:
            train(pairs, tmp_path / name, options(source, steps=steps, log_every=1), init=source)
    whole, parts_ = (load_student(tmp_path / n)[0].state_dict() for n in ("whole", "parts"))
    assert all(torch.equal(t, parts_[n]) for n, t in whole.items())


def test_sources_that_do_not_serve_are_refused(pairs, source, tmp_path):
    never = shutil.copytree(source, tmp_path / "never")
    m = open_artifact(never).manifest
    seal(never, "student", m.files, parents=m.parents, settings=m.settings, spec=m.spec, info={**m.info, "label_dropout": 0.0})
    run = tmp_path / "run"
    with pytest.raises(UsageError, match="without label dropout"):
        train(pairs, run, options(never))
    with pytest.raises(UsageError, match=r"does not fit the pairs: classes\n  saw: student 3, pairs 4"):
        train(write_pairs(tmp_path / "p", classes=4), run, options(source))
    with pytest.raises(ArtifactError, match="nothing"):
        train(pairs, run, options(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"needs a trained student(.|\n)*setup\.student=FOLDER"):
        train(pairs, run, tiny(setup__name="guided"))
    assert not run.exists()
