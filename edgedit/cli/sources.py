"""What `evaluate` scores: students, bundles, pairs, data sets and folders, opened as sources of images; and LPIPS for it."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedit.core.errors import UsageError
from edgedit.core.say import Event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SET = re.compile(r"(cifar10|digits|data)-(train|test)")
_KNOWN = "a folder made by train, export or pairs, a folder of images, an .npz, or one of cifar10-train, cifar10-test, digits-train, " \
         "digits-test, data-train, data-test"


@dataclass(frozen=True)
class Made:
    """How images are made that are not stored.

    Attributes:
        count: how many; None: 50,000, or all of the pairs from `start` on.
        seed, start, labels: of the noise and classes; with pairs `start` is the first of them, negative from the end.
        pairs: teacher pairs whose noise and classes are taken.
        guidance: of a student; None: its usual one.
        weights: of a student, "ema" or "raw".
    """

    count: int | None = None
    seed: int = 0
    start: int = 0
    labels: str = "balanced"
    pairs: Path | None = None
    guidance: float | None = None
    weights: str = "ema"

    def __post_init__(self) -> None:
        for name, value, known in (("labels", self.labels, ("balanced", "random")), ("weights", self.weights, ("ema", "raw"))):
            if value not in known:
                raise UsageError(f"{name} are {' or '.join(known)}", saw=value)
        if self.pairs is not None and (self.seed or self.labels != "balanced"):
            raise UsageError("--pairs bring noise and classes of their own", fix="leave --seed and --labels out")
        if self.pairs is None and self.start < 0:
            raise UsageError("a --start from the end is one of pairs", saw=self.start, fix="--pairs FOLDER, or a --start of 0 or more")

    def noise(self) -> dict[str, Any]:
        """Arguments of a `GeneratedSource`: where noise and classes come from."""
        if self.pairs is None:
            return {"count": self.count or 50_000, "seed": self.seed, "start": self.start, "random_labels": self.labels == "random"}
        from edgedit.core.pairset import PairSet

        pairs = PairSet.open(self.pairs)
        start = self.start + len(pairs) if self.start < 0 else self.start
        if not 0 <= start < len(pairs):
            raise UsageError(f"{self.pairs} has no pair {self.start:,}", saw=f"it holds {len(pairs):,}")
        return {"count": len(pairs) - start, "start": start, "pairs": pairs}


class Sources:
    """How sources are opened: the options of made images, and where data lies."""

    def __init__(self, made: Made, data: str | None, device: str, provider: str | None, threads: int | None, ranks: Any, stack: ExitStack,
                 say: Any) -> None:
        self.made, self.data, self.device, self.provider, self.threads = made, data, device, provider, threads
        self.ranks, self.stack, self.say = ranks, stack, say

    def stored(self, text: str) -> Any:
        """A source of stored images: a data set's split, an .npz, pairs, or a folder."""
        from edgedit.core.artifact import MANIFEST
        from edgedit.core.pairset import PairSet
        from edgedit.evaluate.sources import CIFAR10, FolderSource, PairSource, npz_source

        path = Path(text).expanduser()
        if match := _SET.fullmatch(text):
            return data_set(match[1], match[2], self.data, self.say, self.ranks)
        if path.suffix == ".npz" and path.is_file():
            return npz_source(path, CIFAR10)
        if (path / MANIFEST).is_file():
            return PairSource(PairSet.open(path))
        if not path.is_dir():
            raise UsageError(f"'{text}' is not a source of images", fix=_KNOWN)
        return FolderSource(path, class_names=CIFAR10)

    def held_out(self, reference: str) -> Any:
        """The test split that belongs to a training split; None where there is none, which is said."""
        match = _SET.fullmatch(reference)
        if match and match[2] == "train":
            try:
                return self.stored(f"{match[1]}-test")
            except UsageError as error:
                self.say(Event(f"nearest is not compared with held-out images: {error.what}", level="warning"))
        return None

    def source(self, text: str) -> Any:
        """Any source: stored images, or the maker in a folder of train or export."""
        from edgedit.core.artifact import MANIFEST, read_manifest

        kind = read_manifest(Path(text)).kind if (Path(text) / MANIFEST).is_file() else None
        if kind == "student":
            return self._student(Path(text))
        if kind == "bundle":
            return self._bundle(Path(text))
        if kind not in (None, "pairs", "images"):
            fix = f"edgedit pairs --teacher {text} --count 2000 --out FOLDER makes images of it" if kind == "teacher" else _KNOWN
            raise UsageError(f"{text} is of kind '{kind}', which is no source of images", fix=fix)
        if self.made.pairs is not None or self.made.weights != "ema":
            raise UsageError(f"{text} is no student or bundle: --pairs and --weights are for images that are made")
        return self.stored(text)

    def _student(self, path: Path) -> Any:
        import torch

        from edgedit.evaluate.generated import GeneratedSource
        from edgedit.learn.device import find_device
        from edgedit.model.checkpoint import load_student, usual_guidance
        from edgedit.model.runtime import TorchRuntime

        model, artifact, info = load_student(path)
        if self.threads:
            torch.set_num_threads(self.threads)
        guidance = self.made.guidance
        scale = usual_guidance(info) if guidance is None else guidance
        raw = self._raw(path, model, info) if self.made.weights == "raw" else {}
        runtime = TorchRuntime(model, scale, device=str(find_device(self.device, self.ranks)))
        spec = model.spec
        facts = {"made_by": "student", "digest": artifact.manifest.digest, "design": spec.label, "guidance_scale": scale,
                 "runtime": "torch", **raw}
        names = tuple(info.get("class_names") or map(str, range(spec.classes)))
        name = str(info.get("label", spec.label)) + (" raw" if raw else "")
        return GeneratedSource(name, runtime, (spec.channels, spec.image, spec.image), names, facts=facts, taught=info.get("data") or {},
                               parents=(artifact.as_parent("student"),), **self.made.noise())

    def _raw(self, path: Path, model: Any, info: dict[str, Any]) -> dict[str, Any]:
        """Put the last checkpoint's own weights into a student; facts of them."""
        from edgedit.evaluate.raw import raw_weights

        raw = raw_weights(path)
        model.load_state_dict(raw.weights)
        if raw.step != info.get("step"):
            self.say(Event(f"the raw weights are of step {raw.step}, the averaged ones of step {info.get('step')}", level="warning"))
        return {"weights": "raw", "step": raw.step, "checkpoint": raw.digest}

    def _bundle(self, path: Path) -> Any:
        from edgedit.device.bundle import Bundle
        from edgedit.device.runtime import open_runtime
        from edgedit.evaluate.generated import GeneratedSource

        bundle = Bundle.open(path)
        guidance = self.made.guidance
        if self.made.weights != "ema":
            raise UsageError("a bundle holds averaged weights alone", fix=f"edgedit evaluate STUDENT --weights {self.made.weights}")
        if guidance is not None and guidance != bundle.guidance_scale:
            raise UsageError("a bundle's guidance is part of its graph", saw=f"{guidance}; {path} has {bundle.guidance_scale}",
                             fix="edgedit export STUDENT --guidance …")
        runtime = open_runtime(bundle, provider=self.provider, threads=self.threads)
        self.stack.callback(runtime.close)
        facts = {"made_by": "bundle", "digest": bundle.digest, "design": bundle.spec.label, "guidance_scale": bundle.guidance_scale,
                 "precision": bundle.precision, "runtime": runtime.name, "provider": runtime.provider}
        return GeneratedSource(f"{bundle.spec.label} {bundle.precision}", runtime, bundle.noise_shape, bundle.class_names, facts=facts,
                               taught=bundle.artifact.manifest.info.get("data") or {}, parents=(bundle.artifact.as_parent("bundle"),),
                               **self.made.noise())


