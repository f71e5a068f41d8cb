"""`edgedit deploy`: one bundle onto one board, measured there, results back. The same call goes on wherever it was cut."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgedit.core.artifact import Artifact, check_output, open_artifact
from edgedit.core.errors import ArtifactError, Interrupted, OutputError, UsageError, did_you_mean
from edgedit.core.files import write_atomic
from edgedit.core.say import Event, Say, silent
from edgedit.core.stop import stop_on_signals
from edgedit.remote import steps
from edgedit.remote.board import Board
from edgedit.remote.collect import collect_images, collect_record
from edgedit.remote.facts import ENVIRONMENT_MB, RUNTIMES, SPARE_MB, BoardFacts, check, check_compiler
from edgedit.remote.job import stop_jobs
from edgedit.remote.ssh import Connection, Target
from edgedit.remote.wheel import own_wheel


@dataclass(frozen=True)
class DeploySettings:
    """What is to happen on the board.

    Attributes:
        folder: on the board, "~" is the user's home there.
        runtime: "auto", "trt" or "ort".
        generate: images to make and bring back; 0 makes none.
        profile: whether to measure.
        images, batch, power_mode, lock_clocks: of the measurement; batch None is the bundle's own.
        offline: a folder of wheels to install from; None lets the board ask its package index.
        patience_s: how long a lost board is waited for.
        root: root of the board's file system where /etc/nv_tegra_release and the device tree are read.
    """

    folder: str = "~/edgedit"
    runtime: str = "auto"
    generate: int = 0
    profile: bool = False
    images: int = 50_000
    batch: int | None = None
    power_mode: str | None = None
    lock_clocks: bool = False
    offline: Path | None = None
    patience_s: float = 900.0
    root: str = "/"


@dataclass
class Deployed:
    """What was done and what came of it.

    Attributes:
        steps: step → "done", "was there", or in a dry run what would be run.
        board: its facts.
        findings: of its doctor.
        record, images: folders on the host, None where not asked for.
        measured: what profile printed as JSON.
    """

    steps: dict[str, str] = field(default_factory=dict)
    board: dict[str, Any] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)
    engine: dict[str, Any] | None = None
    record: Path | None = None
    images: Path | None = None
    measured: dict[str, Any] | None = None


def deploy(target: Target, bundle_path: str | Path, out: str | Path, settings: DeploySettings | None = None, *,
           dry_run: bool = False, say: Say = silent) -> Deployed:
    """Install, build, generate, profile on a board and bring the results to `out`/record and `out`/images.

    Each step asks the board first whether it is done. Long steps run there apart from the connection: when the host goes away
    they go on, and the same call follows or collects them. A board that was restarted begins the cut step again.

    Args:
        target: the board.
        bundle_path: folder of an exported bundle, on the host.
        out: folder on the host for what comes back.
        dry_run: only look and say what would be done; nothing changes on the board.

    Raises:
        UsageError: settings that the bundle does not allow. Nothing was started.
        Unreachable, MissingError: the board cannot be reached, or lacks something that the fix names.
        OutputError: a disk is full or not writable, there or here; `out` holds another measurement.
        EdgeditError: a step failed on the board; its own words are in it.
        Interrupted: Ctrl-C here; what runs on the board goes on.
    """
    settings = settings or DeploySettings()
    _check_settings(settings)
    bundle = open_artifact(bundle_path, "bundle", fix="edgedit export STUDENT --out FOLDER makes one")
    batch = _batch(bundle, settings.batch)
    folder = Path(out)
    if settings.profile:
        check_output(folder / "record", kind="record")
        _refuse_other(folder / "record", bundle, batch, settings)
    result = Deployed()
    with stop_on_signals() as stop:
        try:
            with Connection(target) as connection, tempfile.TemporaryDirectory() as work:
                board = Board(connection, patience_s=settings.patience_s, say=say)
                _Run(board, bundle, batch, folder, settings, result, dry_run, Path(work)).all()
        except KeyboardInterrupt:
            raise Interrupted(f"stopped by {stop.reason or 'Ctrl-C'} on this host; a job that was started goes on on {target}",
                              saw=f"steps done: {', '.join(result.steps) or 'none'}",
                              fix="the same command follows it again; with --stop it ends it") from None
    return result


def stop(target: Target, settings: DeploySettings) -> list[str]:
    """Stop what a deployment left running on the board; the names of the jobs that ran."""
    with Connection(target) as connection:
        board = Board(connection, patience_s=0.0, say=silent)
        facts = BoardFacts.from_answer(board.ask("facts", folder=settings.folder, root=settings.root))
        return stop_jobs(board, facts.folder, steps.JOBS)


def _check_settings(settings: DeploySettings) -> None:
    """Refuse what no board could do, or what would be left out without a word."""
    if settings.runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime '{settings.runtime}'", fix=did_you_mean(settings.runtime, RUNTIMES))
    if not settings.profile and (settings.power_mode is not None or settings.lock_clocks):
        raise UsageError("power mode and clocks are set for a measurement only, and none is asked for",
                         fix="add --profile, or leave --power-mode and --lock-clocks out")


def _refuse_other(folder: Path, bundle: Artifact, batch: int, settings: DeploySettings) -> None:
    """Refuse to let the coming record take the place of another measurement's."""
    try:
        there = open_artifact(folder, "record").manifest
    except ArtifactError:
        return  # nothing, or nothing whole
    profile = there.settings.get("profile", {})
    asked = {"images": settings.images, "batch": batch, "power_mode": settings.power_mode, "lock_clocks": settings.lock_clocks}
    apart = [f"{name} {profile[name]}, asked {value}" for name, value in asked.items() if name in profile and profile[name] != value]
    if [parent.digest for parent in there.parents] != [bundle.manifest.digest]:
        apart.append("another bundle")
    if apart and there.info.get("complete"):
        raise OutputError(f"{folder} holds another measurement; it was left alone", saw="; ".join(apart), fix="choose another --out")


