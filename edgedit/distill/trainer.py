"""One student being trained: weights, average, optimiser and setup on a device; a step, and all of it as named tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.core.spec import DiTSpec
from edgedit.distill.data import Batch
from edgedit.distill.ema import Ema
from edgedit.distill.settings import TrainSettings
from edgedit.distill.setup import Setup, Student, make_setup
from edgedit.distill.state import restore
from edgedit.model.dit import DiT


class Trainer:
    """The state of a run that changes with every step.

    For several processes: wrap `student` in DistributedDataParallel here, give each rank its rows of the batch in `data.py`,
    and let rank 0 alone write.
    """

    def __init__(self, spec: DiTSpec, settings: TrainSettings, device: torch.device,
                 weights: dict[str, Tensor] | None = None) -> None:
        self.settings, self.device = settings, device
        self.model = DiT(spec, seed=settings.seed % (1 << 63)).to(device)
        if weights is not None:
            self.model.load_state_dict(weights)
        self.setup: Setup = make_setup(settings, spec, self.model, device)
        self.student: Student = torch.compile(self.model) if settings.compile else self.model
        self.ema = Ema(self.model, settings.ema_decay, settings.ema_warmup)
        self.trained = {f"model.{n}": p for n, p in self.model.named_parameters() if p.requires_grad}
        self.trained |= {f"extra.{n}": p for n, p in self.setup.extra_parameters().items()}
        o = settings.optimizer
        self.optimizer = torch.optim.AdamW(self.trained.values(), o.lr, o.betas, weight_decay=o.weight_decay, fused=True)

    def step(self, batch: Batch, lr: float, want_norm: bool = False) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """One step of descent and of the average.

        Returns:
            loss (detached, on the device: reading it waits for the device), gradient norm if wanted or clipped by, and the
            setup's logs.
        """
        with self._autocast():
            loss, logs = self.setup.loss(self.student, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip, norm = self.settings.optimizer.grad_clip, None
        if clip is not None or want_norm:
            norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), float("inf") if clip is None else clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.ema.update(batch.step)
        return loss.detach(), norm, logs

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.settings.precision == "bf16" else nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that going on needs, by name: "model.…", "ema.…", "extra.…", "optimizer.…", "setup.…"."""
        out = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        out |= {f"ema.{n}": t for n, t in self.ema.model.state_dict().items()}
        out |= {n: p.detach() for n, p in self.trained.items() if n.startswith("extra.")}
        out |= {f"setup.{n}": t for n, t in self.setup.state_dict().items()}
        for name, parameter in self.trained.items():
            out |= {f"optimizer.{name}.{key}": t for key, t in self.optimizer.state[parameter].items()}
        return out

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; ArtifactError when names or shapes do not fit."""
        for name, parameter in self.trained.items():
            prefix = f"optimizer.{name}."
            self.optimizer.state[parameter] = {n[len(prefix):]: torch.empty_like(t, device=self.device)
                                               for n, t in tensors.items() if n.startswith(prefix)}
        own = self.tensors()
        saved = {n: t for n, t in tensors.items() if not n.startswith("setup.")}
        wrong = sorted({n for n in own if not n.startswith("setup.")} ^ saved.keys()) or \
            [n for n, t in saved.items() if t.shape != own[n].shape]
        if wrong:
            raise ArtifactError("the checkpoint does not fit this run", saw=wrong[0], fix="begin anew with --restart")
        for name, tensor in saved.items():
            restore(own[name], tensor)
        self.setup.load_state_dict({n.removeprefix("setup."): t for n, t in tensors.items() if n.startswith("setup.")})


def pick_device(settings: TrainSettings) -> torch.device:
    """The device that the settings name; "auto" is the first CUDA device, else the CPU.

    Raises:
        UsageError: no such device, or a precision that it lacks.
        MissingError: a CUDA device was asked for and there is none.
    """
    if settings.device == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        try:
            device = torch.device(settings.device)
        except RuntimeError as error:
            raise UsageError(f"'{settings.device}' is not a device", fix="auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MissingError("there is no CUDA device here", saw=f"torch {torch.__version__}", fix="--set device=cpu")
    if device.type not in ("cuda", "cpu"):
        raise UsageError(f"training on '{device.type}' is not supported", fix="auto, cpu, cuda or cuda:N")
    if settings.precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8):
        raise UsageError("tf32 needs an NVIDIA GPU of compute capability 8.0 or later", saw=device, fix="--set precision=fp32")
    return device


@contextmanager
def torch_as_told(settings: TrainSettings) -> Iterator[None]:
    """Threads and float32 matmul precision of torch while a run lasts; both are put back after it."""
    threads, precision, convolutions = (torch.get_num_threads(), torch.get_float32_matmul_precision(),
                                        torch.backends.cudnn.allow_tf32)
    try:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        torch.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions
