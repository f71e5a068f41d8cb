"""The verb that makes a TensorRT engine of a bundle, on the machine that will run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedit.cli.console import Console, duration
from edgedit.cli.options import BundleDir, Config, Json, Sets


def build(
    bundle: BundleDir,
    workspace_mb: Annotated[int | None, typer.Option(min=16, help="Limit of the builder's scratch memory; by default what is free less "
                                                                  "512 MB, at most 1,024 MB on boards up to 8 GB.")] = None,
    attention: Annotated[str | None, typer.Option(help="pattern: as exported; iattention: TensorRT's own attention layer (10.14 or "
                                                       "newer); auto: pattern, then iattention where blocks did not fuse.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a run, for bundles that take any; their own by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the engine instead of the cache.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Build although the engine is there.")] = False,
    sets: Sets = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Build the TensorRT engine of a bundle on this board, and prove which attention blocks fused.

    The engine is kept in the cache: the second time it is there at once. Engines run on the board, the TensorRT and the batch
    that they were built for. Ctrl-C leaves nothing half-made.

    Example: edgedit build runs/bundle --workspace-mb 1024
    """
    from edgedit.core.settings import resolve
    from edgedit.device.trt.build import build as build_stage
    from edgedit.device.trt.engine import fusion_of
    from edgedit.device.trt.settings import BuildSettings

    options = {"workspace_mb": workspace_mb, "attention": attention, "batch": batch}
    settings = resolve(BuildSettings, config=config, sets=sets or (), options=options)
    with Console(json) as ui:
        engine = build_stage(bundle, settings, out=out, again=again, say=ui)
        info, fusion = engine.info, fusion_of(engine)
        lines = [f"{engine.path}: TensorRT {info['tensorrt']}, batch {engine.key.batch}, {info['plan_bytes'] / 1e6:.1f} MB, built in "
                 f"{duration(info['build']['wall_s'])}", f"{fusion['summary']} (attention: {info['attention']['used']})"]
        for block in fusion["blocks"]:
            state = {True: "fused", False: "apart", None: "unknown"}[block["fused"]]
            lines.append(f"  {block['block']:<10} {state:<8} {block['why'] or ', '.join(block['kernels'])}")
        where = f" --engine {engine.path}" if out is not None else ""
        ui.done("\n".join(lines), following=f"edgedit generate {bundle} --runtime trt{where} --count 64 --out samples.png",
                data={**info, "path": str(engine.path), "digest": engine.artifact.manifest.digest, "fusion": fusion})
