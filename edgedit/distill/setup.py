"""What a distillation setup is. A new one is a file in `distill/setups/`: its name is the setup's, nothing else changes.

The file holds `class Options(SetupSettings)`, what the setup can be told (`--set setup.KEY=VALUE`), and `class Setup(BaseSetup)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, overload

from pydantic import ValidationError

from edgedit.core.artifact import Parent
from edgedit.core.errors import UsageError, did_you_mean
from edgedit.core.pairset import PairSet
from edgedit.core.say import Say, silent
from edgedit.core.settings import Settings
from edgedit.core.spec import DiTSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from edgedit.distill.data import Batch
    from edgedit.distill.settings import TrainSettings
    from edgedit.learn.ranks import Ranks
    from edgedit.model.dit import DiT


class SetupSettings(Settings):
    """Options of a setup; each has its own class, which fixes `name`."""

    name: str

    @classmethod
    def section(cls, values: dict[str, Any]) -> type[SetupSettings]:
        """The class that knows the options of the setup that `values` name (GET when they name none)."""
        return options_class(values.get("name", "get"))


class Student(Protocol):
    """The network being taught, perhaps compiled."""

    @overload
    def __call__(self, noise: Tensor, labels: Tensor, /) -> Tensor:
        """float32 (B, C, S, S), int64 (B,) → images (B, C, S, S)."""

    @overload
    def __call__(self, noise: Tensor, labels: Tensor, taps: tuple[int, ...], /) -> tuple[Tensor, tuple[Tensor, ...]]:
        """With layers (1 … depth, at least one): images and the tokens (B, T, w) that come out of each."""


@dataclass(frozen=True)
class Context:
    """What a setup is built from."""

    settings: TrainSettings
    data: PairSet
    spec: DiTSpec
    model: DiT
    """The student itself, on `device`: for sizes and for running it in other ways than `Student`."""
    device: torch.device
    ranks: Ranks
    say: Say = silent
    """Hears what a user should know of the setup; silent in all processes but the first."""


class BaseSetup:
    """One way to teach a student. The loop owns optimiser, average, checkpoints and logs; the setup owns the loss.

    Modules that a setup trains beside the student (projections, heads, a critic) are its own: they are saved with the
    student and left out of what is exported. Whatever is random must come from the batch (`Batch.normal`, `Batch.uniform`).
    """

    Options: ClassVar[type[SetupSettings]]

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def parents(cls, options: Any, data: PairSet) -> tuple[Parent, ...]:
        """Artifacts that the setup reads beside the pairs (a teacher, an assistant): they join the chain of evidence."""
        return ()

    def loss(self, student: Student, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar to descend, the mean over the batch, and scalars to log by name (detached)."""
        raise NotImplementedError

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters to train beside the student's, by a stable name, by the student's optimiser."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """What resuming needs beyond `extra_parameters` (a critic and its optimiser, say).

        A setup that returns something here is never taken in pieces when memory is short.
        """
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""

    def facts(self) -> dict[str, Any]:
        """JSON values that a reader of the result needs to judge it (which metric, with which weights); must not change
        when a run is resumed."""
        return {}


def setup_names() -> list[str]:
    """All setups: the modules of `distill/setups/`."""
    from edgedit.distill import setups

    return sorted(m.name for m in pkgutil.iter_modules(setups.__path__))


def options_class(name: str) -> type[SetupSettings]:
    """What a setup can be told; UsageError with the nearest name when there is no such setup."""
    if name not in setup_names():
        raise UsageError(f"there is no setup '{name}'", fix=did_you_mean(str(name), setup_names()))
    found: type[SetupSettings] = importlib.import_module(f"edgedit.distill.setups.{name}").Options
    return found


def setup_class(name: str) -> type[BaseSetup]:
    """The setup of that name."""
    options_class(name)
    found: type[BaseSetup] = importlib.import_module(f"edgedit.distill.setups.{name}").Setup
    return found


def find_options(value: Any) -> Any:
    """A name, or a mapping with a name, as the setup's own options."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict):
        return value
    try:
        return options_class(value.get("name", "get")).model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"setting 'setup.{'.'.join(map(str, first['loc']))}' is not valid: {first['msg'].lower()}",
                         saw=repr(first["input"])) from error
