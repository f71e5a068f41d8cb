"""`edgedit teacher …`: convert a published teacher, train one of your own, look at what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedit.cli.console import Console, duration
from edgedit.cli.host import need_host
from edgedit.cli.options import Config, Json, Out, Sets


def convert(
    source: Annotated[Path, typer.Argument(metavar="FILE.pkl", help="edm-cifar10-32x32-cond-vp.pkl, as NVIDIA publishes it.")],
    out: Out,
    expect_sha256: Annotated[str | None, typer.Option(help="Refuse a file with another hash.")] = None,
    json: Json = False,
) -> None:
    """Take the weights out of NVIDIA's pickle, safely.

    A pickle is a program. Nothing in the file is executed or imported: its instructions are read, tensors are understood,
    everything else is refused by name. All 427 tensors and their shapes are checked; the result is safetensors with the
    source's SHA-256. The published weights are for non-commercial use (CC BY-NC-SA 4.0).

    Example: edgedit teacher convert edm-cifar10-32x32-cond-vp.pkl --out teachers/edm
    """
    need_host("torch", "safetensors")
    from edgedit.core.settings import resolve
    from edgedit.teach.convert import ConvertSettings
    from edgedit.teach.convert import convert as convert_stage

    with Console(json) as ui:
        manifest = convert_stage(source, out, resolve(ConvertSettings, options={"expect_sha256": expect_sha256}), say=ui)
        ui.done(f"{out}: {manifest.info['label']}, {manifest.info['parameters']:,} parameters",
                following=f"edgedit teacher sample {out} --count 64 --out grid.png",
                data={"out": str(out), "digest": manifest.digest, **manifest.info})


def train(
    out: Out,
    preset: Annotated[str, typer.Option(help="unet-tiny, unet-small (a CPU, hours), unet-base, unet-large (a GPU), "
                                             "unet-digits.")] = "unet-small",
    data: Annotated[str | None, typer.Option(help="digits, cifar10 (downloaded), a CIFAR-10 folder or archive, or a folder of images by "
                                                  "class.")] = None,
    image: Annotated[int | None, typer.Option(min=4, help="Side of the images; the data set's own by default.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so long at most, over all starts; a falling rate ends with it.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step, over all processes.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from another teacher's weights.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = None,
    sets: Sets = None,
    config: Config = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what --out holds and begin anew.")] = False,
    json: Json = False,
) -> None:
    """Train a diffusion teacher of your own: a U-Net with EDM's preconditioning and loss.

    For people with data and no download. Averaged weights, mirrored images, a tenth of the labels dropped so that pairs can be
    made with guidance. On a GPU add --set precision=bf16 --set compile=true. Ctrl-C and SIGTERM save; the same command goes
    on; more --steps or --minutes train further. A batch that memory does not hold is taken in pieces.

    Example: edgedit teacher train --preset unet-small --data cifar10 --out teachers/unet
    """
    need_host("torch", "safetensors", "sklearn")
    from edgedit.core.settings import resolve
    from edgedit.teach.unet_settings import TeacherSettings, unet_preset
    from edgedit.teach.unet_training import train_teacher

    options = {"data": data, "image": image, "steps": steps, "minutes": minutes, "batch": batch, "device": device}
    settings = resolve(TeacherSettings, base=unet_preset(preset), config=config, sets=sets or (), options=options)
    with Console(json) as ui:
        manifest = train_teacher(out, settings, say=ui, init=init, restart=restart)
        info = manifest.info
        ui.done(f"{out}: {info['label']}, {info['parameters']:,} parameters, {info['images_seen']:,} images in "
                f"{duration(info['wall_s'])}, loss {info['final_loss']:.4f}",
                following=f"edgedit teacher sample {out} --count 64 --out grid.png",
                data={"out": str(out), "digest": manifest.digest, **info})


def sample(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="Folder made by `edgedit teacher train` or `convert`.")],
    out: Annotated[Path, typer.Option(help="Picture to write (.png).")] = Path("grid.png"),
    count: Annotated[int, typer.Option(min=1, help="Images, balanced over the classes.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    guidance: Annotated[float, typer.Option(min=0, help="1 is none; more pulls towards the class, for a teacher trained with label "
                                                        "dropout.")] = 1.0,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the sampler (2·steps - 1 evaluations).")] = 18,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    json: Json = False,
) -> None:
    """Draw a grid of a teacher's images with the sampler that makes pairs.

    Example: edgedit teacher sample teachers/unet --count 64 --out grid.png
    """
    need_host("torch", "safetensors")
    from edgedit.teach.sample import sample_grid

    with Console(json) as ui:
        facts = sample_grid(teacher, out, count=count, seed=seed, guidance=guidance, steps=steps, device=device, say=ui)
        ui.done(f"{out}: {count} images of {facts['label']} in {duration(facts['wall_s'])}",
                following=f"edgedit pairs --teacher {teacher} --count 20000 --out pairs", data=facts)
