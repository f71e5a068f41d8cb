"""Run the board's own programs, nvpmodel and jetson_clocks, with the rights that they need."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgedit.core.errors import EdgeditError, MissingError
from edgedit.device.nvpmodel import parse_query, read_live_id
from edgedit.device.sysfs import container

Way = Literal["root", "rule", "given"]
"""Root already; sudo rules that need no password; a password that was given on this terminal a moment ago."""

RULE = ('echo "$USER ALL=(root) NOPASSWD: /usr/sbin/nvpmodel, /usr/bin/jetson_clocks" | sudo tee /etc/sudoers.d/edgedit')
_TIMEOUT_S = 30.0


def find_program(name: str, root: Path = Path("/")) -> Path | None:
    """An executable of the system at `root`; None when there is none."""
    places = ("usr/sbin", "usr/bin", "sbin", "bin")
    path = os.pathsep.join(str(root / place) for place in places)
    found = shutil.which(name, path=path if root != Path("/") else os.pathsep.join((os.environ.get("PATH", ""), path)))
    return Path(found) if found else None


@dataclass(frozen=True)
class Tools:
    """The programs of one board; `prefix` is put before each (sudo, or nothing)."""

    nvpmodel: Path
    jetson_clocks: Path | None
    prefix: tuple[str, ...] = ()

    def run(self, program: Path, *arguments: str) -> tuple[int, str]:
        """Exit status and everything printed; questions get no answer."""
        return run([*self.prefix, str(program), *arguments])


def find_tools(root: Path, way: Way = "root") -> Tools:
    """The board's programs, to be run in this way.

    Raises:
        MissingError: no nvpmodel: not a Jetson, or a container without it.
    """
    nvpmodel, clocks = find_program("nvpmodel", root), find_program("jetson_clocks", root)
    if nvpmodel is None:
        inside = container(root)
        raise MissingError("power modes cannot be set here", saw=f"no nvpmodel in this {inside} container" if inside else "no nvpmodel",
                           fix="set the mode on the board itself, outside the container: sudo nvpmodel -m ID" if inside else
                           "leave --power-mode out; only a Jetson has power modes")
    return Tools(nvpmodel, clocks, () if way != "rule" else (_sudo(root), "-n", "--"))


def find_way(tools: Tools, root: Path, *, euid: int | None = None) -> Way:
    """How to become root without a question.

    A password that sudo remembers is forgotten after some minutes, perhaps before the board is to be put back; so with one
    ("given") the whole keeper is started by sudo, while a rule ("rule") is used for each program by itself.

    Raises:
        MissingError: sudo would ask for a password; the fix is what to type beforehand.
    """
    if (os.geteuid() if euid is None else euid) == 0:
        return "root"
    sudo = find_program("sudo", root)
    if sudo is not None:
        programs = [(str(tools.nvpmodel), "-q")]
        if tools.jetson_clocks is not None:
            programs.append((str(tools.jetson_clocks), "--show"))
        if all(run([str(sudo), "-n", "-k", "--", *program])[0] == 0 for program in programs):
            return "rule"
        if run([str(sudo), "-n", "--", *programs[0]])[0] == 0:
            return "given"
    raise MissingError("changing the power mode or the clocks needs root, and sudo would ask for a password",
                       saw="sudo -n: a password is required" if sudo else "not root, and no sudo",
                       fix=f"sudo -v, then the same command again in this terminal; or once and for all: {RULE}")


def ask_live_id(root: Path = Path("/")) -> int | None:
    """Id of the live mode by nvpmodel's status file, else by `nvpmodel -q`, which needs no rights; None where neither tells."""
    live = read_live_id(root)
    if live is not None or (program := find_program("nvpmodel", root)) is None:
        return live
    found = parse_query(run([str(program), "-q"], timeout_s=5.0)[1])
    return found[1] if found is not None else None


def live_mode(tools: Tools, root: Path) -> int:
    """Id of the live mode, by nvpmodel's status file, else by `nvpmodel -q`.

    Raises:
        EdgeditError: neither tells.
    """
    live = read_live_id(root)
    if live is not None:
        return live
    status, text = tools.run(tools.nvpmodel, "-q")
    found = parse_query(text)
    if found is None:
        raise EdgeditError("the present power mode cannot be told, so it could not be put back", saw=_last(text) or f"exit {status}",
                           fix="sudo nvpmodel -q")
    return found[1]


def set_mode(tools: Tools, number: int, name: str) -> None:
    """Ask nvpmodel for a mode. A question for a reboot is never answered.

    Raises:
        EdgeditError: nvpmodel refused, with its own words; some versions print NVPM ERROR and still exit with 0.
    """
    status, text = tools.run(tools.nvpmodel, "-m", str(number))
    if "reboot required" in text.lower():
        raise EdgeditError(f"the board would have to reboot for power mode {name}", saw=_said(text, "Reboot"),
                           fix=f"sudo nvpmodel -m {number}, answer YES, and after the reboot measure without --power-mode")
    if status != 0 or "NVPM ERROR" in text:
        raise EdgeditError(f"nvpmodel refused power mode {name}", saw=_said(text, "NVPM ERROR") or f"exit {status}",
                           fix=f"sudo nvpmodel -m {number} --verbose shows which parameter; a reboot clears most refusals")


def clocks(tools: Tools, *arguments: str) -> None:
    """Run jetson_clocks: without arguments it pins, with --store or --restore and a file it keeps and puts back.

    Raises:
        EdgeditError, MissingError: it failed, with its own words, or is not there.
    """
    if tools.jetson_clocks is None:
        raise MissingError("clocks cannot be pinned here", saw="no jetson_clocks", fix="sudo apt install nvidia-l4t-tools")
    if arguments[:1] == ("--store",):
        Path(arguments[1]).unlink(missing_ok=True)  # it would ask whether to overwrite
    status, text = tools.run(tools.jetson_clocks, *arguments)
    if status != 0 or text.lstrip().startswith("Error"):
        raise EdgeditError(f"jetson_clocks {arguments[0] if arguments else ''}".rstrip() + " failed", saw=_last(text) or f"exit {status}",
                           fix="sudo jetson_clocks --show")


def run(command: list[str], timeout_s: float = _TIMEOUT_S) -> tuple[int, str]:
    """Exit status and output (both streams) of a program without input; 124 and what it said when it hangs, 127 if unrunnable."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s,
                              env={**os.environ, "LC_ALL": "C"}, check=False)
    except subprocess.TimeoutExpired as error:
        return 124, (error.stdout or b"").decode(errors="replace") + f"\nno end after {timeout_s:.0f} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def _sudo(root: Path) -> str:
    return str(find_program("sudo", root) or "sudo")


def _said(text: str, mark: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if mark in line)


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
