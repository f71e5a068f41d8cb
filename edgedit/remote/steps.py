"""The steps of a deployment. Each asks the board whether it is done already, does what is missing, and can be repeated."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedit.core.artifact import Artifact
from edgedit.core.errors import ArtifactError, EdgeditError, MissingError, OutputError
from edgedit.core.files import sha256_file
from edgedit.core.say import Event
from edgedit.remote.board import Board
from edgedit.remote.facts import ORT_INDEX, BoardFacts
from edgedit.remote.failures import disk_full
from edgedit.remote.job import Job, run_job

JOBS = ("install", "build", "generate", "profile")


@dataclass(frozen=True)
class Places:
    """Where things lie on the board: all under one folder, named by what they hold."""

    folder: str
    digest: str
    """Of the bundle."""

    @property
    def venv(self) -> str:
        return f"{self.folder}/venv"

    @property
    def python(self) -> str:
        return f"{self.venv}/bin/python"

    @property
    def edgedit(self) -> str:
        return f"{self.venv}/bin/edgedit"

    @property
    def wheels(self) -> str:
        return f"{self.folder}/wheels"

    @property
    def bundle(self) -> str:
        return f"{self.folder}/bundles/{self.digest[:12]}"

    def out(self, key: str) -> str:
        """Folder of the results of one request."""
        return f"{self.folder}/out/{key}"


def key_of(*parts: Any) -> str:
    """A short name of a request: the same parts, the same key."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


# --- environment --------------------------------------------------------------------------------------------------------------


def environment_there(board: Board, places: Places, facts: BoardFacts) -> bool:
    """Whether the environment is one of the system's present Python and sees the system's packages."""
    code = ("import sys; c = open(sys.prefix + '/pyvenv.cfg').read().lower().replace(' ', ''); import pip; "
            "print('.'.join(map(str, sys.version_info[:3])), 'include-system-site-packages=true' in c)")
    seen = board.run([places.python, "-c", code], cwd="/")
    return seen["rc"] == 0 and seen["out"].split() == [facts.python, "True"]


def make_environment(board: Board, places: Places) -> None:
    """`python3 -m venv --system-site-packages`: TensorRT's module belongs to the system (jetson.md 1.2)."""
    board.ask("make", folders=[places.folder])
    done = board.run(environment_command(places), cwd=places.folder, timeout_s=600)
    if done["rc"]:
        text = done["err"] + done["out"]
        if "ensurepip is not available" in text or "python3-venv" in text:
            raise MissingError("the board cannot make virtual environments", saw=_last(text),
                               fix="on the board: sudo apt install python3-venv")
        raise disk_full(text, f"{places.folder} on the board") or OutputError(
            "the environment could not be made on the board", saw=_last(text),
            fix=f"look at {places.venv} on the board; remove it to begin anew")


def environment_command(places: Places) -> list[str]:
    """The command that makes the environment."""
    return ["python3", "-m", "venv", "--clear", "--system-site-packages", places.venv]