def data_set(name: str, split: str, data: str | None, say: Any, ranks: Any) -> Any:
    """A split of a data set; where it has to be downloaded, one process does that and the others find it."""
    from edgedit.evaluate.sources import ArraySource
    from edgedit.teach.data import load_data

    if name == "data" and data is None:
        raise UsageError(f"data-{split} needs --data")
    where = data if data is not None and name != "digits" else name
    if where == "cifar10" and ranks.world > 1:
        ranks.lead(lambda: len(load_data(where, split=split, say=say)))
    made = load_data(where, split=split, say=say)
    if name != "data" and made.name != name:
        raise UsageError(f"--data is not {name}", saw=made.name, fix=f"data-{split} names it")
    return ArraySource(f"{made.name}-{split}", made.images, made.labels, made.class_names,
                       {"name": made.name, "split": split, "sha256": made.sha256})


class Perceptual:
    """LPIPS as training has it, for the evaluation, which does not know the training's room."""

    def __init__(self, metric: Any, device: Any, batch: int) -> None:
        self.facts: dict[str, Any] = metric.facts()
        self._metric, self._device, self._batch = metric.to(device), device, batch

    def __call__(self, made: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.float64]:
        """uint8 (n, S, S, C) each → float64 (n,)."""
        import torch

        from edgedit.core.pairset import to_float

        parts = []
        with torch.inference_mode():
            for i in range(0, len(made), self._batch):
                a, b = (torch.from_numpy(to_float(x[i : i + self._batch])).to(self._device) for x in (made, wanted))
                parts.append(self._metric.distances(a, b).double().cpu())
        found: NDArray[np.float64] = torch.cat(parts).numpy()
        return found


def find_perceptual(settings: Any, image: int, ranks: Any, say: Any) -> Perceptual | None:
    """The LPIPS that the settings of an evaluation name; None, said with the reason, where "auto" finds no weights on this machine.

    Raises:
        UsageError: images too small for the net.
        MissingError, ArtifactError: weights that were asked for and cannot be had, or fit no net.
    """
    from edgedit.distill.lpips import Lpips
    from edgedit.distill.lpips_weights import SMALLEST, find_net, load_trunk
    from edgedit.distill.settings import LpipsSettings
    from edgedit.learn.device import find_device

    asked, net = settings.lpips, settings.lpips.net
    weights = Path(asked.weights).expanduser() if asked.weights else None
    if net == "auto":
        missing = [name for name in ("torchvision", "lpips") if find_spec(name) is None]
        net = "none" if missing else find_net(weights) or "none"
        if net == "none":
            why = f"{' and '.join(missing)} not installed" if missing else "no weights here; --lpips-weights FILE gives them"
            say(Event(f"LPIPS to the teacher is left out: {why}", level="warning"))
    if net == "none":
        return None
    side = asked.resolution or image
    if side < SMALLEST[net]:
        raise UsageError(f"LPIPS with '{net}' needs images of at least {SMALLEST[net]} pixels", saw=f"{side} pixels",
                         fix="--set lpips.resolution=64")
    if ranks.world > 1:  # where it has to be downloaded, one process does that
        ranks.lead(lambda: load_trunk(net, weights)[1])
    metric = Lpips.load(LpipsSettings(net=net, weights=weights, resolution=asked.resolution, precision="fp32"))
    return Perceptual(metric, find_device(settings.device, ranks), settings.batch)
