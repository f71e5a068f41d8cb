"""`edgedit pairs`, and `edgedit pairs import …` for those that others made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedit.cli.console import Console
from edgedit.cli.host import need_host
from edgedit.cli.options import Config, Json, Out, Sets
from edgedit.core.errors import UsageError


def pairs(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write. The same command again resumes, or returns at once.")] = None,
    teacher: Annotated[str, typer.Option(help="ideal (the exact optimal denoiser of --data; needs no weights), or the folder of a teacher: "
                                              "edgedit teacher train, edgedit teacher convert.")] = "ideal",
    data: Annotated[str, typer.Option(help="For the ideal teacher: digits, cifar10 (downloaded), a CIFAR-10 folder or archive, or a folder "
                                           "of images by class.")] = "digits",
    count: Annotated[int, typer.Option(min=1, help="Pairs in the set.")] = 4096,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    image: Annotated[int | None, typer.Option(min=4, help="Side of the images; the data set's own by default (digits: 16).")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Of a network trained with label dropout: 1 (default) is none, more pulls "
                                                               "towards the class at twice the work.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of a network: fp32 (default), tf32, bf16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto (a GPU for networks where there is one), cpu, cuda, cuda:1 …")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by the number of cores when not given.")] = None,
    sets: Sets = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Let a teacher turn noise into images, and keep the pairs.

    A deterministic EDM Heun sampler (18 steps, 35 evaluations) runs the teacher from noise to an image. Shards of uint8
    images and labels are kept; noise is remade from its seed, so a CIFAR-10 pair costs 3.07 KB. Killed half-way, the same
    command goes on, and the result is the same to the byte. torchrun --nproc-per-node 4 -m edgedit pairs … shares the work.

    Example: edgedit pairs --teacher teachers/unet --count 20000 --out runs/pairs
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise UsageError("pairs needs --out", fix="edgedit pairs --teacher ideal --data digits --out runs/pairs")
    need_host("torch", *(["sklearn"] if teacher == "ideal" and data == "digits" else []))
    from edgedit.core.settings import resolve
    from edgedit.teach.pairs import make_pairs
    from edgedit.teach.settings import PairSettings

    options = {"teacher": teacher, "data": data, "count": count, "seed": seed, "image": image, "guidance": guidance,
               "precision": precision, "device": device, "workers": workers}
    with Console(json) as ui:
        manifest = make_pairs(out, resolve(PairSettings, config=config, sets=sets or (), options=options), say=ui)
        info = manifest.info
        ui.done(f"{out}: {info['count']:,} pairs of {info['image']}×{info['image']} images from {info['label']}",
                following=f"edgedit train --pairs {out} --out runs/student", data={"out": str(out), "digest": manifest.digest, **info})


def take(
    source: Annotated[Path, typer.Argument(metavar="PAIRS", help="Folder made by `edgedit pairs`.")],
    out: Out,
    count: Annotated[int, typer.Option(min=1, help="How many, from the first on.")],
    json: Json = False,
) -> None:
    """Make the first pairs of a set a set of their own: to train on a part, and be judged by the rest.

    Noise, classes, teacher and seed stay those of the whole set, which is named as the parent.

    Example: edgedit pairs take runs/pairs --count 4096 --out runs/few
    """
    from edgedit.core.subset import first_pairs

    with Console(json) as ui:
        info = first_pairs(source, out, count).info
        ui.done(f"{out}: the first {info['count']:,} pairs of {source}", following=f"edgedit train --pairs {out} --out runs/student",
                data={"out": str(out), **info})


def import_get(
    source: Annotated[Path, typer.Option("--from", help="Folder with latent/*.pkl and image/*.pkl.")],
    out: Out,
    noise_scale: Annotated[float | None, typer.Option(help="Standard deviation of the noise in the files: 1 as GET keeps it (default), "
                                                           "80 where it was scaled already.")] = None,
    sets: Sets = None,
    json: Json = False,
) -> None:
    """Bring in the noise–image pairs that GET published.

    Files are read as tensors alone; one that wants code to be run is refused by name. Every value is checked before the first
    shard is written: noise of unit deviation, one-hot labels, images in range. Stopped, the same command goes on.

    Example: edgedit pairs import get --from GET/datasets/cond --out runs/pairs
    """
    need_host("torch")
    from edgedit.core.settings import resolve
    from edgedit.teach.import_get import import_get as import_stage
    from edgedit.teach.settings import ImportSettings

    with Console(json) as ui:
        manifest = import_stage(source, out, resolve(ImportSettings, sets=sets or (), options={"noise_scale": noise_scale}), say=ui)
        info = manifest.info
        ui.done(f"{out}: {info['count']:,} pairs of {info['image']}×{info['image']} images from {info['label']}",
                following=f"edgedit train --pairs {out} --out runs/student", data={"out": str(out), "digest": manifest.digest, **info})
