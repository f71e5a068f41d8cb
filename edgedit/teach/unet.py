"""A U-Net teacher being trained: EDM's loss over an image set that lies on the device whole."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedit.core.pairset import to_uint8
from edgedit.learn.ahead import Ahead
from edgedit.learn.logs import sample_inputs, save_grid
from edgedit.learn.order import DROPOUT, FLIPS, batch_indices, chosen, generator
from edgedit.learn.ranks import ALONE, Ranks
from edgedit.learn.state import Progress
from edgedit.learn.trainer import Trainer
from edgedit.model.denoiser import NO_CLASS, SIGMA_DATA, Denoiser, guided, loss_weight
from edgedit.model.teacher import KIND, WEIGHTS, save_teacher
from edgedit.model.unet import UNetSpec
from edgedit.teach.data import ImageSet
from edgedit.teach.sampler import heun, sigmas
from edgedit.teach.unet_settings import TeacherSettings

_SIGMA, _NOISE, _DROP = 0, 1, 2
"""Uses of a step's random numbers."""


@dataclass(frozen=True)
class Picks:
    """Which images one process sees in one step, and how."""

    rows: range
    """(B,): which rows of the whole batch, over all processes, are here."""
    indices: Tensor
    """int64 (B,): numbers in the data set."""
    flip: Tensor
    """bool (B,): mirrored."""
    drop: Tensor
    """bool (B,): taught without a class."""

    def to(self, device: torch.device) -> Picks:
        """The same on a device."""
        indices, flip, drop = (t.to(device, non_blocking=True) for t in (self.indices, self.flip, self.drop))
        return replace(self, indices=indices, flip=flip, drop=drop)


