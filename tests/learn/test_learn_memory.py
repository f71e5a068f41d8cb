"""Memory that runs short, played by a loss that raises torch's own error above so many rows: no GPU is needed, and none is tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learn_kit import BATCH, Toy, learn, toy_settings
from torch import Tensor

from edgedit.core.artifact import create
from edgedit.core.errors import EdgeditError, MissingError, UsageError
from edgedit.core.pairset import PairSet
from edgedit.core.say import Event
from edgedit.core.settings import resolve
from edgedit.distill.settings import TrainSettings
from edgedit.distill.student import StudentTrainer
from edgedit.distill.training import train
from edgedit.learn.memory import Pieces, memory_told, out_of_memory
from edgedit.model.denoiser import Denoiser
from edgedit.model.teacher import KIND, WEIGHTS, save_teacher
from edgedit.model.unet import UNetSpec
from edgedit.teach.data import load_data
from edgedit.teach.network import NetworkTeacher
from edgedit.teach.pairs import make_pairs
from edgedit.teach.settings import PairSettings
from edgedit.teach.unet import UNetTrainer
from edgedit.teach.unet_settings import TeacherSettings

CPU = torch.device("cpu")
STEPS = 3


def stepped(trainer: Any, batches: list[Any]) -> list[Any]:
    return [trainer.step(batch, k, 1e-2, want_norm=True) for k, batch in enumerate(batches)]


def state(trainer: Any) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in trainer.tensors().items()}


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.allclose(a[n].double(), b[n].double(), rtol=1e-4, atol=2e-6) for n in a)


# --- which errors, which pieces ---------------------------------------------------------------------------------------------


def test_real_errors_are_told_apart() -> None:
    with pytest.raises(RuntimeError) as real:
        torch.empty(10**15)
    assert out_of_memory(real.value) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) and out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not out_of_memory(other.value)
    with pytest.raises(MissingError, match=r"memory does not hold this run[\s\S]*can't allocate memory[\s\S]*smaller"), \
            memory_told("this run", "a smaller one"):
        torch.empty(10**15)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Pieces("x", "y").fit(4, lambda pieces: torch.ones(2, 3) @ torch.ones(2, 3), lambda event: None)


def test_pieces_cover_a_batch_and_halve_to_one() -> None:
    said: list[Event] = []
    pieces = Pieces("a step", "buy memory")
    sizes = []
    while True:
        assert [k for piece in pieces.of(10) for k in piece] == list(range(10))
        sizes.append(len(pieces.of(10)[0]))
        if sizes[-1] == 1:
            break
        pieces.halve(10, "no room", said.append)
    assert sizes == [10, 5, 3, 2, 1] and [e.level for e in said] == ["warning"] * 4
    assert said[0].text == "memory does not hold 10 images of a step at a time (no room): batches of 10 in pieces of 5 from here on"
    with pytest.raises(MissingError, match=r"even one image[\s\S]*no room[\s\S]*buy memory"):
        pieces.halve(10, "no room", said.append)


# --- a step -----------------------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_fit_is_taken_in_pieces_with_the_same_result() -> None:
    whole, short = Toy(toy_settings()), Toy(toy_settings(), most=3)
    said: list[Event] = []
    short.say = said.append
    batches = [whole.make(k) for k in range(STEPS)]
    wanted, found = stepped(whole, batches), stepped(short, batches)
    assert close(state(whole), state(short))
    assert [s.loss.item() for s in found] == pytest.approx([s.loss.item() for s in wanted], rel=1e-5)
    assert [float(s.norm) for s in found] == pytest.approx([float(s.norm) for s in wanted], rel=1e-5)
    assert [s.logs["twice"].item() for s in found] == pytest.approx([2 * s.loss.item() for s in wanted], rel=1e-5)
    assert float(found[0].logs["first row"]) == pytest.approx(0.3 * 0 + 0.3 * 3 + 0.3 * 6 + 0.1 * 9)  # 3, 3, 3 and 1 rows of 10
    assert short.seen == [10, 5] + [3, 3, 3, 1] * STEPS  # found out once
    assert len(said) == 2 and "CUDA out of memory" in said[0].text and "a page more" not in said[0].text


def test_micro_batch_says_it_at_once_and_may_change_in_a_run(tmp_path: Path) -> None:
    trainer = Toy(toy_settings(micro_batch=4))
    stepped(trainer, [trainer.make(0)])
    assert trainer.seen == [4, 4, 2]
    learn(tmp_path / "o", toy_settings(steps=2, micro_batch=4))
    assert learn(tmp_path / "o", toy_settings(steps=4)).info["step"] == 4
    learn(tmp_path / "p", toy_settings(steps=2))
    learn(tmp_path / "p", toy_settings(steps=4))
    one, two = (torch.frombuffer(bytearray((tmp_path / n / "toy.bin").read_bytes()), dtype=torch.float32) for n in "op")
    assert torch.allclose(one, two, atol=1e-5)


def test_a_failed_try_leaves_no_gradient_and_no_state() -> None:
    """It fails in the middle of accumulation: the first piece's gradients are there already."""
    whole, short = Toy(toy_settings()), Toy(toy_settings(micro_batch=5))
    batches, real, calls = [whole.make(k) for k in range(STEPS)], short.loss, []

    def failing(batch: Any, step: int) -> Any:
        calls.append(len(batch.x))
        if calls == [5, 5]:
            assert any(p.grad is not None for p in short.model.parameters())
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(batch, step)

    short.loss = failing  # type: ignore[method-assign]
    stepped(whole, batches)
    stepped(short, batches)
    assert close(state(whole), state(short)) and calls[:5] == [5, 5, 3, 3, 3]