# --- edgedit ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wheels:
    """What is installed: edgedit's own wheel, wheels brought along (None: from the index), and the runtime they are for."""

    own: Path
    offline: Path | None
    runtime: str

    def key(self, facts: BoardFacts) -> str:
        """Names this installation: other bytes, other key."""
        brought = sorted(p.name for p in self.offline.glob("*.whl")) if self.offline else None
        return key_of("install", sha256_file(self.own), brought, self.runtime, facts.python, facts.jetpack_major)

    def commands(self, places: Places, facts: BoardFacts) -> tuple[tuple[str, ...], ...]:
        """pip's command lines: dependencies first, then exactly this edgedit, though its version may be there in other bytes."""
        pip = (places.python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install")
        source = ("--no-index", "--find-links", f"{places.wheels}/offline") if self.offline else ()
        wheel = f"{places.wheels}/{self.own.name}"
        index = ORT_INDEX.get(facts.jetpack_major or "")
        extra = "jetson" if self.runtime == "trt" else None if index else "cpu"
        commands = [(*pip, *source, f"{wheel}[{extra}]" if extra else wheel)]
        if self.runtime == "ort" and index:
            commands.append((*pip, *(source or ("--index-url", index)), "onnxruntime-gpu"))
        return (*commands, (*pip, "--no-index", "--no-deps", "--force-reinstall", wheel))


def installed(board: Board, places: Places, key: str) -> bool:
    """Whether this very edgedit runs in the environment."""
    return (board.ask("recall", folder=places.folder).get("install") == key
            and board.run([places.edgedit, "--version"], cwd="/")["rc"] == 0)


def install(board: Board, places: Places, facts: BoardFacts, wheels: Wheels) -> None:
    """Bring the wheels and let pip install them, as a job: pycuda is compiled there, which takes minutes."""
    board.ask("make", folders=[places.wheels, f"{places.wheels}/offline"])
    board.push(wheels.own, places.wheels)
    if wheels.offline is not None:
        board.push(wheels.offline, f"{places.wheels}/offline")
    key = wheels.key(facts)
    run_job(board, places.folder, Job("install", key, wheels.commands(places, facts), merge=True,
                                   hide="Requirement already satisfied"))
    board.ask("remember", folder=places.folder, step="install", value=key)


# --- bundle -------------------------------------------------------------------------------------------------------------------


def bundle_there(board: Board, places: Places) -> bool:
    """Whether the board holds this very bundle: it reads every file and compares the hashes."""
    seen = board.run([places.edgedit, "show", places.bundle, "--json"], cwd="/", timeout_s=600)
    try:
        this = json.loads(seen["out"])["links"][0]
    except (ValueError, KeyError, IndexError):
        return False
    return bool(this["status"] == "verified" and this["digest"] == places.digest)


def send_bundle(board: Board, places: Places, bundle: Artifact) -> None:
    """Copy the bundle; where the board then reads other bytes than were sent, copy once more by contents."""
    board.ask("make", folders=[places.bundle])
    for by_contents in (False, True):
        board.push(bundle.path, places.bundle, checksum=by_contents)
        if bundle_there(board, places):
            return
    raise ArtifactError("the bundle arrives altered on the board", saw=f"{places.bundle} does not verify",
                        fix=f"look at the board's disk (dmesg), remove {places.bundle} there, and run the same command again")


# --- doctor, and the verbs that run there -------------------------------------------------------------------------------------


def doctor(board: Board, places: Places) -> list[dict[str, str]]:
    """The board's own `edgedit doctor`: its findings are told; errors among them stop the deployment.

    Raises:
        MissingError: a finding of level "error", with its fix.
    """
    seen = board.run([places.edgedit, "doctor", "--json"], cwd=places.folder, timeout_s=300)
    try:
        findings: list[dict[str, str]] = json.loads(seen["out"])["findings"]
    except (ValueError, KeyError):
        raise EdgeditError("edgedit does not start on the board", saw=_last(seen["err"]),
                           fix=f"on the board: {places.edgedit} doctor") from None
    for found in findings:
        if found["level"] != "ok":
            fix = f"; fix: {found['fix']}" if found["fix"] else ""
            board.say(Event(f"board: {found['title']}: {found['saw']}{fix}", level="warning" if found["level"] == "warning" else "info"))
    errors = [found for found in findings if found["level"] == "error"]
    if errors:
        raise MissingError("the board is not ready: " + "; ".join(f["title"] for f in errors), saw="; ".join(f["saw"] for f in errors),
                           fix="on the board: " + " && ".join(f["fix"] for f in errors if f["fix"]))
    return findings


def build_command(places: Places, batch: int) -> tuple[str, ...]:
    """Build the engine of this batch; with one in the cache it returns at once."""
    return (places.edgedit, "build", places.bundle, "--batch", str(batch), "--json")


def generate_command(places: Places, runtime: str, count: int, batch: int, out: str) -> tuple[str, ...]:
    """All images into one .npz, and a picture of the first 1,024; by the engine of this batch, where there is one."""
    size = ("--batch", str(batch)) if runtime == "trt" else ()
    return (places.edgedit, "generate", places.bundle, "--runtime", runtime, "--count", str(count), *size, "--npz", f"{out}/images.npz",
            "--out", f"{out}/images.png", "--json")


def profile_command(places: Places, runtime: str, images: int, batch: int, power_mode: str | None, lock_clocks: bool,
                    out: str) -> tuple[str, ...]:
    """The paper's protocol; a complete record of the same measurement is left alone."""
    mode = (*(("--power-mode", power_mode) if power_mode else ()), *(("--lock-clocks",) if lock_clocks else ()))
    return (places.edgedit, "profile", places.bundle, "--runtime", runtime, "--images", str(images), "--batch", str(batch),
            "--power", "auto", *mode, "--out", f"{out}/record", "--json")


def verb(board: Board, places: Places, name: str, key: str, command: tuple[str, ...]) -> dict[str, Any]:
    """Run a verb of the board's edgedit as a job; its JSON. Done work is found by the verb itself, by hash."""
    out = run_job(board, places.folder, Job(name, key, (command,)))
    try:
        told: dict[str, Any] = json.loads(out)
    except ValueError:
        raise EdgeditError(f"{name} on the board gave no JSON", saw=out[-300:], fix=shlex.join(command) + " on the board") from None
    return told


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]