class UNetTrainer(Trainer[Denoiser]):
    """Denoiser and everything that changes with a step; a `learn.learner.Learner`.

    The images stay on the device as bytes (CIFAR-10: 154 MB), so that a step needs nothing from the host but indices.
    """

    kind, weights = KIND, WEIGHTS
    ends = ("_conv.", "map_label.", "map_augment.")

    def __init__(self, data: ImageSet, settings: TeacherSettings, device: torch.device, ranks: Ranks = ALONE,
                 init: dict[str, Tensor] | None = None) -> None:
        model = Denoiser(unet_spec(data, settings), seed=settings.seed % (1 << 63))
        if init is not None:
            model.network.load_state_dict(init)
        model = model.to(device).to(memory_format=torch.channels_last)
        super().__init__(model, settings, device, ranks)
        self.data, self.settings = data, settings
        self.images = torch.from_numpy(data.images).permute(0, 3, 1, 2).to(device)            # uint8 (N, C, S, S), channels last
        self.labels = torch.from_numpy(data.labels).to(device)                                # (N,)
        self.denoise = torch.compile(model) if settings.compile else model

    def batches(self, start: int, stop: int) -> AbstractContextManager[Iterable[Picks]]:
        """What this rank sees in steps start … stop-1."""
        return Ahead(self.pick, start, stop)

    def pick(self, step: int) -> Picks:
        """This rank's rows of one step."""
        s, rows = self.settings, self.ranks.rows(self.settings.batch)
        here = slice(rows.start, rows.stop)
        indices = batch_indices(s.seed, step, s.batch, len(self.data))[here]
        flip = chosen(s.seed, step, s.batch, 0.5 if s.flips else 0.0, FLIPS)[here]
        drop = chosen(s.seed, step, s.batch, s.label_dropout, DROPOUT)[here]
        return Picks(rows, *(torch.from_numpy(a) for a in (indices, flip, drop)))

    def loss(self, batch: Picks, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM's: E over σ, image, noise of λ(σ)·|D(image + σ·noise; σ) - image|², the mean over pixels (EDM equation 8, table 1).

        A step's numbers are those of its rows, however it is divided; masks of dropout are drawn for the rows taken together.
        """
        s, rows = self.settings, batch.rows
        clean = self.images[batch.indices].float() / 127.5 - 1                                # (B, C, S, S)
        clean = torch.where(batch.flip[:, None, None, None], clean.flip(3), clean)
        labels = torch.where(batch.drop, NO_CLASS, self.labels[batch.indices])
        level, noise = (self.normal(step, use, *shape)[rows.start : rows.stop] for use, shape in ((_SIGMA, ()), (_NOISE, clean.shape[1:])))
        sigma = (level * s.log_sigma_std + s.log_sigma_mean).exp()                            # (B,)
        if s.unet.dropout:
            first = rows.start - self.ranks.rows(s.batch).start                               # 0, but for later pieces of a divided batch
            chance = generator(s.seed, step * self.ranks.world + self.ranks.rank, torch.device("cpu"), _DROP + first)
            torch.manual_seed(int(chance.initial_seed()))
        denoised = self.denoise(clean + sigma[:, None, None, None] * noise, sigma, labels)
        error = (denoised - clean).square().mean((1, 2, 3))                                   # (B,)
        return (loss_weight(sigma) * error).mean(), {"mse": error.mean().detach()}

    def normal(self, step: int, use: int, *shape: int) -> Tensor:
        """Unit Gaussians (batch, *shape) of all ranks, on the device."""
        return torch.randn(self.settings.batch, *shape, generator=generator(self.settings.seed, step, self.device, use), device=self.device)

    def write(self, file: Path, progress: Progress) -> None:
        """The averaged weights."""
        save_teacher(file, self.model.spec, self.ema.model.network.state_dict(), self.info(progress))

    def spec(self) -> dict[str, int] | None:
        """None: the sizes are in `info`."""
        return None

    def loss_facts(self) -> dict[str, Any]:
        """EDM's loss with its noise distribution."""
        return {"name": "edm", "log_sigma_mean": self.settings.log_sigma_mean, "log_sigma_std": self.settings.log_sigma_std,
                "sigma_data": SIGMA_DATA}

    def info(self, progress: Progress) -> dict[str, Any]:
        """Facts of the network and its data."""
        spec, data = self.model.spec, self.data
        facts = {"name": data.name, "sha256": data.sha256, "images": len(data), "split": data.source.get("split")}
        return {"name": "unet", "label": f"unet {spec.parameters / 1e6:.1f}M/{data.name}", "unet": spec.to_dict(),
                "parameters": spec.parameters, "image": spec.image, "channels": spec.channels, "classes": spec.classes,
                "class_names": list(data.class_names), "sigma_data": SIGMA_DATA, "label_dropout": self.settings.label_dropout,
                "flips": self.settings.flips, "data": facts,
                "step": progress.step}

    @torch.no_grad()
    def sample(self, out: Path, step: int) -> None:
        """A row for each class, by the sampler that makes pairs."""
        spec = self.model.spec
        noise, labels = (torch.from_numpy(a).to(self.device) for a in sample_inputs((spec.channels, spec.image, spec.image), spec.classes))
        images = draw(self.ema.model, noise, labels, self.settings.sample_guidance)
        save_grid(out, step, to_uint8(images.cpu().numpy()), list(self.data.class_names)[: int(labels.max()) + 1])


def unet_spec(data: ImageSet, settings: TeacherSettings) -> UNetSpec:
    """Sizes of the network for a data set; UsageError when they do not fit."""
    channels, side, _ = data.shape
    return UNetSpec(**settings.unet.model_dump(), image=side, channels=channels, classes=len(data.class_names))


def draw(denoiser: Denoiser, noise: Tensor, labels: Tensor, guidance: float = 1.0, steps: int = 18) -> Tensor:
    """Images float64 (B, C, S, S) of a denoiser by EDM's sampler.

    Args:
        guidance: 1 is none; see `guided`.
    """

    def denoise(x: Tensor, sigma: float, labels: Tensor, /) -> Tensor:
        return guided(denoiser, x, torch.full((len(x),), sigma, device=x.device), labels, guidance)

    return heun(denoise, noise, sigmas(steps), labels)