def test_not_even_one_row_is_a_clear_error_that_changes_nothing(tmp_path: Path) -> None:
    said: list[Event] = []
    settings = toy_settings(steps=5)
    made: list[Toy] = []

    def make() -> Toy:
        made.append(Toy(settings, most=0))
        return made[-1]

    with pytest.raises(MissingError, match=r"even one image at a time[\s\S]*CUDA out of memory[\s\S]*fix: a smaller model"):
        learn(tmp_path / "o", settings, say=said.append, make=make)
    assert [e.level for e in said] == ["warning"] * 4
    fresh = state(Toy(settings))
    assert all(torch.equal(fresh[n], t) for n, t in state(made[0]).items()) and not any(made[0].optimizer.state.values())
    assert all(p.grad is None for p in made[0].model.parameters())
    assert learn(tmp_path / "o", settings).info["complete"]  # the folder is as a cut run leaves it


# --- students and teachers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of 8×8 digits, a teacher network of their size, and a student."""
    home = tmp_path_factory.mktemp("memory")
    make_pairs(home / "pairs", PairSettings(data="digits", image=8, count=48, workers=1, device="cpu", steps=4))
    spec = UNetSpec(width=8, multipliers=(1,), blocks=1, attention=(), image=8, channels=1, classes=10)
    with create(home / "teacher", KIND) as draft:
        model, chance = Denoiser(spec), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=chance), alpha=0.2)
        save_teacher(draft.path / WEIGHTS, spec, model.network.state_dict(), {"name": "unet", "class_names": list("0123456789")})
        draft.info = {"name": "unet", "class_names": list("0123456789")}
    train(home / "pairs", home / "student", student_settings(steps=2))
    return home


def student_settings(**options: Any) -> TrainSettings:
    usual = {"model": {"depth": 2, "width": 16, "heads": 2}, "loss": {"name": "l1"}, "batch": 8, "steps": 9, "sample_every": 0,
             "device": "cpu", "threads": 1}
    return resolve(TrainSettings, base=usual, options={k.replace("__", "."): v for k, v in options.items()})


def student(home: Path, **options: Any) -> Any:
    data, settings = PairSet.open(home / "pairs"), student_settings(**options)
    trainer = StudentTrainer(data, settings.model.spec(data.shape, data.classes), settings, CPU)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():  # off adaLN-Zero's zeros, so that every weight learns
        for p in trainer.trained.values():
            p.add_(torch.randn(p.shape, generator=chance), alpha=0.1)
    return trainer


def student_batches(trainer: Any) -> list[Any]:
    with trainer.batches(0, STEPS) as batches:
        return list(batches)


@pytest.mark.parametrize("options", [
    {}, {"loss__name": "l2"}, {"setup__name": "mi1"}, {"setup__name": "guided", "setup__student": "student"},
    {"setup__name": "ta", "setup__assistant": "student"}, {"setup__name": "ta", "setup__assistant": "student", "setup__feature": "mse"},
], ids=lambda o: " ".join(map(str, o.values())) or "get")
def test_every_setup_without_inner_steps_is_the_same_in_pieces(home: Path, options: dict[str, Any]) -> None:
    options = {k: str(home / v) if v == "student" else v for k, v in options.items()}
    whole, cut = student(home, **options), student(home, **options, micro_batch=3)
    a, b = stepped(whole, student_batches(whole)), stepped(cut, student_batches(cut))
    assert [s.loss.item() for s in b] == pytest.approx([s.loss.item() for s in a], rel=1e-4)
    assert all(b[0].logs[n].item() == pytest.approx(t.item(), rel=1e-4) for n, t in a[0].logs.items())
    fresh = student(home, **options, micro_batch=3)
    whole, cut = student(home, **options), fresh  # the first step's gradients, before AdamW makes their sign of them
    ga, gb = ({n: p.grad for n, p in t.trained.items()} for t in (whole, cut) if t.gradients(student_batches(t)[0], 0))
    for name, gradient in ga.items():
        if gradient is None:
            assert gb[name] is None
        else:
            assert torch.allclose(gb[name], gradient, rtol=1e-3, atol=1e-6), name


