from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgedit.core.artifact import open_artifact
from edgedit.core.errors import ArtifactError, Interrupted, UsageError
from edgedit.core.say import Event
from edgedit.core.settings import resolve
from edgedit.learn.logs import METRICS, read_metrics
from edgedit.learn.ranks import Ranks
from edgedit.model.teacher import WEIGHTS, load_teacher
from edgedit.teach.data import ImageSet
from edgedit.teach.sample import sample_grid
from edgedit.teach.unet import UNetTrainer, draw
from edgedit.teach.unet_settings import TeacherSettings, unet_preset, unet_presets
from edgedit.teach.unet_training import train_teacher

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "data": "digits", "image": 8, "unet": {"width": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4], "patch": 1}, "batch": 16,
    "steps": 12, "log_every": 3, "checkpoint_every": 4, "sample_every": 0, "device": "cpu", "threads": 1, "flips": False,
    "optimizer": {"lr": 3e-3, "warmup_steps": 0},
}


def tiny(**options: Any) -> TeacherSettings:
    return resolve(TeacherSettings, base=TINY, options={k.replace("__", "."): v for k, v in options.items()})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / WEIGHTS)


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(one[n].equal(two[n]) for n in one)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unet") / "teacher"
    train_teacher(out, tiny())
    return out


def one_class(value: int, n: int = 8) -> ImageSet:
    images = np.full((n, 8, 8, 1), value, np.uint8)
    return ImageSet("flat", images, np.zeros(n, np.int64), ("flat",))


