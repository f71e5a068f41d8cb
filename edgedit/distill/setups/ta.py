"""Setup TA: a trained, larger student assists the teacher (the paper's Appendix B.2, Table 3; science.md §3.2).

L = λ0·metric(x, x̂) + λ1·metric(x_TA, x̂) + λ2·Σ_l distance(tokens_TA,l, tokens_l): the teacher's image, the assistant's image of
the same noise, and the assistant's tokens. Rows of Table 3: λ0; λ1; λ1 and λ2; all three. A token is no image, so by default
the features are compared as the images that the assistant's frozen output layer reads out of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from edgedit.core.artifact import Artifact, Manifest, Parent, open_artifact
from edgedit.core.errors import UsageError
from edgedit.core.pairset import PairSet
from edgedit.core.spec import DiTSpec
from edgedit.distill.data import Batch
from edgedit.distill.heads import expansion
from edgedit.distill.losses import make_loss
from edgedit.distill.setup import BaseSetup, Context, SetupSettings, Student
from edgedit.learn.settings import Optional
from edgedit.model.checkpoint import KIND, load_student
from edgedit.model.dit import normalise


class Options(SetupSettings):
    """Weights of the three terms, the assistant, and how its tokens are compared."""

    name: Literal["ta"] = "ta"
    lambda0: float = Field(default=1, ge=0)
    """Weight of the teacher's image. The paper does not print its weights; here each is 1 unless switched off."""
    lambda1: float = Field(default=1, ge=0)
    """Weight of the assistant's image."""
    lambda2: float = Field(default=1, ge=0)
    """Weight of the assistant's tokens."""
    assistant: Annotated[Path | None, Optional] = None
    """Folder of a trained student; read when lambda1 or lambda2 is above 0. Its averaged weights answer, without guidance."""
    feature: Literal["lpips_decoded", "mse", "lpips_style"] = "lpips_decoded"
    """Distance of tokens: the run's loss between the images decoded from them; the mean square of normalised tokens; or the
    squared distance of tokens of unit length, as LPIPS compares features."""
    layers: Annotated[tuple[tuple[int, int], ...] | None, Optional] = None
    """Pairs (student's layer, assistant's layer), counted from 1; by default one pair: the last but one of both."""
    assistant_labels: Literal["true", "student"] = "true"
    """What the assistant is told where the student's class is dropped: the true class, or as little as the student."""
    any_assistant: bool = False
    """Take an assistant that another teacher taught."""

    @model_validator(mode="after")
    def _check(self) -> Options:
        if not (self.lambda0 or self.lambda1 or self.lambda2):
            raise UsageError("setup.lambda0, lambda1 and lambda2 are all 0: there is nothing to learn from")
        return self

    @property
    def assisted(self) -> bool:
        """True where the assistant is needed."""
        return self.lambda1 > 0 or self.lambda2 > 0


