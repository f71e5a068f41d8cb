"""Setup MI1: inner layers are taught the way from noise to image (the paper's Appendix B.3, Table 4; science.md §3.1).

L = Σ over (l, t) of metric(x̂_l, x(t)): the image that a head reads out of layer l, and a point of the straight chord between
the pair's noise and its image. The last layer has t = 0, which is the teacher's image, and the student's own head; heads of
inner layers only listen, and are dropped at export. The paper's direction of t is corrected: 1 is noise, 0 is the image.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from edgedit.core.errors import UsageError
from edgedit.distill.data import Batch
from edgedit.distill.heads import ImageHead
from edgedit.distill.losses import make_loss
from edgedit.distill.settings import LossWeights
from edgedit.distill.setup import BaseSetup, Context, SetupSettings, Student
from edgedit.learn.settings import Optional


class Options(SetupSettings):
    """Which layers are taught which points of the chord, and by what measure."""

    name: Literal["mi1"] = "mi1"
    mapped: Annotated[Annotated[int, Field(ge=2)] | None, Optional] = None
    """How many layers K are taught (2 if nothing is said): for k = 1 … K, layer round(k·depth/K) is taught t = 1 - k/K."""
    layers: Annotated[tuple[int, ...] | None, Optional] = None
    """The layers themselves, instead of `mapped`: counted from 1, the last must be the depth."""
    times: Annotated[tuple[float, ...] | None, Optional] = None
    """Their t, falling to 0; by default 1 - k/K."""
    sigma_min: float = Field(default=0.002, gt=0)
    """EDM's; the paper prints 0.02 (science.md §2 row 2). It moves the middle of the chord, never its end."""
    sigma_max: float = Field(default=80, gt=0)
    rho: float = Field(default=7, gt=0)
    shared_head: bool = False
    """Read inner layers with the student's own final layer instead of heads of their own."""
    metric_intermediate: Annotated[Literal["lpips", "l2", "l1"] | None, Optional] = None
    """For inner layers; None is the run's own, as in the paper. It has weight 1; weights are of the
    run's own sum. LPIPS of noise is far from what it was made for."""

    @model_validator(mode="after")
    def _check(self) -> Options:
        if self.sigma_min >= self.sigma_max:
            raise UsageError("setup.sigma_min must be below setup.sigma_max", saw=f"{self.sigma_min}, {self.sigma_max}")
        if self.mapped is not None and self.layers is not None:
            raise UsageError("setup.mapped and setup.layers both say which layers are taught", saw=f"{self.mapped}, {list(self.layers)}",
                             fix="give one of them; setup.layers=none takes a preset's away")
        return self

    def schedule(self, depth: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Layers and their t for a student of `depth`; UsageError when they do not fit it (science.md §3.1 F)."""
        count = len(self.layers) if self.layers is not None else self.mapped or 2
        layers = self.layers or tuple((2 * k * depth + count) // (2 * count) for k in range(1, count + 1))
        times = self.times if self.times is not None else tuple(1 - k / count for k in range(1, count + 1))
        if not (len(layers) > 1 and layers[0] >= 1 and _rises(layers) and layers[-1] == depth):
            raise UsageError(f"MI1 needs at least two layers, rising from 1 or more to the depth, {depth}", saw=list(layers),
                             fix=f"--set setup.layers=[{max(1, depth // 2)},{depth}]" if depth > 1 else "--set model.depth=2")
        if not (len(times) == len(layers) and times[0] <= 1 and _rises(times[::-1]) and times[-1] == 0):
            raise UsageError(f"MI1 needs a time for each of the layers {list(layers)}, falling from 1 or less to 0", saw=list(times),
                             fix="leave setup.times out, or give one number a layer")
        return layers, times

    def sigma(self, t: float) -> float:
        """Noise level at t: σ(1) = sigma_max, σ(0) = sigma_min (science.md §3.1 A)."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return float((low + t * (high - low)) ** self.rho)

    def alpha(self, t: float) -> float:
        """Share of the image in the variance at t: 1/(1 + σ²)."""
        return 1 / (1 + self.sigma(t) ** 2)

    def chord(self, images: Tensor, noise: Tensor, t: float) -> Tensor:
        """x(t) = √α·x0 + √(1-α)·ε, where ε is such that x(1) is the noise; x(0) is the image itself (science.md §3.1 B, C).

        Args:
            images: float32 (B, C, S, S), the teacher's.
            noise: float32 (B, C, S, S), unit Gaussian, of the same pairs.
        """
        if t == 0:
            return images
        start, here = self.alpha(1), self.alpha(t)
        eps = (noise - math.sqrt(start) * images) / math.sqrt(1 - start)
        return math.sqrt(here) * images + math.sqrt(1 - here) * eps


class Setup(BaseSetup):
    """Each mapped layer's image is pulled to its point of the chord."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        settings, spec = context.settings, context.spec
        self.options = cast(Options, settings.setup)
        self.layers, self.times = self.options.schedule(spec.depth)
        self.metric = make_loss(settings.loss, spec, context.device, compiled=settings.compile, say=context.say)
        self.inner, told = self.metric, self.options.metric_intermediate
        inner = settings.loss if told is None else settings.loss.model_copy(update={"name": told, "weights": LossWeights()})
        if inner != settings.loss:
            self.inner = make_loss(inner, spec, context.device, compiled=settings.compile, say=context.say)
        self.heads = nn.ModuleDict()
        if not self.options.shared_head:
            self.heads.update({str(layer): ImageHead(spec) for layer in self.layers[:-1]})
        self.heads.to(context.device)

    def loss(self, student: Student, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of `terms`, and each of them."""
        terms = self.terms(student, batch)
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def terms(self, student: Student, batch: Batch) -> dict[str, Tensor]:
        """"layer_…" for each mapped layer: the distance of its image from its point of the chord."""
        model, o = self.context.model, self.options
        image, tokens = student(batch.noise, batch.labels, self.layers[:-1])
        c = model.condition(batch.labels)                                                 # (B, w)
        terms = {}
        for layer, t, x in zip(self.layers, self.times, tokens, strict=False):
            seen = model.decode(x, c) if o.shared_head else self.heads[str(layer)](x, c)  # (B, C, S, S)
            terms[f"layer_{layer}"] = self.inner(seen, o.chord(batch.images, batch.noise, t))
        terms[f"layer_{self.layers[-1]}"] = self.metric(image, self.metric.features(batch.images, batch.indices))
        return terms

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """The heads of inner layers."""
        return {f"heads.{name}": parameter for name, parameter in self.heads.named_parameters()}

    def facts(self) -> dict[str, Any]:
        """The measure, that of inner layers (its name where that says all, or where it is the run's), and the schedule."""
        inner = self.inner.facts()
        told = inner["name"] if self.inner is self.metric or inner.keys() == {"name"} else inner
        return {**self.metric.facts(), "intermediate": told, "layers": list(self.layers), "times": list(self.times)}


def _rises(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in pairwise(values))
