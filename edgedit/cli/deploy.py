"""The verb that goes from a host to a board: deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedit.cli.console import Console
from edgedit.cli.options import BundleDir, Json


def deploy(
    board: Annotated[str, typer.Argument(metavar="USER@BOARD", help="As ssh knows it: a name, an address, an alias of ~/.ssh/config.")],
    bundle: BundleDir,
    out: Annotated[Path, typer.Option(help="Folder on this host for what comes back: record/, images/, deploy.json.")] = Path("runs/board"),
    profile: Annotated[bool, typer.Option("--profile", help="Measure on the board, and bring the record back.")] = False,
    generate: Annotated[int, typer.Option(min=0, metavar="N", help="Make N images on the board, and bring them back.")] = 0,
    images: Annotated[int, typer.Option(min=1, help="Images of the measurement (paper: 50,000).")] = 50_000,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a run (paper: 128); the bundle's own by default.")] = None,
    power_mode: Annotated[str | None, typer.Option(help="Power mode of the board while it measures, by name: 25W. It is set back.")] = None,
    lock_clocks: Annotated[bool, typer.Option("--lock-clocks", help="Pin its clocks while it measures; they are set back.")] = False,
    runtime: Annotated[str, typer.Option(help="auto (TensorRT where the board has it), trt, ort.")] = "auto",
    folder: Annotated[str, typer.Option("--dir", help="Folder on the board for all of it.")] = "~/edgedit",
    offline: Annotated[Path | None, typer.Option(exists=True, file_okay=False, metavar="DIR",
                                                 help="Bring these wheels along, for a board without a package index.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="ssh port.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Private key file.")] = None,
    ssh_option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Any option of ssh_config(5); repeatable.")] = None,
    patience_s: Annotated[float, typer.Option("--patience", min=0, help="Seconds to wait for a board that stops answering.")] = 900.0,
    stop: Annotated[bool, typer.Option("--stop", help="Stop what an earlier deploy left running on the board; nothing else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look, and say what would be done.")] = False,
    json: Json = False,
) -> None:
    """Install on a board over ssh, build the engine there, generate, profile, and bring record and images back.

    Each step asks the board first whether it is done; the same command goes on wherever it was cut, also after a power loss.
    Long steps run on the board apart from the connection. Keys only: no password is asked for.

    Example: edgedit deploy jetson@orin runs/bundle --profile --power-mode 25W --out runs/board
    """
    from dataclasses import asdict

    from edgedit.remote.deploy import DeploySettings
    from edgedit.remote.deploy import deploy as deploy_stage
    from edgedit.remote.deploy import stop as stop_stage
    from edgedit.remote.ssh import Target

    target = Target.parse(board, port=port, identity=identity, options=tuple(ssh_option or ()))
    settings = DeploySettings(folder=folder, runtime=runtime, generate=generate, profile=profile, images=images, batch=batch,
                              power_mode=power_mode, lock_clocks=lock_clocks, offline=offline, patience_s=patience_s)
    with Console(json) as ui:
        if stop:
            stopped = stop_stage(target, settings)
            ui.done(f"{target}: stopped {', '.join(stopped)}" if stopped else f"{target}: nothing was running", data={"stopped": stopped})
            return
        result = deploy_stage(target, bundle, out, settings, dry_run=dry_run, say=ui)
        if dry_run:
            ui.done(f"{target}: nothing was changed", data=asdict(result))
            return
        came = [str(path) for path in (result.record, result.images) if path is not None]
        speed = f": {result.measured['images_per_s']:,.1f} images/s" if result.measured else ""
        ui.done(f"{', '.join(came) or f'{target} is ready'}{speed}",
                following=f"edgedit report {result.record} --out report.html" if result.record
                else f"edgedit deploy {target} {bundle} --profile", data=asdict(result))
