"""Putting the rungs of a parity ladder together: the only place where PyTorch and the device's runtimes meet."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

from edgedit.core.errors import UsageError
from edgedit.core.say import Say


def compare_forms(student: Path, bundles: Sequence[Path], out: Path | None, *, images: int, seed: int, say: Say) -> dict[str, Any]:
    """The parity of a student's forms and its bundles, each bundle with its own guidance scale.

    Args:
        student: folder made by `edgedit train`.
        bundles: folders made from it; they must share one guidance scale.
        out: where to keep the ladder, or None.
        images, seed: what to compare.

    Raises:
        UsageError: a bundle made from another student, or bundles with different guidance.
    """
    import torch

    from edgedit.device.bundle import Bundle
    from edgedit.device.runtime import open_runtime
    from edgedit.evaluate.parity import ParitySettings, Rung, compare
    from edgedit.model.checkpoint import load_student
    from edgedit.model.runtime import TorchRuntime

    opened = [Bundle.open(path) for path in bundles]
    model, artifact, _ = load_student(student)
    for bundle in opened:
        if artifact.manifest.digest not in (p.digest for p in bundle.artifact.manifest.parents):
            raise UsageError(f"{bundle.path} was not made from {student} as it is now", fix=f"edgedit export {student} --out {bundle.path}")
    scales = {bundle.guidance_scale for bundle in opened} or {1.5}
    if len(scales) > 1:
        raise UsageError("the bundles were exported with different guidance", saw=sorted(scales), fix="compare them one by one")
    scale = scales.pop()

    def torch_rung(name: str, precision: str, dtype: torch.dtype, folded: bool) -> Rung:
        return Rung(name, TorchRuntime(deepcopy(model), scale, folded=folded, dtype=dtype), precision)  # type: ignore[arg-type]

    rungs = [
        torch_rung("training form, float64", "fp64", torch.float64, False),
        torch_rung("folded form, float64", "fp64", torch.float64, True),
        torch_rung("training form, float32", "fp32", torch.float32, False),
        torch_rung("folded form, float32", "fp32", torch.float32, True),
    ]
    with ExitStack() as stack:
        for bundle in opened:
            runtime = open_runtime(bundle)
            stack.callback(runtime.close)
            name = f"{bundle.path.name}: {bundle.precision}, attention {bundle.attention}, {runtime.name} {runtime.version}"
            rungs.append(Rung(name, runtime, bundle.precision, runtime.batch))  # type: ignore[arg-type]
        parents = [artifact.as_parent("student"), *(bundle.artifact.as_parent("bundle") for bundle in opened)]
        return compare(rungs, model.spec, ParitySettings(images=images, seeds=(seed,)), out, parents=parents, say=say)

