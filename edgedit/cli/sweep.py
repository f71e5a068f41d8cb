"""The verb `sweep`: a table of designs, trained, evaluated, exported and profiled."""

from __future__ import annotations

import itertools
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from edgedit.cli.console import Console
from edgedit.cli.options import Json, Out, Sets
from edgedit.core.errors import UsageError


def sweep(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="table1 … table6, fig3, fig4 (the paper's), or a TOML file of yours.")],
    pairs: Annotated[Path, typer.Option(help="Folder made by `edgedit pairs`.")],
    out: Out,
    steps: Annotated[int | None, typer.Option(min=1, help="Cut every training to this many steps.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Cut every training to this many passes over the pairs (paper: 100).")] = None,
    images_seen: Annotated[int | None, typer.Option(min=1, help="Cut every training to this many images.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train each for so long at most; a falling rate ends with it.")] = None,
    pairs_limit: Annotated[int | None, typer.Option(min=1, help="Train on the first so many pairs.")] = None,
    profile_images: Annotated[int | None, typer.Option(min=1, help="Images of each profile (paper: 50,000).")] = None,
    evaluate_images: Annotated[int | None, typer.Option(min=2, help="Images of each evaluation (papers: 50,000).")] = None,
    stages: Annotated[str | None, typer.Option(help="Of train, evaluate, export, profile; all by default.")] = None,
    rows: Annotated[str | None, typer.Option(help="Names of the rows to run, with commas; all by default.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="For rows that need the teacher (setup dmd): the one that made the pairs.")] = None,
    lpips_weights: Annotated[Path | None, typer.Option(help="For trainings by LPIPS, where its weights cannot be downloaded.")] = None,
    device: Annotated[str | None, typer.Option(help="What latency is predicted for: orin-nano, orin-nano-super, h200 or a device file; by "
                                                    "default the machine of the records, where it is known.")] = None,
    where: Annotated[str, typer.Option(help="local: one job after another here. ray: this machine's Ray cluster. "
                                            "ray://HEAD:10001: that one; --out and --pairs must lie where all nodes see them.")] = "local",
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every command, and run none.")] = False,
    json: Json = False,
) -> None:
    """Train, evaluate, export and profile every design of a table, job by job.

    Jobs that are done are not run again; a training goes on where it stopped; a job that fails stops only what needs it.
    Ctrl-C lets running jobs save. Cut budgets are told in every row. --set train.KEY=VALUE, evaluate.…, export.…, profile.… reach all rows.

    Example: edgedit sweep table6 --pairs runs/pairs --out runs/sweep --epochs 5 --profile-images 2000 --set train.loss=l1
    """
    from edgedit.cli.host import need_host
    from edgedit.core.settings import resolve
    from edgedit.design.sweep.plan import make_plan
    from edgedit.design.sweep.run import sweep as sweep_stage
    from edgedit.design.sweep.settings import SweepSettings
    from edgedit.design.sweep.table import find_table

    options = {"budget.steps": steps, "budget.epochs": epochs, "budget.images_seen": images_seen, "budget.minutes": minutes,
               "budget.pairs_limit": pairs_limit, "budget.profile_images": profile_images, "budget.evaluate_images": evaluate_images,
               "stages": _names(stages), "rows": _names(rows), "teacher": teacher,
               "device": device,
               "train.lpips_weights": str(lpips_weights.resolve()) if lpips_weights else None}
    settings = resolve(SweepSettings, sets=sets or (), options=options)
    with Console(json) as ui:
        plan = make_plan(find_table(table), pairs, settings)
        _check(plan)
        if dry_run:
            filled = [shlex.join(job.filled(out.resolve(), "python")) for job in plan.jobs.values()]
            commands = [line.replace("python -m edgedit ", "edgedit ", 1) for line in filled]
            skipped = [f"skipped: {row.name}: {row.skip}" for row in plan.rows if row.skip]
            ui.done("\n".join([*commands, *skipped, f"{len(plan.jobs)} jobs for {len(plan.rows)} rows"]), data=plan.to_dict(),
                    following="the same command without --dry-run")
            return
        if where == "local":
            need_host("torch", "onnx", "onnxruntime", "safetensors")
        made = sweep_stage(table, pairs, out, settings, where=where, say=ui)
        from dataclasses import asdict

        ui.done("\n".join(_lines(made.rows)), following=f"edgedit report {out} --out report.html",
                data={"out": str(made.out), "complete": made.complete, "rows": [asdict(row) for row in made.rows]})
    if not made.complete:
        raise typer.Exit(1)


def _check(plan: Any) -> None:
    """Raise UsageError where a verb would not take what its jobs set, before anything is started."""
    from edgedit.core.settings import resolve
    from edgedit.device.profile import ProfileSettings
    from edgedit.distill.settings import TrainSettings
    from edgedit.evaluate.settings import EvaluateSettings

    verbs: dict[str, type[Any]] = {"train": TrainSettings, "evaluate": EvaluateSettings, "profile": ProfileSettings}
    if find_spec("onnx"):  # a machine that only talks to a cluster may be without
        from edgedit.export.bundle import ExportSettings

        verbs["export"] = ExportSettings
    for job in plan.jobs.values():
        sets = [value for option, value in itertools.pairwise(job.command) if option == "--set"]
        if job.kind in verbs and sets:
            try:
                resolve(verbs[job.kind], sets=sets)
            except UsageError as error:
                raise UsageError(f"{job.name}: {error.what}", saw=error.saw, fix=error.fix) from error


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _lines(rows: list[Any]) -> list[str]:
    """A line a row: design, size, quality, latency, energy, state; then what was cut."""
    out = [f"{'row':<18} {'design':<12} {'parameters':>11} {'quality':>28} {'50,000 images':>14} {'J/image':>8}  state"]
    for r in rows:
        size = "" if r.parameters is None else f"{r.parameters:,}"
        quality = f"{r.quality['name']} {r.quality['value']:.4g}" if r.quality else "–"
        latency = f"{r.latency_50k_s:,.1f} s" if r.latency_50k_s else "–"
        energy = f"{r.energy_j_per_image:.3f}" if r.energy_j_per_image else "–"
        state = r.status + (f": {r.why}" if r.why else "")
        out.append(f"{r.name:<18} {r.label:<12} {size:>11} {quality:>28} {latency:>14} {energy:>8}  {state}")
    cuts: dict[str, list[str]] = {}
    for r in rows:
        if r.budget.get("cut"):
            cuts.setdefault(r.budget["cut"], []).append(r.name)
    return out + [f"cut, {', '.join(names)}: {cut}" for cut, names in cuts.items()]