def test_a_setup_with_inner_steps_takes_its_batch_whole(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"setup__name": "dmd", "setup__teacher": str(home / "teacher"), "setup__any_teacher": True}
    with pytest.raises(UsageError, match=r"micro_batch: a setup that trains a network of its own[\s\S]*micro_batch=none"):
        student(home, **options, micro_batch=4)
    trainer = student(home, **options)
    before = state(trainer)
    monkeypatch.setattr(trainer.setup, "matching", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(MissingError, match=r"step of 8 images, and it cannot be taken in pieces[\s\S]*smaller --batch"):
        stepped(trainer, student_batches(trainer))
    assert all(torch.equal(t, before[n]) for n, t in state(trainer).items() if not n.startswith("own."))


def unet(dropout: float, **options: Any) -> UNetTrainer:
    base = {"data": "digits", "image": 8, "unet": {"width": 16, "multipliers": [1], "blocks": 1, "attention": [4], "patch": 1,
                                                   "dropout": dropout}, "batch": BATCH, "steps": 9, "device": "cpu", "threads": 1}
    data = load_data("digits", image=8)
    trainer = UNetTrainer(data, resolve(TeacherSettings, base=base, options=options), CPU)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a fresh network's last layers are zeros, behind which masks do not show
        for p in trainer.trained.values():
            p.add_(torch.randn(p.shape, generator=chance), alpha=0.05)
    return trainer


def first_step(trainer: UNetTrainer) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients."""
    loss = trainer.gradients(trainer.pick(0).to(CPU), 0)[0].item()
    return loss, {name: p.grad for name, p in trainer.trained.items() if p.grad is not None}


def test_a_teacher_is_the_same_in_pieces() -> None:
    (la, ga), (lb, gb) = (first_step(unet(0.0, **o)) for o in ({}, {"micro_batch": 4}))
    assert lb == pytest.approx(la, rel=1e-5) and ga.keys() == gb.keys() and ga
    assert [n for n in ga if not torch.allclose(gb[n], ga[n], rtol=1e-3, atol=1e-5)] == []


def test_with_dropout_pieces_have_other_masks_which_are_the_same_each_time() -> None:
    (whole, _), (cut, gradients), (again, same) = (first_step(unet(0.3, **o)) for o in ({}, {"micro_batch": 4}, {"micro_batch": 4}))
    assert abs(cut - whole) > 1e-4 * whole and cut == pytest.approx(whole, rel=0.5)
    assert again == cut and all(torch.equal(gradients[n], same[n]) for n in gradients)


def test_the_manifest_says_that_batches_were_taken_in_pieces(tmp_path: Path) -> None:
    settings = toy_settings(steps=2)
    assert "micro_batch" not in learn(tmp_path / "whole", settings).info
    assert "micro_batch" not in learn(tmp_path / "as many", toy_settings(steps=2, micro_batch=BATCH)).info
    assert learn(tmp_path / "told", toy_settings(steps=2, micro_batch=4)).info["micro_batch"] == 4
    assert learn(tmp_path / "short", settings, make=lambda: Toy(settings, most=3)).info["micro_batch"] == 3
    assert learn(tmp_path / "short", toy_settings(steps=4)).info["micro_batch"] == 3  # the first steps stay what they were


# --- pairs ------------------------------------------------------------------------------------------------------------------


def short_of_memory(most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The network holds `most` rows at a time; the sizes that it was asked for."""
    real, seen = NetworkTeacher._piece, []

    def piece(self: NetworkTeacher, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
        seen.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, x, sigma, labels)

    monkeypatch.setattr(NetworkTeacher, "_piece", piece)
    return seen


def test_pairs_are_the_same_in_pieces(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the rounding of sums: a value that lies on the edge of two grey levels may fall to the other side."""
    settings = PairSettings(teacher=str(home / "teacher"), count=40, shard_size=20, batch=20, steps=3, workers=1, device="cpu")
    make_pairs(tmp_path / "whole", settings)
    seen, said = short_of_memory(5, monkeypatch), []
    make_pairs(tmp_path / "short", settings, say=said.append)
    whole, short = (PairSet.open(tmp_path / n) for n in ("whole", "short"))
    apart = np.abs(whole.images(range(40)).astype(int) - short.images(range(40)))
    assert apart.max() <= 1 and (apart > 0).mean() < 1e-3 and (whole.labels(range(40)) == short.labels(range(40))).all()
    warnings = [e.text for e in said if e.level == "warning" and "memory" in e.text]
    assert len(warnings) == 2 and "pieces of 8 from here on" in warnings[0] and "pieces of 4" in warnings[1]
    assert seen[:3] == [16, 8, 4] and max(seen[3:]) == 4


def test_pairs_that_cannot_be_sampled_at_all_say_so(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(0, monkeypatch)
    settings = PairSettings(teacher=str(home / "teacher"), count=8, steps=2, workers=1, device="cpu")
    with pytest.raises(EdgeditError, match=r"teacher's network with even one image[\s\S]*finished shards are kept"):
        make_pairs(tmp_path / "o", settings)


def test_a_worker_process_passes_on_what_it_has_to_say() -> None:
    from multiprocessing import Pipe

    from edgedit.teach.workers import _listen

    here, there = Pipe()
    said: list[Event] = []
    there.send(("say", Event("memory", level="warning")))
    _listen(here, {}, [], lambda n: None, said.append)  # type: ignore[arg-type]
    assert said == [Event("memory", level="warning")]
