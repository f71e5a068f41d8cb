"""The Inception network of FID, IS and KID: torch-fidelity's, with weights read without running code, and named for what they are.

Only the published file makes a number FID or Inception Score. A file that ends at Mixed_6e, and behaves there as the
published network does, gives FID-768. Anything else is "custom".
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.core.files import sha256_file
from edgedit.core.say import Event, Say, silent
from edgedit.evaluate.sources import rgb
from edgedit.evaluate.weights import read_tensors

NAME = "inception-v3-compat"
FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
PUBLISHED = "6726825d"
"""First digits of the published file's SHA-256, as its name states them."""
RESIZE = "tf1-compat: bilinear to 299×299 as TensorFlow 1 has it, (x - 128)/128, inside the extractor"
TAIL = ("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool", "fc")
"""What comes after the 768 tap."""
_FIRST = (0.1273, 0.0843, 0.0650, 0.1999, 0.0410, 0.0219, 0.0481, 0.0648)
"""The first eight of the FID network's 768 features of `_test_card`."""


@dataclass(frozen=True)
class Weights:
    """A weights file and its hash."""

    file: Path
    sha256: str

    @property
    def published(self) -> bool:
        """Whether it is the file that FID and IS are defined by."""
        return self.sha256.startswith(PUBLISHED)


def find_weights(given: str | None, say: Say = silent) -> Weights:
    """The weights file: the one given, or the published one from torch's cache, downloaded there if it is not.

    Raises:
        MissingError: no such file, or the download is refused or gives another file.
    """
    fix = f"fetch {URL} (95 MB) and pass --extractor-weights FILE"
    if given is not None:
        file = Path(given).expanduser()
        if not file.is_file():
            raise MissingError(f"no extractor weights at {file}", fix=fix)
        return Weights(file, sha256_file(file))
    file = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not file.is_file():
        say(Event(f"downloading {URL}"))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(file), hash_prefix=PUBLISHED, progress=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; another hash a RuntimeError
            raise MissingError("the published Inception weights could not be downloaded", saw=error, fix=fix) from error
    found = Weights(file, sha256_file(file))
    if not found.published:
        raise MissingError(f"{file} is not the published file", saw=f"sha256 {found.sha256[:16]}…", fix=f"remove it; {fix}")
    return found


class Inception:
    """Features of images at one tap, and logits.

    Args:
        weights: see `find_weights`.
        tap: "64", "192", "768", "2048", or "auto": 2048, or 768 where the file ends there.
        logits: also give the 1008 logits without bias, for the Inception Score.
        device: where it runs; always in float32, without TF32.
        batch: images a pass.

    Attributes:
        tap, width: the tap and its number of features.
        kind: "published", "stem" (a part of the FID network, by its behaviour), "custom".

    Raises:
        ArtifactError: not a weights file, or tensors that do not fit the network.
        UsageError: the file ends before the tap, or has no logits.
    """

    def __init__(self, weights: Weights, tap: str, *, logits: bool, device: torch.device, batch: int) -> None:
        tensors = read_tensors(weights.file)
        whole = "fc.weight" in tensors
        self.tap = ("2048" if whole else "768") if tap == "auto" else tap
        if not whole and (logits or self.tap == "2048"):
            raise UsageError(f"{weights.file} ends at the 768 tap: it gives no {'Inception Score' if logits else 'FID'}",
                             fix=f"--metrics fid --tap 768 for an FID-768, or the whole network: {URL}")
        self.width, self.weights, self.logits, self.batch, self.device = int(self.tap), weights, logits, batch, device
        self._network = _build(tensors, [self.tap, *(["logits_unbiased"] if logits else [])], weights.file, whole)
        self._network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.kind = "published" if weights.published else "stem" if self._behaves() else "custom"

    @property
    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {"name": NAME, "kind": self.kind, "tap": self.tap, "sha256": self.weights.sha256, "file": self.weights.file.name,
                "resize": RESIZE, "precision": "fp32"}

    def rows(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        """uint8 (n, H, W, C) → "features" float32 (n, d), and "logits" float32 (n, 1008) if asked for."""
        made = [self._pass(images[i : i + self.batch]) for i in range(0, len(images), self.batch)]
        return {name: np.concatenate([m[k] for m in made]) for k, name in enumerate(["features", "logits"][: len(made[0])])}

    def _pass(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        x = torch.from_numpy(np.ascontiguousarray(rgb(images).transpose(0, 3, 1, 2))).to(self.device)  # (B, 3, H, W)
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            with torch.inference_mode():
                return [t.float().cpu().numpy() for t in self._network(x)]
        finally:
            torch.backends.cudnn.allow_tf32 = before

    def _behaves(self) -> bool:
        """Whether a tap up to 768 is the FID network's, told by what it makes of one picture, folded batch norms or not."""
        if self.tap == "2048" or self.logits:
            return False
        asked, self._network.features_list = self._network.features_list, ["768"]
        seen = self._pass(_test_card())[0][0, : len(_FIRST)]
        self._network.features_list = asked
        return bool(np.abs(seen - np.array(_FIRST, np.float32)).max() < 1e-3)


def _test_card() -> NDArray[np.uint8]:
    """uint8 (1, 32, 32, 3): three ramps."""
    down, right = np.mgrid[:32, :32]
    return np.stack([8 * right, 8 * down, (8 * right + 4 * down) % 256], -1).astype(np.uint8)[None]


def _build(tensors: dict[str, Tensor], taps: list[str], file: Path, whole: bool) -> Any:
    """torch-fidelity's network with these tensors; its own loader, which unpickles whatever a file holds, gets an empty one."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise MissingError("FID, IS and KID need torch-fidelity", fix="pip install 'edgedit[host]'") from error

    class Network(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
            if not whole:
                for name in TAIL:
                    delattr(self, name)
            expected = {k: v.shape for k, v in self.state_dict().items() if not k.endswith("num_batches_tracked")}
            wrong = [k for k, shape in expected.items() if k not in tensors or tensors[k].shape != shape]
            if wrong:
                seen = tuple(tensors[wrong[0]].shape) if wrong[0] in tensors else "missing"
                raise ArtifactError(f"{file} does not hold the Inception network of FID", fix=f"the published file is {URL}",
                                    saw=f"{wrong[0]}: {seen}, needed {tuple(expected[wrong[0]])} ({len(wrong)} tensors do not fit)")
            return nn.Module.load_state_dict(self, {k: tensors[k].float() for k in expected}, strict=False)

    nothing = BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    return Network(NAME, taps, feature_extractor_weights_path=nothing)