def test_a_teacher_of_one_grey_learns_to_draw_it() -> None:
    """The whole of it at once: loss, weighting, preconditioning and sampler agree, or the grey is another one."""
    settings = tiny(unet__multipliers=[1], unet__width=8, batch=32, optimizer__lr=1e-2, ema_decay=0.9, log_sigma_std=2.0,
                    log_sigma_mean=0.0)
    trainer = UNetTrainer(one_class(191), settings, CPU)
    for step in range(150):
        trainer.step(trainer.pick(step), step, 1e-2)
    images = draw(trainer.ema.model, torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    assert abs(float(images.mean()) - (191 / 127.5 - 1)) < 0.05
    assert float(images.std()) < 0.1


def test_the_loss_at_the_start_is_about_one_and_falls(taught: Path) -> None:
    losses = [line["loss"] for line in read_metrics(taught / METRICS)]
    first = UNetTrainer(one_class(127), tiny(batch=512), CPU)
    assert 0.5 < float(first.loss(first.pick(0), 0)[0].detach()) < 1.5
    assert losses[-1] < losses[0]


def test_a_stop_and_a_resume_equal_an_uninterrupted_run(taught: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher"

    def stop(event: Event) -> None:
        if event.done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train_teacher(out, tiny(log_every=1), say=stop)
    assert open_artifact(out, "teacher").manifest.info["step"] == 6
    train_teacher(out, tiny())
    assert same(out, taught)
    train_teacher(tmp_path / "other", tiny(seed=1))
    assert not same(out, tmp_path / "other")


def test_dropout_is_the_same_after_a_resume(tmp_path: Path) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    options = {"unet__dropout": 0.3, "steps": 6, "checkpoint_every": 3}
    train_teacher(straight, tiny(**options))
    train_teacher(cut, tiny(**{**options, "steps": 3}))
    torch.manual_seed(99)
    train_teacher(cut, tiny(**options))
    assert same(straight, cut)


def test_what_a_rank_sees_is_its_part_of_the_whole() -> None:
    settings = tiny(batch=8, flips=True, label_dropout=0.5)
    data = one_class(10, 40)
    whole = UNetTrainer(data, settings, CPU).pick(3)
    parts = [UNetTrainer(data, settings, CPU, Ranks(r, 2)).pick(3) for r in range(2)]
    for name in ("indices", "flip", "drop"):
        assert torch.cat([getattr(p, name) for p in parts]).equal(getattr(whole, name))
    assert 0 < int(whole.flip.sum()) < 8


def test_half_the_images_are_mirrored_where_asked() -> None:
    picks = [UNetTrainer(one_class(10, 40), tiny(batch=400, flips=flips), CPU).pick(0).flip.float().mean() for flips in (True, False)]
    assert abs(float(picks[0]) - 0.5) < 0.1 and picks[1] == 0


def test_the_manifest_says_what_it_learnt_from(taught: Path) -> None:
    denoiser, artifact = load_teacher(taught)
    info = artifact.manifest.info
    assert info["name"] == "unet" and info["complete"] and info["label_dropout"] == 0.1
    assert info["data"]["name"] == "digits" and len(info["data"]["sha256"]) == 64
    assert info["parameters"] == sum(p.numel() for p in denoiser.parameters())
    assert not denoiser.training and not any(p.requires_grad for p in denoiser.parameters())


def test_other_data_do_not_go_on(taught: Path) -> None:
    with pytest.raises(UsageError, match="other settings"):
        train_teacher(taught, tiny(image=16))


def test_a_teacher_with_a_changed_byte_is_refused(taught: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "teacher"
    shutil.copytree(taught, copy)
    file = copy / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="altered"):
        load_teacher(copy)


def test_a_warm_start_takes_the_weights_of_a_teacher_of_the_same_sizes(taught: Path, tmp_path: Path) -> None:
    train_teacher(tmp_path / "next", tiny(steps=1, optimizer__lr=1e-9, ema_decay=0.0), init=taught)
    before, after = weights(taught), weights(tmp_path / "next")
    assert max(float((before[n] - after[n]).abs().max()) for n in before) < 1e-6
    assert [p.role for p in open_artifact(tmp_path / "next").manifest.parents] == ["data", "init"]
    with pytest.raises(UsageError, match=r"another design(.|\n)*width"):
        train_teacher(tmp_path / "wide", tiny(unet__width=24), init=taught)


def test_sampling_writes_a_picture_and_guidance_needs_dropped_labels(taught: Path, tmp_path: Path) -> None:
    facts = sample_grid(taught, tmp_path / "grid.png", count=12, steps=4, guidance=2.0, device="cpu")
    picture, note = (tmp_path / "grid.png").read_bytes(), json.loads((tmp_path / "grid.png.json").read_text())
    assert facts["count"] == 12 and picture.startswith(b"\x89PNG")
    assert note["file"] == {"bytes": len(picture), "sha256": hashlib.sha256(picture).hexdigest()}
    assert note["request"] == {"teacher": open_artifact(taught).manifest.digest, "seed": 0, "count": 12, "guidance": 2.0, "steps": 4,
                               "rule": "classes in turn, then sorted by class"}
    train_teacher(tmp_path / "plain", tiny(steps=1, label_dropout=0.0))
    with pytest.raises(UsageError, match="guidance"):
        sample_grid(tmp_path / "plain", tmp_path / "no.png", count=2, steps=2, guidance=2.0, device="cpu")


def test_guidance_is_a_combination_of_two_answers(taught: Path) -> None:
    denoiser, _ = load_teacher(taught)
    noise, labels = torch.randn(3, 1, 8, 8), torch.tensor([1, 5, 7])
    plain, pushed = (draw(denoiser, noise, labels, g, steps=3) for g in (1.0, 3.0))
    assert float((plain - pushed).abs().max()) > 1e-3
    assert torch.allclose(draw(denoiser, noise, labels, 1.0 + 1e-7, steps=3), plain, atol=1e-4)


@pytest.mark.parametrize("name", sorted(unet_presets()))
def test_every_preset_is_valid_and_its_size_is_what_it_says(name: str) -> None:
    from edgedit.model.unet import UNetSpec

    settings = resolve(TeacherSettings, base=unet_preset(name))
    digits = settings.data == "digits"
    spec = UNetSpec(**settings.unet.model_dump(), image=16 if digits else 32, channels=1 if digits else 3)
    assert unet_presets()[name]["about"].startswith(f"{spec.parameters / 1e6:.1f}M parameters")


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unet-small"):
        unet_preset("unet-smal")
