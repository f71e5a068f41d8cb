"""What a training run is told: the paper's setup by default (science.md §1.1), presets by name, everything selectable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator
from pydantic.functional_validators import BeforeValidator

from edgedit.core.errors import UsageError, did_you_mean
from edgedit.core.settings import Settings, find_preset, read_presets
from edgedit.core.spec import DiTSpec
from edgedit.distill.setup import SetupSettings, find_options
from edgedit.learn.settings import LearnSettings, Optional


class ModelSettings(Settings):
    """Sizes of the student; image side, channels and classes come from the pairs."""

    depth: int = 5
    width: int = 64
    heads: int = 8
    patch: int = 2
    mlp_ratio: int = 4

    def spec(self, shape: tuple[int, int, int], classes: int) -> DiTSpec:
        """The design for pairs of `shape` (C, H, W) in `classes` classes."""
        return DiTSpec(self.depth, self.width, self.heads, self.patch, shape[1], shape[0], classes, self.mlp_ratio)


class LpipsSettings(Settings):
    """The perceptual loss (science.md §9; docs/lpips.md has costs and what they buy)."""

    net: Literal["vgg", "alex", "squeeze"] = "vgg"
    pooling: Literal["max", "avg"] = "max"
    """Between the trunk's stages: "max" as in package lpips and GET, "avg" as consistency models have it."""
    resolution: Annotated[Annotated[int, Field(ge=16)] | None, Optional] = 224
    """Side that both images are resized to, bilinear; None ("native") takes them as they are. GET's 224 costs 50 to 450 times
    the student for 32-pixel images; 64 costs a twelfth of 224, 32 a fiftieth."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the trunk; "auto" follows the run's. Normalisation and heads are float32 always."""
    cache_gb: float = Field(default=0, ge=0)
    """Memory in GB (on the training device, for each process) that keeps targets' features from epoch to epoch; 0 keeps none.
    VGG takes 24.5 MB a pair at 224, 2.0 at 64, 0.5 at 32."""
    cache_precision: Literal["fp32", "fp16"] = "fp32"
    """Of what is kept; "fp16" holds twice the pairs."""
    weights: Annotated[Path | None, Optional] = None
    """ImageNet weights of the trunk (torchvision's state dict); None lets torchvision find or download them."""


LOSSES = ("l1", "l2", "lpips")


class LossWeights(Settings):
    """What each term is multiplied by. A term is left out by its absence from `loss.name`, not by a weight of 0."""

    l1: float = Field(default=1, gt=0)
    l2: float = Field(default=1, gt=0)
    lpips: float = Field(default=1, gt=0)


class LossSettings(Settings):
    """How far the student's image is from the teacher's."""

    name: str = "lpips"
    """l1, l2, lpips, or a sum of them: "l1+lpips". The order says nothing."""
    weights: LossWeights = LossWeights()
    """Of the sum's terms."""
    lpips: LpipsSettings = LpipsSettings()

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        """The terms in the order of `LOSSES`; UsageError for one that is unknown or there twice."""
        words = [word.strip() for word in name.split("+")]
        if unknown := [word for word in words if word not in LOSSES]:
            raise UsageError(f"there is no loss '{unknown[0]}'", saw=f"loss '{name}'", fix=did_you_mean(unknown[0], LOSSES))
        if len(set(words)) < len(words):
            raise UsageError("a term of a loss is there twice", saw=name, fix="its weight says how much it counts: --set loss.weights.l1=2")
        return "+".join(word for word in LOSSES if word in words)

    @model_validator(mode="after")
    def _weighed(self) -> LossSettings:
        for name, weight in self.weights.model_dump().items():
            if weight != 1 and name not in self.terms:
                raise UsageError(f"loss.weights.{name} weighs nothing: '{self.name}' has no such term", saw=weight,
                                 fix=f"--loss {self.name}+{name}, or leave loss.weights.{name} out")
        return self

    @property
    def terms(self) -> dict[str, float]:
        """Weight by name of term."""
        return {name: float(getattr(self.weights, name)) for name in self.name.split("+")}


class TrainSettings(LearnSettings):
    """Everything that `edgedit train` can be told."""

    free: ClassVar[tuple[str, ...]] = (*LearnSettings.free, "sample_guidance", "compile", "loss.lpips.weights", "setup.teacher",
                                       "setup.assistant", "setup.student")
    """Beside the free ones of any run. (LPIPS weights and what a setup reads are held by hash; compiled or not, a step differs by
    rounding alone.)"""

    setup: Annotated[SerializeAsAny[SetupSettings], BeforeValidator(find_options)] = Field(default="get", validate_default=True)  # type: ignore[assignment]
    """Which setup, with its own options: `setup = "dmd"`, or `setup = { name = "dmd", regression = 0.5 }`."""
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    label_dropout: float = Field(default=0.1, ge=0, le=1)
    flips: bool = False
    """Mirror pairs, noise and image, in half of their visits: twice the pairs for nothing. The best denoiser of a data set that
    holds every image's mirror image turns mirrored noise into the mirrored image, so this is for teachers trained with flips
    (docs/recipes/cifar10.md says how far one is from that)."""
    sample_guidance: Annotated[float | None, Optional] = None
    """Of sample grids; None: 1.5, or none where the setup or the pairs put guidance into the weights."""

    @model_validator(mode="before")
    @classmethod
    def _loss_by_name(cls, values: Any) -> Any:
        """`loss = "l1"` is short for `loss.name = "l1"`."""
        if isinstance(values, dict) and isinstance(values.get("loss"), str):
            return {**values, "loss": {"name": values["loss"]}}
        return values


def presets() -> dict[str, dict[str, Any]]:
    """All presets by name, as `core.settings.read_presets`."""
    return read_presets("edgedit.distill", "presets.toml")


def preset(name: str) -> dict[str, Any]:
    """Settings of one preset, nested; UsageError with the nearest name when there is none."""
    return find_preset(presets(), name)
