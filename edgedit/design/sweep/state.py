"""A sweep's folder. Everything that is known about a job lies in it, so that any process on any machine can go on.

`sweep.json` (what was asked, and the plan), `jobs/NAME/job.json` (the command), `jobs/NAME/status.json` (how it stands),
`jobs/NAME/log` (what it said), `rows/ROW/…` (the artifacts), `rows.json` and `manifest.json` (the result, kind "sweep").
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgedit.core.artifact import MANIFEST, read_manifest
from edgedit.core.errors import ArtifactError, OutputError, UsageError
from edgedit.core.files import output_error, write_atomic
from edgedit.design.sweep.plan import KINDS, Job, Plan

KIND, SWEEP_FILE, ROWS_FILE = "sweep", "sweep.json", "rows.json"
JOB_FILE, STATUS_FILE, LOG_FILE = "job.json", "status.json", "log"
_ENDS = re.compile(rb"[\r\n]+")
_SHARE = re.compile(r"^\S.*?\s(\d+)% [\d,]+/[\d,]+ ")


@dataclass(frozen=True)
class Status:
    """How a job stands.

    Attributes:
        state: "new", "queued", "running", "done", "failed", "stopped" (by request; it goes on), "waiting" (what it needs failed).
        identity: of the job that the figures are about (`Job.identity`).
        digest: of the output, when done.
        seconds: its running time over all starts.
        why: what went wrong, or why a training ended early though it is done.
        node: where it ran last.
        attempts: (node, how it ended) of every start.
    """

    state: str = "new"
    identity: str = ""
    digest: str = ""
    seconds: float = 0.0
    why: str = ""
    node: str = ""
    attempts: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Folder:
    """The sweep's folder, absolute."""

    path: Path

    def job_folder(self, name: str) -> Path:
        """Of a job: its command, status and log."""
        return self.path / "jobs" / name

    def status(self, name: str) -> Status:
        """How a job stands; "new" where nothing is known."""
        try:
            return Status(**json.loads((self.job_folder(name) / STATUS_FILE).read_bytes()))
        except FileNotFoundError:
            return Status()
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"{self.job_folder(name) / STATUS_FILE} cannot be read", saw=error,
                                fix="remove that file: the job is looked at anew") from error

    def set_status(self, name: str, status: Status) -> None:
        """Note how a job stands."""
        write_atomic(self.job_folder(name) / STATUS_FILE, json.dumps(asdict(status), indent=1, ensure_ascii=False) + "\n")

    def change(self, name: str, **values: Any) -> Status:
        """Note what changed."""
        made = replace(self.status(name), **values)
        self.set_status(name, made)
        return made

    def put_job(self, job: Job, identity: str) -> None:
        """Write a job's command and what makes an output its own."""
        folder = self.job_folder(job.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (self.path / job.out).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(folder, error) from error
        write_atomic(folder / JOB_FILE, json.dumps({**asdict(job), "identity": identity}, indent=1, ensure_ascii=False) + "\n")

    def get_job(self, name: str) -> tuple[Job, str]:
        """A job and its identity, as `put_job` wrote them."""
        body = json.loads((self.job_folder(name) / JOB_FILE).read_bytes())
        identity = body.pop("identity")
        return Job(**{**body, "command": tuple(body["command"]), "after": tuple(body["after"])}), identity

    def digest(self, job: Job) -> str | None:
        """Of the job's output, if there is one."""
        return digest_of(self.path / job.out, KINDS[job.kind])

    def is_done(self, job: Job, identity: str) -> bool:
        """The output is there, and this very command made it."""
        status = self.status(job.name)
        return status.state == "done" and status.identity == identity and status.digest == self.digest(job)

    def tail(self, name: str, size: int = 8192) -> list[str]:
        """The last lines of a job's log; a bar that was drawn anew counts as lines."""
        try:
            with (self.job_folder(name) / LOG_FILE).open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - size))
                return [line for part in _ENDS.split(log.read()) if (line := part.decode(errors="replace").rstrip())]
        except FileNotFoundError:
            return []

    def share(self, name: str) -> int | None:
        """Percent that a running job says it has done."""
        return next((int(m[1]) for line in reversed(self.tail(name)) if (m := _SHARE.match(line))), None)


def open_folder(out: str | Path, plan: Plan) -> Folder:
    """Make the folder, or take one that holds this sweep; budgets, stages and settings may differ, table and pairs may not.

    Raises:
        UsageError: it holds another sweep.
        OutputError: it holds something else, or cannot be written.
    """
    folder = Folder(Path(out).expanduser().resolve())
    if folder.path.exists() and not folder.path.is_dir():
        raise OutputError(f"{folder.path} is a file; a sweep is a folder", fix="choose another --out")
    try:
        before = json.loads((folder.path / SWEEP_FILE).read_bytes())
    except FileNotFoundError:
        before = None
    except ValueError as error:
        raise ArtifactError(f"{folder.path / SWEEP_FILE} cannot be read", saw=error, fix="choose another --out") from error
    if before is None and folder.path.is_dir() and (strangers := sorted(p.name for p in folder.path.iterdir() if p.name != MANIFEST)):
        raise OutputError(f"{folder.path} holds files that no sweep made; nothing there was touched", saw=strangers[:5],
                          fix="choose another --out, or empty it")
    if before is not None:
        there, now = ((b["table"], b["pairs"]["digest"]) for b in (before, plan.to_dict()))
        if there != now:
            raise UsageError(f"{folder.path} holds another sweep", fix="choose another --out",
                             saw=f"{there[0]} on pairs {there[1][:12]}; now {now[0]} on pairs {now[1][:12]}")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder.path, error) from error
    write_atomic(folder.path / SWEEP_FILE, json.dumps(plan.to_dict(), indent=1, ensure_ascii=False) + "\n")
    return folder


def digest_of(folder: Path, kind: str) -> str | None:
    """Digest of the artifact of that kind in a folder; None where there is none that can be read."""
    try:
        manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    except ArtifactError:
        return None
    return manifest.digest if manifest is not None and manifest.kind == kind else None