class Setup(BaseSetup):
    """The student is pulled to the teacher's image, the assistant's image and the assistant's tokens, by what λ says."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        settings = context.settings
        self.options = cast(Options, settings.setup)
        self.metric = make_loss(settings.loss, context.spec, context.device, compiled=settings.compile, say=context.say)
        self.layers: tuple[tuple[int, int], ...] = ()
        self.expansions = nn.ModuleDict()
        self.assistant_facts: dict[str, Any] = {}
        if not self.options.assisted:
            return
        model, artifact, info = load_student(assistant_folder(self.options))
        kinship = check_assistant(artifact, self.options, context.data)
        self.assistant = model.to(context.device)
        self.ask = cast(Student, torch.compile(model)) if settings.compile else model
        self.assistant_facts = {"label": info["label"], "digest": artifact.manifest.digest, "pairs": kinship}
        if self.options.lambda2:
            self.layers = tapped_layers(self.options, context.spec, model.spec)
            self.expansions.update({f"{mine}_{its}": expansion(context.spec.width, model.spec.width, settings.seed + k)
                                    for k, (mine, its) in enumerate(self.layers)})
            self.expansions.to(context.device)

    @classmethod
    def parents(cls, options: Options, data: PairSet) -> tuple[Parent, ...]:
        """The assistant, where a term needs it."""
        if not options.assisted:
            return ()
        artifact = open_artifact(assistant_folder(options), KIND, fix="edgedit train --preset ta-assistant … makes one")
        check_assistant(artifact, options, data)
        return (artifact.as_parent("assistant"),)

    def loss(self, student: Student, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of `terms`, each times its λ, and the terms themselves."""
        o, terms = self.options, self.terms(student, batch)
        weights = {"teacher": o.lambda0, "assistant": o.lambda1, "features": o.lambda2}
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return total, {name: term.detach() for name, term in terms.items()}

    def terms(self, student: Student, batch: Batch) -> dict[str, Tensor]:
        """"teacher", "assistant" and "features" before their weights, those whose weight is above 0."""
        o, terms = self.options, {}
        tokens: tuple[Tensor, ...] = ()
        if self.layers:
            image, tokens = student(batch.noise, batch.labels, tuple(mine for mine, _ in self.layers))
        else:
            image = student(batch.noise, batch.labels)
        if o.lambda0:
            terms["teacher"] = self.metric(image, self.metric.features(batch.images, batch.indices))
        if o.assisted:
            labels = batch.classes if o.assistant_labels == "true" else batch.labels
            theirs, wanted = self.answer(batch.noise, labels)
            if o.lambda1:
                terms["assistant"] = self.metric(image, theirs)
            if o.lambda2:
                terms["features"] = self.compare(tokens, wanted, labels)
        return terms

    @torch.no_grad()
    def answer(self, noise: Tensor, labels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The assistant's images (B, C, S, S) and its tokens (B, T, w_TA) at the layers compared."""
        if not self.layers:
            return self.ask(noise, labels).float(), ()
        image, tokens = self.ask(noise, labels, tuple(its for _, its in self.layers))
        return image.float(), tokens

    def compare(self, tokens: tuple[Tensor, ...], wanted: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Sum over layers of the distance of the student's tokens (B, T, w), expanded, from the assistant's (B, T, w_TA)."""
        pairs = [(expand(mine), its) for expand, mine, its in zip(self.expansions.values(), tokens, wanted, strict=True)]
        if self.options.feature == "mse":
            distances = [F.mse_loss(normalise(a.float()), normalise(b.float())) for a, b in pairs]
        elif self.options.feature == "lpips_style":
            distances = [(F.normalize(a.float(), dim=-1) - F.normalize(b.float(), dim=-1)).square().sum(-1).mean() for a, b in pairs]
        else:
            with torch.no_grad():
                c = self.assistant.condition(labels)                                      # (B, w_TA)
                targets = [self.assistant.decode(b, c).float() for _, b in pairs]         # (B, C, S, S) each
            distances = [self.metric(self.assistant.decode(a, c), b) for (a, _), b in zip(pairs, targets, strict=True)]
        return torch.stack(distances).sum()

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """The expansions from the student's width to the assistant's."""
        return {f"expansions.{name}": parameter for name, parameter in self.expansions.named_parameters()}

    def facts(self) -> dict[str, Any]:
        """The measure, the assistant (with whether it saw "the same" pairs) and the layers compared."""
        facts = self.metric.facts()
        if self.assistant_facts:
            facts["assistant"] = self.assistant_facts
        if self.layers:
            facts["layers"] = [list(pair) for pair in self.layers]
        return facts


def assistant_folder(options: Options) -> Path:
    """Where the assistant is; UsageError when that was not said."""
    if options.assistant is None:
        raise UsageError("setup 'ta' needs an assistant: a larger student, trained on the same pairs",
                         saw=f"lambda1 = {options.lambda1:g}, lambda2 = {options.lambda2:g}",
                         fix="edgedit train --preset ta-assistant …, then --set setup.assistant=FOLDER")
    return options.assistant


def check_assistant(assistant: Artifact, options: Options, data: PairSet) -> str:
    """What the assistant's pairs are to the run's: "same", "same teacher" or "another teacher".

    Raises:
        UsageError: it makes other images or knows other classes, or another teacher taught it and `any_assistant` is off.
    """
    sizes = DiTSpec.from_dict(assistant.manifest.spec or {})
    needed, seen = (data.shape, data.classes), ((sizes.channels, sizes.image, sizes.image), sizes.classes)
    if seen != needed:
        raise UsageError(f"the assistant {assistant.path} makes other images than these pairs",
                         saw="{} in {} classes, needed {} in {}".format(*seen, *needed), fix="train an assistant on these pairs")
    kinship = _kinship(assistant.manifest, data)
    if kinship == "another teacher" and not options.any_assistant:
        raise UsageError(f"the assistant {assistant.path} was taught by another teacher than made these pairs",
                         saw=f"{_teacher(assistant.manifest)}, here {data.info.get('teacher')}",
                         fix="train an assistant on these pairs, or accept it with --set setup.any_assistant=true")
    return kinship


def _kinship(assistant: Manifest, data: PairSet) -> str:
    if any(p.role == "pairs" and p.digest == data.artifact.manifest.digest for p in assistant.parents):
        return "same"
    teacher = _teacher(assistant)
    return "same teacher" if teacher is not None and teacher == data.info.get("teacher") else "another teacher"


def _teacher(assistant: Manifest) -> Any:
    return assistant.info.get("data", {}).get("teacher")


def tapped_layers(options: Options, student: DiTSpec, assistant: DiTSpec) -> tuple[tuple[int, int], ...]:
    """Pairs of layers whose tokens are compared; UsageError where there are none such (science.md §3.2 B)."""
    if student.tokens != assistant.tokens:
        raise UsageError("features can be compared only where student and assistant have the same tokens",
                         saw=f"{student.tokens} tokens, the assistant {assistant.tokens}",
                         fix=f"--set model.patch={assistant.patch}, or --set setup.lambda2=0")
    if options.layers is None and min(student.depth, assistant.depth) < 2:
        raise UsageError("features come from the last layer but one, which needs a depth of 2",
                         saw=f"depths {student.depth}, {assistant.depth}",
                         fix="--set setup.layers=[[1,1]], or --set setup.lambda2=0")
    layers = options.layers if options.layers is not None else ((student.depth - 1, assistant.depth - 1),)
    if not layers or len(set(layers)) < len(layers) or any(not (1 <= a <= student.depth and 1 <= b <= assistant.depth) for a, b in layers):
        raise UsageError(f"setup.layers must be pairs of a layer of 1 … {student.depth} and one of the assistant's 1 … {assistant.depth}",
                         saw=[list(pair) for pair in layers], fix=f"--set setup.layers=[[{student.depth},{assistant.depth}]]")
    return layers
