from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_kit import tiny, write_pairs
from safetensors.torch import load_file
from torch import Tensor, nn

from edgedit.core.artifact import create, open_artifact, seal
from edgedit.core.errors import ArtifactError, Interrupted, NumericsError, UsageError
from edgedit.core.pairset import PairSet
from edgedit.core.say import Event
from edgedit.core.settings import resolve
from edgedit.distill import TrainSettings, preset, train
from edgedit.distill.data import Batch, Batches
from edgedit.distill.setup import Context
from edgedit.distill.setups import dmd
from edgedit.learn.logs import METRICS, read_metrics
from edgedit.learn.ranks import ALONE, Ranks
from edgedit.model.denoiser import NO_CLASS, Denoiser
from edgedit.model.dit import DiT
from edgedit.model.teacher import KIND, WEIGHTS, save_teacher
from edgedit.model.unet import UNetSpec

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"width": 8, "multipliers": (1,), "blocks": 1, "attention": (), "image": 8, "channels": 1, "classes": 3}


def write_teacher(out: Path, *, seed: int = 1, label_dropout: float = 0.1, **sizes: Any) -> Path:
    """A teacher with random weights everywhere: a fresh one's last layer is nearly zero."""
    network = Denoiser(UNetSpec(**{**SIZES, **sizes}), seed=seed).network
    shaken(network, 0.1, seed)
    with create(out, KIND) as draft:
        save_teacher(draft.path / WEIGHTS, network.spec, network.state_dict(), {})
        draft.info = {"label": "tiny", "seed": seed, "label_dropout": label_dropout}
    return out


def shaken(module: nn.Module, std: float, seed: int = 0) -> None:
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(std * torch.randn(p.shape, generator=chance))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "teacher")


def options(teacher: Path, **more: Any) -> TrainSettings:
    names = {f"setup__{k}": v for k, v in more.items() if k in dmd.Options.model_fields}
    rest = {k: v for k, v in more.items() if k not in dmd.Options.model_fields}
    return tiny(**{"setup__name": "dmd", "setup__teacher": str(teacher), "setup__any_teacher": True, **names, **rest})


def build(pairs: Path, teacher: Path, ranks: Ranks = ALONE, **more: Any) -> tuple[dmd.Setup, DiT]:
    """A setup and its student, whose weights are random everywhere."""
    settings, data = options(teacher, **more), PairSet.open(pairs)
    model = DiT(settings.model.spec(data.shape, data.classes), seed=settings.seed)
    shaken(model, 0.05)
    return dmd.Setup(Context(settings, data, model.spec, model, CPU, ranks)), model


def batch_of(pairs: Path, step: int = 0, ranks: Ranks = ALONE, size: int = 8) -> Batch:
    return Batches(PairSet.open(pairs), size, 3, 0.1, ranks).make(step)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_the_noise_levels_are_those_of_the_publication():
    levels = dmd.noise_levels()
    assert levels.shape == (1000,) and bool((levels.diff() > 0).all())
    assert [levels[k].item() for k in (0, 20, 980, 999)] == pytest.approx([0.002, 0.00323, 72.05, 80], rel=1e-3)


def test_levels_and_classes_are_drawn_evenly_and_within_their_ends(pairs, teacher):
    setup, _ = build(pairs, teacher)
    batch = batch_of(pairs, size=9_000)
    drawn = torch.searchsorted(setup.sigma, setup.levels(batch, 0, setup.options.levels))
    assert (drawn.min().item(), drawn.max().item()) == (20, 980)
    assert drawn.float().mean().item() == pytest.approx(500, abs=15)
    everywhere = torch.searchsorted(setup.sigma, setup.levels(batch, 4, (0, 999)))
    assert (everywhere.min().item(), everywhere.max().item()) == (0, 999)
    seen: list[tuple[Tensor, Tensor]] = []

    def student(noise: Tensor, labels: Tensor) -> Tensor:
        seen.append((noise, labels))
        return noise

    setup.images(student, batch, 0)
    noise, classes = seen[0]
    assert noise.std().item() == pytest.approx(1, abs=0.01) and not torch.equal(noise, batch.noise)
    assert torch.bincount(classes, minlength=4).div(9_000).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.025)


