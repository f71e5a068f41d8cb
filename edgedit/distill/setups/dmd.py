"""Setup DMD: distribution matching distillation (Yin et al. 2024; science.md §7). L = L_DM + λ·metric(teacher, student).

Two denoisers look at an image that the student made of fresh noise, noised again: the frozen teacher ("real"), and a copy of it
that is trained all along on the student's images ("fake"). Where they differ, the student's distribution differs from the
teacher's, and L_DM pushes the image against the difference. The second term is GET's, on the stored pairs: without it the
student drops modes (FID 5.58 instead of 2.66 in the publication).

The student is fed unit noise; only the denoisers see noise levels. Images of the DM term always have a class, each as often as
the next: a class-conditional teacher knows no distribution without one. Guidance's unconditional branch learns from the
regression term alone, whose labels are dropped as ever (`label_dropout`).

What it costs, with P parameters in the teacher: a step is two forward passes without gradients and one pass forward and
backward of the U-Net, beside the student's own. Memory: 4 bytes·P frozen, 16 bytes·P for the fake (weights, gradients, two
moments): 1.1 GB for the 55.7M of EDM. The fake's pass keeps activations, for EDM's network 121 MB an image in float32, 62 MB
with `precision=bf16`: 16 GB for 256 images. Every checkpoint holds 12 bytes·P of the fake, 0.67 GB for EDM's (`keep_last`).
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from edgedit.core.artifact import Artifact, Parent, open_artifact
from edgedit.core.errors import UsageError
from edgedit.core.pairset import PairSet
from edgedit.distill.data import Batch
from edgedit.distill.losses import Loss, make_loss
from edgedit.distill.setup import BaseSetup, Context, SetupSettings, Student
from edgedit.learn.settings import Optional
from edgedit.learn.state import fill, make_room, moments
from edgedit.model.denoiser import Denoiser, guided, loss_weight
from edgedit.model.teacher import KIND, MAKE, WEIGHTS, load_teacher

LEVELS = 1000
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
EPS = 1e-6
_IMAGE, _CLASS, _LEVEL, _NOISE = range(4)  # uses of a batch's randomness; update k of the fake adds 4·(k + 1)
_USES = 4

Index = Annotated[int, Field(ge=0, lt=LEVELS)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Options(SetupSettings):
    """The publication's values, but for the warm-up (500 steps there, as in the preset)."""

    name: Literal["dmd"] = "dmd"
    teacher: Path | None = None
    """Folder of kind "teacher": the real denoiser, and where the fake one starts. Needed."""
    any_teacher: bool = False
    """Allow pairs that another teacher made."""
    guidance: Annotated[float | None, Optional] = Field(default=None, ge=0)
    """Of the teacher in the DM term; None: the pairs' own, so that both terms pull to the same images. Other than 1 it doubles the
    teacher's work. (DMD's CIFAR-10 runs had none; its text-to-image ones 8.)"""
    regression: float = Field(default=0.25, ge=0)
    """λ: weight of `loss` on the pairs."""
    levels: tuple[Index, Index] = (20, 980)
    """First and last of the 1000 noise levels that the DM term draws from; the fake learns all of them."""
    weighting: Literal["dmd", "sigma", "sigma3"] = "dmd"
    """w of equation 7: equation 8, σ or σ³ (DMD's table 2: FID 2.66, 3.60, 3.71)."""
    fake_updates: int = Field(default=1, ge=1)
    """Steps of the fake for each of the student's; each after the first sees fresh images."""
    fake_lr: float = Field(default=5e-5, gt=0)
    fake_betas: tuple[Beta, Beta] = (0.9, 0.999)
    fake_weight_decay: float = Field(default=0.01, ge=0)
    fake_warmup_steps: int = Field(default=0, ge=0)
    fake_grad_clip: Annotated[PositiveFloat | None, Optional] = 10.0

    @model_validator(mode="after")
    def _check(self) -> Options:
        if self.levels[0] > self.levels[1]:
            raise UsageError("setup.levels must be a first and a last level", saw=list(self.levels), fix="--set setup.levels=[20,980]")
        return self