def _batch(bundle: Artifact, asked: int | None) -> int:
    """The batch to measure at; refused here rather than on the board when the graph cannot take it."""
    own = int(bundle.manifest.settings.get("batch", 0))
    if asked is None or asked == own:
        return own
    if not bundle.manifest.settings.get("dynamic", False):
        raise UsageError(f"{bundle.path} was exported for batch {own} only", saw=f"batch {asked}",
                         fix=f"--batch {own}, or edgedit export STUDENT --out FOLDER --batch {asked}")
    return asked


@dataclass
class _Run:
    """One pass over the steps."""

    board: Board
    bundle: Artifact
    batch: int
    out: Path
    settings: DeploySettings
    result: Deployed
    dry_run: bool
    work: Path

    def all(self) -> None:
        board, settings = self.board, self.settings
        facts = BoardFacts.from_answer(board.ask_once("facts", folder=settings.folder, root=settings.root))
        board.say(Event(f"board: {facts}"))
        self.result.board = asdict(facts)
        digest = self.bundle.manifest.digest
        places, runtime = steps.Places(facts.folder, digest), facts.runtime(settings.runtime)
        wheels = steps.Wheels(own_wheel(self.work), settings.offline, runtime)
        key = wheels.key(facts)
        has_environment = steps.environment_there(board, places, facts)
        has_edgedit = has_environment and steps.installed(board, places, key)
        check(facts, self._needed_mb(has_edgedit))
        if runtime == "trt" and not has_edgedit and settings.offline is None:
            check_compiler(facts)

        self._step("environment", has_environment, lambda: steps.make_environment(board, places),
                   shlex.join(steps.environment_command(places)))
        self._step("install", has_edgedit, lambda: steps.install(board, places, facts, wheels),
                   " && ".join(shlex.join(c) for c in wheels.commands(places, facts)))
        self._step("bundle", has_edgedit and steps.bundle_there(board, places),
                   lambda: steps.send_bundle(board, places, self.bundle), f"rsync {self.bundle.path} to {places.bundle}")
        if has_edgedit or not self.dry_run:
            self.result.findings = steps.doctor(board, places)
            self.result.steps["doctor"] = "done"
        if runtime == "trt":
            self.result.engine = self._verb("build", places, steps.key_of("build", digest, self.batch, key),
                                            steps.build_command(places, self.batch))
        if settings.generate:
            self._generate(places, runtime)
        if settings.profile:
            self._profile(places, runtime)
        if not self.dry_run:
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomic(self.out / "deploy.json", json.dumps(asdict(self.result), indent=1, default=str) + "\n")

    def _generate(self, places: steps.Places, runtime: str) -> None:
        key = steps.key_of("generate", places.digest, runtime, self.settings.generate, self.batch)
        there = places.out(f"images-{key}")
        command = steps.generate_command(places, runtime, self.settings.generate, self.batch, there)
        if self._verb("generate", places, key, command) is not None:
            self.result.images = collect_images(self.board, there, self.out / "images")
            self.result.steps["collect images"] = "done"

    def _profile(self, places: steps.Places, runtime: str) -> None:
        wanted = self.settings
        key = steps.key_of("profile", places.digest, runtime, wanted.images, self.batch, wanted.power_mode, wanted.lock_clocks)
        there = places.out(f"profile-{key}")
        command = steps.profile_command(places, runtime, wanted.images, self.batch, wanted.power_mode, wanted.lock_clocks, there)
        self.result.measured = self._verb("profile", places, key, command)
        if self.result.measured is not None:
            self.result.record = collect_record(self.board, f"{there}/record", self.out / "record")
            self.result.steps["collect record"] = "done"

    def _step(self, name: str, there: bool, action: Callable[[], None], command: str) -> None:
        if there:
            self.board.say(Event(f"{name}: was there"))
        elif self.dry_run:
            self.board.say(Event(f"{name}: would run {command}"))
        else:
            self.board.say(Event(name))
            action()
        self.result.steps[name] = "was there" if there else command if self.dry_run else "done"

    def _verb(self, name: str, places: steps.Places, key: str, command: tuple[str, ...]) -> dict[str, Any] | None:
        """Run a verb on the board; None in a dry run."""
        if self.dry_run:
            self.board.say(Event(f"{name}: would run {shlex.join(command)}"))
            self.result.steps[name] = shlex.join(command)
            return None
        self.board.say(Event(name))
        told = steps.verb(self.board, places, name, key, command)
        self.result.steps[name] = "done"
        return told

    def _needed_mb(self, installed: bool) -> int:
        size = sum(int(entry["bytes"]) for entry in self.bundle.manifest.files.values())
        spec = self.bundle.manifest.spec or {}
        pixels = spec.get("image", 0) ** 2 * spec.get("channels", 0)
        return (SPARE_MB + (0 if installed else ENVIRONMENT_MB) + (3 * size + self.settings.generate * pixels) // 10**6)