def test_no_two_draws_of_a_step_are_the_same(pairs, teacher):
    setup, model = build(pairs, teacher, fake_updates=2)
    batch, uses = batch_of(pairs), []

    class Watched:
        step, noise, labels, images, indices = batch.step, batch.noise, batch.labels, batch.images, batch.indices

        def normal(self, use: int = 0) -> Tensor:
            uses.append(use)
            return batch.normal(use)

        def uniform(self, use: int = 0) -> Tensor:
            uses.append(use)
            return batch.uniform(use)

    setup.loss(model, Watched())  # type: ignore[arg-type]
    assert len(uses) == len(set(uses)) == 10


@pytest.mark.parametrize("weighting", ["dmd", "sigma", "sigma3"])
def test_the_gradient_of_the_matching_term_is_the_formula(pairs, teacher, weighting):
    setup, _ = build(pairs, teacher, weighting=weighting)
    shaken(setup.fake.network, 0.05)
    batch, classes = batch_of(pairs), torch.arange(8) % 3
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(5), requires_grad=True)
    loss, push = setup.matching(x, classes, batch)
    loss.backward()
    for i in range(8):
        k = 20 + int(batch.uniform(2)[i].item() * 961)
        sigma = (0.002 ** (1 / 7) + k / 999 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
        image = x.detach()[i : i + 1]
        s, c = torch.tensor([sigma]), classes[i : i + 1]
        noisy = image + sigma * batch.normal(3)[i : i + 1]
        with torch.no_grad():
            real, fake = setup.real(noisy, s, c), setup.fake.network(noisy, s, c)
        weight = {"dmd": 1 / ((image - real).abs().mean() + 1e-6), "sigma": 1 / sigma, "sigma3": sigma}[weighting]
        expected = weight * (fake - real)
        assert expected.abs().max() > 1e-4
        assert x.grad is not None
        torch.testing.assert_close(x.grad[i : i + 1] * x.numel(), expected, rtol=2e-3, atol=3e-7 + 1e-4 * float(expected.abs().max()))
    assert push.item() == pytest.approx((x.grad * x.numel()).abs().mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx(0.5 * ((x.grad * x.numel()) ** 2).mean().item(), rel=1e-4)


def test_the_teacher_is_guided_as_it_was_for_the_pairs(pairs, teacher, tmp_path):
    setup, _ = build(pairs, teacher)
    assert setup.guidance == 1.0
    data = PairSet.open(pairs)
    data.info["teacher"] = {**data.info["teacher"], "guidance": 2.5}
    artifact = open_artifact(teacher)
    assert dmd._guidance(options(teacher).setup, data, artifact) == 2.5
    assert dmd._guidance(options(teacher, guidance=1.25).setup, data, artifact) == 1.25

    setup, _ = build(pairs, teacher, guidance=3.0)
    assert setup.facts()["teacher_guidance"] == 3.0
    batch, x, classes = batch_of(pairs), torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(5)), torch.arange(8) % 3
    sigma = setup.levels(batch, 0, setup.options.levels)
    noisy = dmd.noised(x, sigma, batch.normal(3))
    with torch.no_grad():
        known, unknown = setup.real(noisy, sigma, classes), setup.real(noisy, sigma, torch.full_like(classes, NO_CLASS))
        g = dmd.matching_gradient(x, unknown + 3.0 * (known - unknown), setup.fake.network(noisy, sigma, classes), sigma)
    assert setup.matching(x, classes, batch)[1].item() == pytest.approx(g.abs().mean().item(), rel=1e-4)

    unsure = write_teacher(tmp_path / "t", label_dropout=0)
    with pytest.raises(UsageError, match="was never asked without a class"):
        build(pairs, unsure, guidance=2.0)


def test_where_fake_equals_real_nothing_is_pushed(pairs, teacher):
    setup, model = build(pairs, teacher, regression=0)
    loss, logs = setup.loss(model, batch_of(pairs))
    loss.backward()
    assert loss.item() == 0 and logs["dm_gradient"].item() == 0 and logs["fake"].item() > 0
    assert all(float(g.abs().max()) == 0 for g in gradients(model).values())
    assert setup.facts() == {"name": "none", "regression": 0}


def gaussian(mean: Any, std: Any):
    """The denoiser of pixels that are N(mean, std²), in closed form."""

    def denoise(x: Tensor, sigma: Tensor, classes: Tensor) -> Tensor:
        noise = sigma[:, None, None, None] ** 2
        return (std**2 * x + noise * mean) / (std**2 + noise)

    return denoise


@pytest.mark.parametrize("weighting", ["dmd", "sigma"])
def test_descent_brings_a_generator_to_the_teachers_distribution(pairs, teacher, weighting):
    setup, _ = build(pairs, teacher, weighting=weighting)
    mean, spread = nn.Parameter(torch.tensor(-0.8)), nn.Parameter(torch.tensor(0.9))
    adam = torch.optim.Adam([mean, spread], 0.03)
    setup.ask_real = gaussian(0.5, 0.3)  # type: ignore[assignment]
    for step in range(120):
        setup.fake.ask = gaussian(mean.detach(), spread.detach())  # type: ignore[assignment]
        batch = batch_of(pairs, step, size=32)
        images, classes = setup.images(lambda noise, _: mean + spread * noise, batch, 0)
        loss, _ = setup.matching(images, classes, batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step == 0:
            assert mean.item() > -0.8 and spread.item() < 0.9
    assert (mean.item(), spread.item()) == pytest.approx((0.5, 0.3), abs=0.08)


def test_each_term_alone_reaches_all_of_the_student(pairs, teacher):
    found = {}
    for name, weight in (("dm", 0.0), ("both", 0.25), ("more", 0.5)):
        setup, model = build(pairs, teacher, regression=weight)
        shaken(setup.fake.network, 0.05)
        loss, logs = setup.loss(model, batch_of(pairs))
        loss.backward()
        found[name] = gradients(model)
        assert set(logs) == {"dm", "dm_gradient", "fake"} | ({"regression"} if weight else set())
    regression = {n: (found["more"][n] - found["both"][n]) / 0.25 for n in found["both"]}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(found["dm"]) == trained
    for part in (found["dm"], regression):
        assert all(float(part[n].abs().max()) > 0 for n in trained if n != "label.weight")
    batch = batch_of(pairs)
    model.zero_grad()
    assert setup.metric is not None
    setup.metric(model(batch.noise, batch.labels), batch.images).backward()
    for name, expected in gradients(model).items():
        assert torch.allclose(regression[name], expected, atol=2e-5), name


def test_the_fake_learns_and_touches_neither_student_nor_teacher(pairs, teacher):
    setup, model = build(pairs, teacher, fake_lr=2e-3, fake_grad_clip="none")
    images, classes = torch.linspace(-0.9, 0.9, 8)[:, None, None, None].expand(8, 1, 8, 8), torch.arange(8) % 3
    batch = batch_of(pairs)
    before = {n: p.clone() for n, p in [*model.named_parameters(), *setup.real.named_parameters()]}
    sigma = setup.levels(batch, 4, (0, 999))
    losses = [setup.fake.learn(images, classes, sigma, batch.normal(5), step).item() for step in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    loss, _ = setup.loss(model, batch)
    assert not gradients(model)
    assert not any(p.requires_grad or p.grad is not None for p in setup.real.parameters())
    loss.backward()
    after = dict([*model.named_parameters(), *setup.real.named_parameters()])
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    assert gradients(model) and not any(p.grad is not None for p in setup.real.parameters())


def test_the_first_loss_of_the_fake_is_edms(pairs, teacher):
    setup, model = build(pairs, teacher)
    batch = batch_of(pairs)
    with torch.no_grad():
        images, classes = setup.images(model, batch, 0)
        sigma = setup.levels(batch, 4, (0, 999))
        s = sigma[:, None, None, None]
        off = setup.real(images + s * batch.normal(7), sigma, classes) - images
        expected = ((s**-2 + 1 / 0.25) * off**2).mean()
    assert setup.loss(model, batch)[1]["fake"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_dropout_in_either_denoiser(pairs, tmp_path):
    setup, model = build(pairs, write_teacher(tmp_path / "teacher", dropout=0.9), regression=0)
    assert setup.loss(model, batch_of(pairs))[1]["dm_gradient"].item() == 0


def test_clipping_and_warm_up_of_the_fake(pairs, teacher):
    setup, _ = build(pairs, teacher, fake_grad_clip=1e-3, fake_warmup_steps=10, fake_lr=1.0)
    batch = batch_of(pairs)
    setup.fake.learn(batch.images, batch.classes, setup.levels(batch, 4, (0, 999)), batch.normal(5), 3)
    norm = torch.stack([p.grad.norm() for p in setup.fake.parameters.values() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert setup.fake.optimizer.param_groups[0]["lr"] == pytest.approx(0.4)


def test_bfloat16_serves_no_stale_weights_after_an_update(pairs, teacher):
    setup, model = build(pairs, teacher, precision="bf16", fake_lr=0.1)
    batch, one = batch_of(pairs), torch.ones(8)
    with torch.autocast("cpu", torch.bfloat16):
        with setup.fake.cast():
            before = setup.fake.ask(batch.noise, one, batch.classes)
        loss, _ = setup.loss(model, batch)
        with setup.fake.cast():
            after = setup.fake.ask(batch.noise, one, batch.classes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after, setup.fake.ask(batch.noise, one, batch.classes))
    assert not torch.equal(before, after)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in setup.fake.parameters.values())
    loss.backward()
    assert gradients(model)


@dataclass(frozen=True)
class Together(Ranks):
    """Ranks as threads of one process."""

    meet: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    desk: dict[int, list[Tensor]] = field(default_factory=dict)

    def average(self, tensors: Any) -> None:
        self.desk[self.rank] = [t.detach().clone() for t in tensors]
        self.meet.wait(60)
        means = [(a + b) / 2 for a, b in zip(*(self.desk[r] for r in range(2)), strict=True)]
        self.meet.wait(60)
        for t, mean in zip(tensors, means, strict=True):
            t.copy_(mean)


def test_two_ranks_draw_the_rows_of_one_and_their_fakes_stay_equal(pairs, teacher):
    alone, student = build(pairs, teacher, fake_updates=2)
    meet, desk = threading.Barrier(2), {}
    two = [Together(r, 2, r, meet, desk) for r in range(2)]
    made = [build(pairs, teacher, ranks, fake_updates=2) for ranks in two]
    images, classes = alone.images(student, batch_of(pairs), 0)
    parts = [setup.images(model, batch_of(pairs, ranks=ranks), 0) for ranks, (setup, model) in zip(two, made, strict=True)]
    assert torch.equal(torch.cat([c for _, c in parts]), classes)
    assert torch.allclose(torch.cat([x for x, _ in parts]), images, atol=1e-6)

    losses: dict[int, float] = {}

    def work(rank: int) -> None:
        for step in range(3):
            losses[rank] = made[rank][0].loss(made[rank][1], batch_of(pairs, step, two[rank]))[0].item()

    threads = [threading.Thread(target=work, args=(r,)) for r in range(2)]
    for thread in threads:
        thread.start()
    for step in range(3):
        whole = alone.loss(student, batch_of(pairs, step))[0].item()
    for thread in threads:
        thread.join(60)
    assert sum(losses.values()) / 2 == pytest.approx(whole, rel=1e-3)
    first, second, one = (s.fake.state_dict() for s in (made[0][0], made[1][0], alone))
    start = build(pairs, teacher)[0].fake.state_dict()
    assert all(torch.equal(t, second[n]) for n, t in first.items())
    moved = [n for n, t in start.items() if float((one[n] - t).abs().max()) > 1e-4]
    assert moved
    for name in moved:
        assert torch.allclose(first[name], one[name], atol=1e-5), name


def stop_at(step: int):
    import signal

    def say(event: Event) -> None:
        if event.done == step:
            signal.raise_signal(signal.SIGTERM)

    return say


def everything(out: Path) -> dict[str, Tensor]:
    last = sorted((out / "state").glob("step-*"))[-1]
    return {**load_file(last / "state.safetensors"), **{f"student.{n}": t for n, t in load_file(out / "student.safetensors").items()}}


@pytest.mark.parametrize("more", [{}, {"precision": "bf16", "fake_updates": 2, "fake_warmup_steps": 4}])
def test_a_stopped_run_goes_on_bit_for_bit_with_its_fake(pairs, teacher, tmp_path, more):
    settings = options(teacher, steps=8, log_every=1, checkpoint_every=3, fake_lr=1e-3, **more)
    manifest = train(pairs, tmp_path / "whole", settings)
    with pytest.raises(Interrupted, match="after step 5"):
        train(pairs, tmp_path / "stopped", settings, say=stop_at(4))
    train(pairs, tmp_path / "stopped", settings)
    whole, stopped = everything(tmp_path / "whole"), everything(tmp_path / "stopped")
    assert whole.keys() == stopped.keys() and all(torch.equal(t, stopped[n]) for n, t in whole.items())
    assert sum(n.startswith("own.fake.") for n in whole) * 4 == sum(n.startswith("own.fake") for n in whole) > 0
    start = load_file(teacher / WEIGHTS)
    assert all(not torch.equal(whole[f"own.fake.network.{n}"], t) for n, t in start.items())
    assert [(p.role, p.digest) for p in manifest.parents][1] == ("teacher", open_artifact(teacher).manifest.digest)
    assert manifest.info["loss"] == {"name": "l1", "regression": 0.25}
    last = read_metrics(tmp_path / "whole" / METRICS)[-1]
    assert last["loss"] == pytest.approx(last["dm"] + 0.25 * last["regression"], rel=1e-5)
    assert last["fake"] > 0 and last["dm_gradient"] > 0


def test_a_checkpoint_of_another_network_is_refused(pairs, teacher, tmp_path):
    setup, model = build(pairs, teacher)
    setup.loss(model, batch_of(pairs))
    state = {n: t.clone() for n, t in setup.state_dict().items()}
    again, _ = build(pairs, teacher)
    again.load_state_dict(state)
    assert all(torch.equal(t, state[n]) for n, t in again.state_dict().items())
    other, _ = build(pairs, write_teacher(tmp_path / "wide", width=16))
    with pytest.raises(ArtifactError, match="does not fit"):
        other.load_state_dict(state)
    state.pop(next(n for n in state if n.startswith("fake.")))
    with pytest.raises(ArtifactError, match="does not fit"):
        again.load_state_dict(state)


def test_a_fake_that_is_not_finite_stops_the_run(pairs, teacher, tmp_path):
    with pytest.raises(NumericsError, match="not finite at step"):
        train(pairs, tmp_path / "run", options(teacher, fake_lr=1e30, fake_grad_clip="none"))


def test_pairs_of_another_teacher_are_refused_by_name(pairs, teacher, tmp_path):
    settings = options(teacher, any_teacher=False, steps=1)
    digest = open_artifact(teacher).manifest.digest
    weights = open_artifact(teacher).manifest.files[WEIGHTS]["sha256"]
    with pytest.raises(UsageError, match=rf"another teacher[\s\S]*unknown, digest none[\s\S]*{digest[:12]}[\s\S]*any_teacher=true"):
        train(pairs, tmp_path / "run", settings)
    strange = {"teacher": "unet", "digest": "ab" * 32}
    for k, (named, fits) in enumerate([({"digest": digest}, True), ({**strange, "weights_sha256": weights}, True), (strange, False)]):
        copy = shutil.copytree(pairs, tmp_path / f"pairs{k}")
        m = open_artifact(copy).manifest
        seal(copy, "pairs", m.files, info={**m.info, "teacher": named})
        if fits:
            assert train(copy, tmp_path / f"fits{k}", settings).info["complete"]
        else:
            with pytest.raises(UsageError, match=r"unet, digest abababababab"):
                train(copy, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("sizes", "said"), [({"classes": 4}, "classes"), ({"image": 16}, "image"), ({"channels": 3}, "channels")])
def test_a_teacher_of_other_sizes_is_refused(pairs, tmp_path, sizes, said):
    with pytest.raises(UsageError, match=rf"does not fit the pairs: {said}\n"):
        train(pairs, tmp_path / "run", options(write_teacher(tmp_path / "other", **sizes)))
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_named(pairs, tmp_path):
    with pytest.raises(UsageError, match=r"needs a teacher network[\s\S]*setup.teacher=FOLDER"):
        train(pairs, tmp_path / "run", tiny(setup__name="dmd"))
    with pytest.raises(ArtifactError, match="edgedit teacher train"):
        train(pairs, tmp_path / "run", options(tmp_path / "nothing"))
    with pytest.raises(ArtifactError, match="pairs"):
        train(pairs, tmp_path / "run", options(write_pairs(tmp_path / "p")))
    for wrong in ("setup.regression=-1", "setup.levels=[1,1000]", "setup.levels=[9,3]", "setup.fake_updates=0", "setup.weighting=x"):
        with pytest.raises(UsageError, match=wrong.partition("=")[0]):
            resolve(TrainSettings, base=preset("dmd"), sets=[wrong])


def test_the_preset_has_the_published_values():
    s = resolve(TrainSettings, base=preset("dmd"), sets=["setup.teacher=t"])
    o = s.setup
    assert isinstance(o, dmd.Options)
    assert (o.regression, o.fake_lr, o.fake_betas, o.fake_weight_decay, o.fake_updates) == (0.25, 5e-5, (0.9, 0.999), 0.01, 1)
    assert (o.levels, o.weighting, o.fake_grad_clip, o.fake_warmup_steps) == ((20, 980), "dmd", 10, 500)
    assert (s.optimizer.grad_clip, s.optimizer.warmup_steps, s.loss.name) == (10, 500, "lpips")
    assert s.model.spec((3, 32, 32), 10).parameters == 1_900_812
