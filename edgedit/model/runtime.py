"""PyTorch as a runtime on the host, with the same methods as the device's runtimes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgedit.model.deploy import fold
from edgedit.model.dit import DiT


class TorchRuntime:
    """Runs a student in PyTorch: the folded form, or the training form as the reference.

    Args:
        model: training form.
        guidance_scale: classifier-free guidance.
        folded: run the inference form.
        device: "cpu", "cuda" …
        dtype: float32, or float64 for parity references.
    """

    name = "torch"

    def __init__(self, model: DiT, guidance_scale: float, *, folded: bool = True, device: str = "cpu",
                 dtype: torch.dtype = torch.float32) -> None:
        self.spec, self.guidance_scale, self.dtype, self.device = model.spec, guidance_scale, dtype, torch.device(device)
        self.provider = f"torch-{self.device.type}"
        self.version = torch.__version__
        model = model.to(self.device, dtype).eval()
        self._folded = fold(model, guidance_scale) if folded else None
        self._model = model

    def images(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.floating]:
        """float (B, C, S, S) before quantisation, in the runtime's dtype."""
        with torch.inference_mode():
            z = torch.from_numpy(noise).to(self.device, self.dtype)
            c = torch.from_numpy(labels).to(self.device, torch.int64)
            x = self._folded.images(z, c) if self._folded is not None else self._model.guided(z, c, self.guidance_scale)
        return x.cpu().numpy()

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """float32 (B, C, S, S), int32 (B,) → uint8 (B, S, S, C)."""
        levels = np.clip(self.images(noise, labels) * 127.5 + 128, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))

    def close(self) -> None:
        """Nothing is held beyond this object."""
