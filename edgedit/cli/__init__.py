"""The `edgedit` command. Each verb parses, calls one stage function, prints the result and the next command.

Rooms are imported inside the verbs, so `edgedit --help` starts at once and a board without torch can run its own verbs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from edgedit.cli import board, build, card, deploy, design, evaluate, host, pairs, sweep, teacher
from edgedit.core.errors import EdgeditError, UsageError

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


_VERBS: list[tuple[str, Callable[..., None]]] = [
    ("", host.quickstart), ("", board.doctor), ("teacher", teacher.convert), ("teacher", teacher.train), ("teacher", teacher.sample),
    ("pairs", pairs.pairs), ("pairs", pairs.take), ("pairs import", pairs.import_get), ("", host.train), ("", evaluate.evaluate),
    ("", host.export), ("", host.compare), ("", build.build), ("", board.generate), ("", board.profile), ("", deploy.deploy),
    ("", design.design), ("", design.predict), ("", sweep.sweep), ("", board.report), ("", card.card), ("", board.show),
]
"""Every verb under its group, in the order of --help. A verb of its group's name is what the group does without a sub-command."""
_ABOUT = {"teacher": "Convert, train and look at diffusion teachers.", "pairs import": "Bring in pairs that others made."}


def _help(verb: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line, so that it wraps to the terminal and not to the source."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (verb.__doc__ or "").split("\n\n"))


def _tree() -> dict[str, typer.Typer]:
    """The app and its groups, by path, with all verbs in them."""
    groups = {"": app}
    for path, verb in _VERBS:
        name = verb.__name__.removeprefix(path.rpartition(" ")[2] + "_")
        if path not in groups:
            above, _, last = path.rpartition(" ")
            own = verb if verb.__name__ == last else None
            groups[path] = typer.Typer(invoke_without_command=own is not None, callback=own, no_args_is_help=own is None,
                                       help=_help(own) if own else _ABOUT[path])
            groups[above].add_typer(groups[path], name=last)
            if own:
                continue
        groups[path].command(name, help=_help(verb))(verb)
    return groups


_GROUPS = _tree()


def _run(arguments: list[str]) -> None:
    """The verb. With --json a mistyped command is an error of our own, so that a script finds it on stdout like any other."""
    if "--json" not in arguments:
        app(arguments, prog_name="edgedit")
        return
    try:
        code = app(arguments, prog_name="edgedit", standalone_mode=False)
    except typer.Abort:
        raise SystemExit(130) from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's, which newer typers carry inside
            raise
        context = getattr(error, "ctx", None)
        raise UsageError(error.format_message(), fix=f"{context.command_path} --help" if context else None) from None
    raise SystemExit(code or 0)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that a user can act on are printed without a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # GNU OpenMP's threads spin while they wait: where another program holds a core, training gets several times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        _run(arguments)
    except EdgeditError as error:
        if "--json" in arguments and os.environ.get("RANK", "0") == "0":
            import json

            print(json.dumps({"error": {"what": error.what, "saw": error.saw, "fix": error.fix}}, indent=1))
        if not error.echo:
            process = f" (process {os.environ['RANK']})" if "RANK" in os.environ else ""
            print(f"error{process}: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None
    except SystemExit as stop:
        if stop.code == 130:  # Ctrl-C where nothing had begun that a stage could save; click has turned it into this
            print("\nstopped; run the same command again to go on", file=sys.stderr)
        raise
