"""What a distillation setup is, and the list of them. A new one is a file with a class and a line in `_SETUPS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgedit.core.spec import DiTSpec
from edgedit.distill.data import Batch
from edgedit.distill.settings import TrainSettings
from edgedit.model.dit import DiT

Student = Callable[[Tensor, Tensor], Tensor]
"""noise, labels → images: the model, perhaps compiled."""


class Setup(Protocol):
    """One way to teach a student. The loop owns optimiser, average, checkpoints and logs; the setup owns the loss.

    Modules that a setup trains beside the student (projections, heads, a critic) are its own: they are optimised and saved
    with the student and left out of what is exported. Whatever is random must follow from `batch.step` and the seed.
    """

    def loss(self, student: Student, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar to descend, and scalars to log by name (detached)."""
        ...

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters to train beside the student's, by a stable name."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What resuming needs beyond `extra_parameters` (a critic's optimiser, say)."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        ...

    def facts(self) -> dict[str, Any]:
        """JSON values that a reader of the result needs to judge it (which metric, with which weights); must not change
        when a run is resumed."""
        ...


def make_setup(settings: TrainSettings, spec: DiTSpec, student: DiT, device: torch.device) -> Setup:
    """The setup that the settings name, on a device."""
    return _SETUPS[settings.setup](settings, spec, student, device)


def _get(settings: TrainSettings, spec: DiTSpec, student: DiT, device: torch.device) -> Setup:
    from edgedit.distill.get import Get

    return Get(settings, spec, student, device)


_SETUPS: dict[str, Callable[[TrainSettings, DiTSpec, DiT, torch.device], Setup]] = {"get": _get}
