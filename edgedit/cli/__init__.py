"""The `edgedit` command. Each verb parses, calls one stage function, prints the result and the next command.

Rooms are imported inside the verbs, so `edgedit --help` starts at once and a board without torch can run its own verbs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from edgedit.cli import board, evaluate, host, teacher
from edgedit.core.errors import EdgeditError

app = typer.Typer(
    name="edgedit",
    help="Distil tiny one-step diffusion transformers, export them with fused attention, run and measure them on the edge.",
    epilog="Start with `edgedit quickstart` (a host, a few minutes, offline), or `edgedit doctor` on a board.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    add_completion=True,
)


def _version(show: bool) -> None:
    if show:
        from edgedit import __version__

        typer.echo(f"edgedit {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version.")) -> None:
    pass


_VERBS: list[Callable[..., None]] = [host.quickstart, board.doctor, host.pairs, host.train, evaluate.evaluate, host.export, host.compare,
                                     board.generate, board.profile, board.report, board.show]


def _help(verb: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line, so that it wraps to the terminal and not to the source."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (verb.__doc__ or "").split("\n\n"))


for _verb in _VERBS:
    app.command(help=_help(_verb))(_verb)

_GROUPS: list[tuple[str, str, list[Callable[..., None]]]] = [
    ("teacher", "Convert, train and look at diffusion teachers.", [teacher.convert, teacher.train, teacher.sample]),
]
for _name, _about, _verbs in _GROUPS:
    _group = typer.Typer(no_args_is_help=True, help=_about)
    for _verb in _verbs:
        _group.command(help=_help(_verb))(_verb)
    app.add_typer(_group, name=_name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that a user can act on are printed without a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # GNU OpenMP's threads spin while they wait: where another program holds a core, training gets several times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        app(arguments)
    except EdgeditError as error:
        if "--json" in arguments:
            import json

            print(json.dumps({"error": {"what": error.what, "saw": error.saw, "fix": error.fix}}, indent=1))
        if not error.echo:
            process = f" (process {os.environ['RANK']})" if "RANK" in os.environ else ""
            print(f"error{process}: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