class Setup(BaseSetup):
    """The student's images are pushed to where the teacher finds them likelier, and pulled to their pairs."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.options = cast(Options, context.settings.setup)
        settings, spec, device = context.settings, context.spec, context.device
        self.real, artifact = load_teacher(_folder(self.options), device)
        _check_sizes(self.real, context)
        self.guidance = _guidance(self.options, context.data, artifact)
        self.real.to(memory_format=torch.channels_last)
        self.fake = Fake(self.real, self.options, context)
        self.ask_real = torch.compile(self.real) if settings.compile else self.real
        self.metric: Loss | None = None
        if self.options.regression:
            self.metric = make_loss(settings.loss, spec, device, compiled=settings.compile, say=context.say)
        self.sigma = noise_levels().to(device)

    @classmethod
    def parents(cls, options: Options, data: PairSet) -> tuple[Parent, ...]:
        """The teacher; UsageError when the pairs are another's."""
        artifact = open_artifact(_folder(options), KIND, fix=MAKE)
        named, digest = data.info.get("teacher") or {}, artifact.manifest.digest
        weights = artifact.manifest.files[artifact.file(WEIGHTS).name]["sha256"]
        same = named.get("digest") == digest or named.get("weights_sha256") == weights
        if not same and not options.any_teacher:
            theirs = f"{named.get('teacher', 'unknown')}, digest {str(named.get('digest', 'none'))[:12]}"
            raise UsageError(f"{data.artifact.path} was made by another teacher than setup.teacher",
                             saw=f"pairs: {theirs}; {artifact.path}: digest {digest[:12]}",
                             fix=f"edgedit pairs --teacher {artifact.path} makes its pairs; --set setup.any_teacher=true allows others")
        return (artifact.as_parent("teacher"),)

    def loss(self, student: Student, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_DM + λ·regression, after which the fake has taken its step on the same images."""
        images, classes = self.images(student, batch, 0)
        loss, push = self.matching(images, classes, batch)
        logs = {"dm": loss.detach(), "dm_gradient": push}
        if self.metric is not None:
            regression = self.metric(student(batch.noise, batch.labels), self.metric.features(batch.images, batch.indices))
            loss = loss + self.options.regression * regression
            logs["regression"] = regression.detach().float()
        for k in range(self.options.fake_updates):
            if k:
                with torch.no_grad():
                    images, classes = self.images(student, batch, k)
            uses = _USES * (k + 1)
            sigma = self.levels(batch, uses, (0, LEVELS - 1))
            logs["fake"] = self.fake.learn(images.detach(), classes, sigma, batch.normal(uses + _NOISE), batch.step)
        return loss + 0 * logs["fake"], logs                                              # a fake gone NaN stops the run

    def images(self, student: Student, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        """Images float32 (B, C, S, S) of fresh noise and uniform classes int64 (B,)."""
        classes = choose(batch.uniform(_USES * k + _CLASS), self.context.spec.classes)
        return student(batch.normal(_USES * k + _IMAGE), classes).float(), classes

    def matching(self, x: Tensor, classes: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """L_DM = ½·mean (x - sg(x - g))², whose gradient with respect to x is g over the number of values; and mean |g|."""
        with torch.no_grad():
            sigma = self.levels(batch, 0, self.options.levels)                            # (B,)
            noisy = noised(x, sigma, batch.normal(_NOISE))                                # (B, C, S, S)
            with self.fake.cast():
                real = guided(self.ask_real, noisy, sigma, classes, self.guidance)
                fake = self.fake.ask(noisy, sigma, classes)
            g = matching_gradient(x, real, fake, sigma, self.options.weighting)
        return 0.5 * F.mse_loss(x, (x - g).detach()), g.abs().mean()

    def levels(self, batch: Batch, uses: int, ends: tuple[int, int]) -> Tensor:
        """σ (B,), each of the levels between `ends`, both included, as likely as the next."""
        first, last = ends
        return self.sigma[first + choose(batch.uniform(uses + _LEVEL), last - first + 1)]

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and moments of the fake."""
        return self.fake.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.fake.load_state_dict(state)

    def facts(self) -> dict[str, Any]:
        """The metric of the regression term, its weight, and the guidance of the other, if any."""
        metric = self.metric.facts() if self.metric is not None else {"name": "none"}
        return {**metric, "regression": self.options.regression, **({"teacher_guidance": self.guidance} if self.guidance != 1 else {})}


class Fake:
    """The denoiser of the student's own images: begins as the teacher (in eval mode: no dropout), learns by EDM's loss."""

    def __init__(self, teacher: Denoiser, options: Options, context: Context) -> None:
        self.options, self.ranks, self._device = options, context.ranks, context.device
        self.network = copy.deepcopy(teacher).requires_grad_(True)
        self.ask = torch.compile(self.network) if context.settings.compile else self.network
        self.parameters = dict(self.network.named_parameters())
        self.optimizer = torch.optim.AdamW(self.parameters.values(), options.fake_lr, options.fake_betas,
                                           weight_decay=options.fake_weight_decay, fused=True)
        self._bf16 = context.settings.precision == "bf16"

    def cast(self) -> AbstractContextManager[object]:
        """The run's precision, without autocast's cache: weights that it cast before an update would serve the pass after."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False)

    def learn(self, images: Tensor, classes: Tensor, sigma: Tensor, noise: Tensor, step: int) -> Tensor:
        """One update over all ranks; returns this rank's loss, mean of λ(σ)·(D(x + σn; σ, class) - x)²."""
        o = self.options
        with torch.autocast(self._device.type, enabled=False):
            with self.cast():
                found = self.ask(noised(images, sigma, noise), sigma, classes)            # (B, C, S, S)
            loss = (loss_weight(sigma)[:, None, None, None] * (found - images) ** 2).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.ranks.average([p.grad for p in self.parameters.values() if p.grad is not None])
        if o.fake_grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), o.fake_grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = o.fake_lr * min(1.0, (step + 1) / max(1, o.fake_warmup_steps))
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """ "fake.NAME" and "fake_optimizer.NAME.KEY"."""
        return {**{f"fake.{n}": p.detach() for n, p in self.parameters.items()},
                **{f"fake_optimizer.{n}": t for n, t in moments(self.optimizer, self.parameters).items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`; ArtifactError when names or shapes do not fit."""
        prefix = "fake_optimizer."
        make_room(self.optimizer, self.parameters, {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
        fill(self.state_dict(), state, "setup.teacher: its fake network is another")


def noise_levels() -> Tensor:
    """float32 (1000,), ascending: Karras levels from 0.002 to 80, ρ = 7 (EDM equation 5, the other way round)."""
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return ((low + torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1) * (high - low)) ** RHO).float()


def noised(x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """x + σ·noise."""
    return x + sigma[:, None, None, None] * noise


def choose(uniform: Tensor, count: int) -> Tensor:
    """[0, 1) → int64 0 … count - 1."""
    return (uniform.double() * count).long()


def matching_gradient(x: Tensor, real: Tensor, fake: Tensor, sigma: Tensor, weighting: str = "dmd") -> Tensor:
    """g of DMD's equation 7: what x should be moved against; float32 (B, C, S, S).

    The scores differ by (fake - real)/σ². Times w = σ²/mean|x - real| (equation 8, an image at a time) that is scaled to the
    distance that the teacher sees; σ and σ³ are the weightings of earlier work (table 2).

    Args:
        x: images of the student, float32 (B, C, S, S).
        real, fake: what the two denoisers make of x + σ·noise.
        sigma: (B,).
    """
    distance = (x - real).abs().mean((1, 2, 3)) + EPS                                     # (B,)
    weight = {"dmd": 1 / distance, "sigma": 1 / sigma, "sigma3": sigma}[weighting]
    return torch.nan_to_num(weight[:, None, None, None] * (fake - real))


def _folder(options: Options) -> Path:
    if options.teacher is None:
        raise UsageError("setup 'dmd' needs a teacher network", fix=f"--set setup.teacher=FOLDER; {MAKE}")
    return options.teacher


def _guidance(options: Options, data: PairSet, teacher: Artifact) -> float:
    """The DM term's; UsageError where the teacher was never asked without a class."""
    pairs = float((data.info.get("teacher") or {}).get("guidance", 1.0))
    guidance = pairs if options.guidance is None else options.guidance
    if guidance != 1 and not teacher.manifest.info.get("label_dropout"):
        raise UsageError(f"{teacher.path} was never asked without a class in its training: guidance has no sense for it",
                         saw=f"guidance {guidance:g}", fix="--set setup.guidance=1, or a teacher trained with label dropout")
    return guidance


def _check_sizes(teacher: Denoiser, context: Context) -> None:
    """UsageError unless teacher and student make images of one shape in the same classes."""
    t, s = teacher.spec, context.spec
    for name in ("image", "channels", "classes"):
        theirs, ours = getattr(t, name), getattr(s, name)
        if theirs != ours:
            raise UsageError(f"setup.teacher does not fit the pairs: {name}", saw=f"teacher {theirs}, pairs {ours}",
                             fix="choose the teacher that made the pairs")
