"""A bundle, typed: the exported graph `model.onnx` and what its manifest says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedit.core.artifact import Artifact, open_artifact
from edgedit.core.errors import ArtifactError, UsageError, did_you_mean
from edgedit.core.record import Subject
from edgedit.core.spec import DiTSpec

KIND = "bundle"
MODEL_FILE = "model.onnx"
NOISE, LABELS, IMAGES = "noise", "labels", "images"
MAKE = "edgedit export STUDENT --out FOLDER makes one"


@dataclass(frozen=True)
class Bundle:
    """What `edgedit export` wrote. Open with `Bundle.open`.

    Attributes:
        artifact: the folder and its checked manifest.
        spec: sizes of the DiT.
        precision: "fp32", "fp16", or "int8" (FP16 with Q/DQ in some or all blocks): the types inside the graph; inputs and output
            are the same for all.
        attention: dialect of the attention subgraph: "pattern", "onnx" or "ort".
        batch: images per run of a graph with fixed batch; the usual batch of a dynamic one.
        dynamic: whether the graph takes any batch.
        guidance_scale: classifier-free guidance inside the graph; 1.0 is none.
        opset: of the ONNX default domain.
        class_names: names of the real classes, in label order.
        null_class: label of "no class".
        parameters, deployed_parameters: before and after folding.
    """

    artifact: Artifact
    spec: DiTSpec
    precision: str
    attention: str
    batch: int
    dynamic: bool
    guidance_scale: float
    opset: int
    class_names: tuple[str, ...]
    null_class: int
    parameters: int
    deployed_parameters: int

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Bundle:
        """Open and check a bundle.

        Args:
            path: its folder.
            verify: compare SHA-256 of the files; `False` compares sizes only.

        Raises:
            ArtifactError: not a bundle, a file missing, truncated or altered, or a manifest without what a runtime needs.
        """
        artifact = open_artifact(path, KIND, verify=verify, fix=MAKE)
        artifact.file(MODEL_FILE)
        manifest = artifact.manifest
        settings, info = _Facts(artifact, "settings", manifest.settings), _Facts(artifact, "info", manifest.info)
        if manifest.spec is None:
            raise ArtifactError(f"{path}: the manifest holds no sizes of the network (spec)", fix=MAKE)
        try:
            spec = DiTSpec.from_dict(manifest.spec)
        except UsageError as error:
            raise ArtifactError(f"{path}: the manifest's spec is not one of a DiT", saw=error, fix=MAKE) from error
        bundle = cls(
            artifact=artifact, spec=spec, precision=settings.text("precision"), attention=settings.text("attention"),
            batch=settings.whole("batch"), dynamic=settings.flag("dynamic"), guidance_scale=settings.number("guidance_scale"),
            opset=settings.whole("opset"), class_names=info.texts("class_names"), null_class=info.whole("null_class"),
            parameters=info.whole("parameters"), deployed_parameters=info.whole("deployed_parameters"))
        if bundle.batch < 1:
            raise ArtifactError(f"{path}: the manifest's settings.batch is not a batch", saw=bundle.batch, fix=MAKE)
        if len(bundle.class_names) != spec.classes:
            raise ArtifactError(f"{path}: class names and classes differ in number",
                                saw=f"{len(bundle.class_names)} names, {spec.classes} classes", fix=MAKE)
        return bundle

    @property
    def path(self) -> Path:
        """Folder of the bundle."""
        return self.artifact.path

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.artifact.file(MODEL_FILE)

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest: the bundle's name in records."""
        return self.artifact.manifest.digest

    @property
    def onnx_sha256(self) -> str:
        """SHA-256 of the ONNX file."""
        return str(self.artifact.manifest.files[MODEL_FILE]["sha256"])

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Shape of one noise sample, (C, H, W)."""
        return (self.spec.channels, self.spec.image, self.spec.image)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image, (H, W, C)."""
        return (self.spec.image, self.spec.image, self.spec.channels)

    @property
    def guided(self) -> bool:
        """Whether each image passes the network twice."""
        return self.guidance_scale != 1.0

    def choose_batch(self, asked: int | None) -> int:
        """The batch to run with: `asked`, or the bundle's own; UsageError when the graph cannot take it."""
        if asked is not None and asked < 1:
            raise UsageError("the batch must be 1 or more", saw=asked, fix=f"--batch {self.batch}")
        if asked is None or asked == self.batch:
            return self.batch
        if not self.dynamic:
            raise UsageError(f"{self.path} was exported for batch {self.batch} only", saw=f"batch {asked}",
                             fix=f"--batch {self.batch}, or edgedit export STUDENT --out FOLDER --batch {asked}")
        return asked

    def class_index(self, name: str | int) -> int:
        """Label of a class given by name (any case) or number; UsageError with the nearest name otherwise."""
        text = str(name).strip()
        for match in (str, str.lower):
            for label, known in enumerate(self.class_names):
                if match(known) == match(text):
                    return label
        if text.lstrip("-").isdecimal():
            if 0 <= int(text) < self.spec.classes:
                return int(text)
            raise UsageError(f"class {text} is out of range", fix=f"0 … {self.spec.classes - 1}: {', '.join(self.class_names)}")
        raise UsageError(f"unknown class '{text}'", fix=did_you_mean(text, self.class_names))

    def subject(self, batch: int) -> Subject:
        """How a record names what ran, at this batch."""
        passes = 2 if self.guided else 1
        return Subject(
            label=str(self.artifact.manifest.info.get("label", self.spec.label)), spec=self.spec.to_dict(),
            bundle_digest=self.digest, onnx_sha256=self.onnx_sha256, precision=self.precision, attention=self.attention,
            guidance_scale=self.guidance_scale, forward_batch=passes * batch, parameters=self.parameters,
            deployed_parameters=self.deployed_parameters, flops_per_image=passes * self.spec.flops)


class _Facts:
    """Typed reading of one section of a manifest; a missing or odd entry is an ArtifactError that names it."""

    def __init__(self, artifact: Artifact, section: str, values: Mapping[str, Any]) -> None:
        self._where, self._section, self._values = artifact.path, section, values

    def _take(self, key: str, kinds: type | tuple[type, ...]) -> Any:
        value = self._values.get(key)
        odd_flag = isinstance(value, bool) and kinds is not bool
        if not isinstance(value, kinds) or odd_flag:
            raise ArtifactError(f"{self._where}: the manifest's {self._section}.{key} is missing or of the wrong type",
                                saw=repr(value), fix=MAKE)
        return value

    def text(self, key: str) -> str:
        return str(self._take(key, str))

    def whole(self, key: str) -> int:
        return int(self._take(key, int))

    def number(self, key: str) -> float:
        return float(self._take(key, (int, float)))

    def flag(self, key: str) -> bool:
        return bool(self._take(key, bool))

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._take(key, (list, tuple))
        if not all(isinstance(v, str) for v in values):
            raise ArtifactError(f"{self._where}: the manifest's {self._section}.{key} must be texts", saw=repr(values),
                                fix=MAKE)
        return tuple(values)
