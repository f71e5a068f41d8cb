"""The only place where PyTorch and the device's side meet: the parity ladder, and PyTorch as a runtime of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.say import Say

if TYPE_CHECKING:
    from edgedit.device.bundle import Bundle


def compare_forms(student: Path, bundles: Sequence[Path], out: Path | None, *, images: int, seed: int, say: Say,
                  records: Sequence[Path] = ()) -> dict[str, Any]:
    """The parity of a student's forms and its bundles, each bundle with its own guidance scale.

    With records of an FP16 and an INT8 bundle the result has "verdicts": whether INT8 is worth it.

    Args:
        student: folder made by `edgedit train`.
        bundles: folders made from it; they must share one guidance scale.
        out: where to keep the ladder, or None.
        images, seed: what to compare.
        records: folders made by `edgedit profile` of these bundles.

    Raises:
        UsageError: a bundle made from another student, bundles with different guidance, a record of none of the bundles.
    """
    import torch

    from edgedit.device.bundle import Bundle
    from edgedit.device.runtime import open_runtime
    from edgedit.evaluate.parity import ParitySettings, Rung, compare
    from edgedit.model.checkpoint import load_student, usual_guidance
    from edgedit.model.runtime import TorchRuntime

    opened = [Bundle.open(path) for path in bundles]
    model, artifact, facts = load_student(student)
    for bundle in opened:
        if artifact.manifest.digest not in (p.digest for p in bundle.artifact.manifest.parents):
            raise UsageError(f"{bundle.path} was not made from {student} as it is now", fix=f"edgedit export {student} --out {bundle.path}")
    scales = {bundle.guidance_scale for bundle in opened} or {usual_guidance(facts)}
    if len(scales) > 1:
        raise UsageError("the bundles were exported with different guidance", saw=sorted(scales), fix="compare them one by one")
    scale = scales.pop()
    verdicts = _verdicts(opened, records)

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
        body = compare(rungs, model.spec, ParitySettings(images=images, seeds=(seed,)), out, parents=parents, say=say)
        return {**body, "verdicts": verdicts}


def _verdicts(bundles: Sequence[Bundle], folders: Sequence[Path]) -> list[dict[str, str]]:
    """INT8 against FP16 for each pair of records; empty without records."""
    from edgedit.core.record import load_record
    from edgedit.evaluate.verdict import int8_verdict

    by_digest = {bundle.digest: bundle for bundle in bundles}
    records = [(folder, load_record(folder)) for folder in folders]
    for folder, record in records:
        if record.subject.bundle_digest not in by_digest:
            raise UsageError(f"{folder} is a record of none of these bundles", saw=f"bundle {record.subject.bundle_digest[:12]}",
                             fix="give the bundle that was profiled, too")
    halves = [record for _, record in records if record.subject.precision == "fp16"]
    return [int8_verdict(by_digest[int8.subject.bundle_digest].artifact.manifest.info["int8"], fp16, int8).model_dump()
            for _, int8 in records if int8.subject.precision == "int8" for fp16 in halves]


def torch_runtime(bundle_path: Path, threads: int | None) -> Any:
    """PyTorch running the folded form of the student that a bundle was made from, on a GPU where there is one.

    Raises:
        ArtifactError: the student is not where the bundle's manifest says, nor beside the bundle, or is another by now.
    """
    import torch

    from edgedit.device.bundle import Bundle
    from edgedit.model.checkpoint import load_student
    from edgedit.model.runtime import TorchRuntime

    bundle = Bundle.open(bundle_path)
    parent = next(p for p in bundle.artifact.manifest.parents if p.role == "student")
    places = [Path(parent.path), bundle.path.parent / Path(parent.path).name]
    for place in filter(Path.is_dir, places):
        model, artifact, _ = load_student(place)
        if artifact.manifest.digest == parent.digest:
            if threads:
                torch.set_num_threads(threads)
            return TorchRuntime(model, bundle.guidance_scale, device="cuda" if torch.cuda.is_available() else "cpu")
    raise ArtifactError(f"the student of {bundle.path} is not here: the torch runtime needs it",
                        saw=f"{parent.path}, digest {parent.digest[:12]}", fix="--runtime ort runs the bundle alone")
