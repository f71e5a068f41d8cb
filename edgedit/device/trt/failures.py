"""What can end a build, told apart, with what to type."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedit.core.errors import ArtifactError, EdgeditError, MissingError
from edgedit.core.files import output_error
from edgedit.device.bundle import Bundle
from edgedit.device.trt.memory import MEMORY_WORDS, Memory

_LINES = 4


class Failure(Exception):
    """Raised inside the child: a kind that `explain` knows, lines of TensorRT's log, and further plain facts.

    Kinds: "builder" (no usable GPU), "parse", "attention", "null" (no engine), "plan" (the new engine does not load), "stopped",
    "disk", "changed" (the graph is not the one asked for), "error" (an EdgeditError, its parts in the facts).
    """

    def __init__(self, kind: str, *, problems: list[str] | None = None, **facts: Any) -> None:
        super().__init__(kind)
        self.kind, self.problems, self.facts = kind, problems or [], facts


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        code: exit status; below 0 the signal that ended it.
        done: its report when it built an engine.
        failed: {"kind", "problems", …} when it said what went wrong.
        phase: what it was doing last.
        wall_s: how long it ran.
        peak_mb: its largest resident memory; lowest_mb: the least that the system had available meanwhile.
        killed_by_kernel: the kernel's count of out-of-memory kills rose; None where it cannot be read.
    """

    code: int
    done: dict[str, Any] | None = None
    failed: dict[str, Any] | None = None
    phase: str = ""
    wall_s: float = 0.0
    peak_mb: int | None = None
    lowest_mb: int | None = None
    killed_by_kernel: bool | None = None
    stopped: str = ""


@dataclass(frozen=True)
class Attempt:
    """What was being built, for the messages."""

    bundle: Bundle
    tensorrt: str
    memory: Memory
    workspace_mb: int
    log: Path
    target: Path
    flags: dict[str, Any] = field(default_factory=dict)


def explain(attempt: Attempt, outcome: Outcome) -> EdgeditError:
    """The error for a child that built nothing."""
    failed = outcome.failed or {}
    problems = [str(line) for line in failed.get("problems", [])]
    kind = failed.get("kind", "")
    if kind == "parse":
        return _parse(attempt, failed, problems)
    if kind == "builder":
        return MissingError("TensorRT could not start: it found no usable GPU", saw=_lines(problems),
                            fix="edgedit doctor; on a Jetson in a container: docker run --runtime nvidia")
    if kind == "disk":
        return output_error(attempt.target, OSError(int(failed.get("errno") or errno.EIO), str(failed.get("text", ""))))
    if kind == "changed":
        return ArtifactError(f"{attempt.bundle.model} changed while it was being built", saw=failed.get("text"),
                             fix="run the same command again")
    if kind == "error":
        return EdgeditError(str(failed.get("what", "the build failed")), saw=failed.get("saw"), fix=failed.get("fix"))
    if kind == "attention":
        return EdgeditError(f"TensorRT {attempt.tensorrt} does not take this graph's attention as IAttention", saw=_lines(problems),
                            fix=_again(attempt, "--attention pattern"))
    if kind == "plan":
        return EdgeditError("TensorRT does not load the engine that it has just built", saw=_lines(problems), fix=_see(attempt))
    if kind == "null":
        if MEMORY_WORDS.search("\n".join(problems)):
            return _memory(attempt, outcome, "the GPU's memory was not enough to build this engine", problems)
        return EdgeditError(f"TensorRT {attempt.tensorrt} built no engine from {attempt.bundle.path}", saw=_lines(problems),
                            fix=f"{_see(attempt)}; {_again(attempt, '--set optimization_level=2')}")
    return _died(attempt, outcome)


def _parse(attempt: Attempt, failed: dict[str, Any], problems: list[str]) -> EdgeditError:
    nodes = [n for n in failed.get("nodes", []) if isinstance(n, dict)]
    listed = [f"{n.get('node') or 'the graph'} ({n.get('operator') or '?'}): {n.get('text')}" for n in nodes] or problems
    what = f"TensorRT {attempt.tensorrt} cannot read the graph of {attempt.bundle.path} (opset {attempt.bundle.opset})"
    return EdgeditError(what, saw="\n       ".join(listed) or None,
                        fix="edgedit export STUDENT --out FOLDER --attention pattern makes a graph of opset 20, which TensorRT 10.3 reads")


def _died(attempt: Attempt, outcome: Outcome) -> EdgeditError:
    """No word from the child: a signal or an exit status is all there is."""
    during = f"during '{outcome.phase}'" if outcome.phase else "before its first phase"
    if outcome.code == -signal.SIGKILL:
        sure = {True: "the kernel's out-of-memory killer ended the build", False: "the build was killed (signal 9); the kernel counts no "
                "out-of-memory kill, so somebody else did it, or a container's limit",
                None: "the build was killed (signal 9), which is usually the kernel out of memory"}
        return _memory(attempt, outcome, sure[outcome.killed_by_kernel], [])
    if outcome.code < 0:
        name = signal.Signals(-outcome.code).name
        return EdgeditError(f"TensorRT crashed while building ({name}) {during}", saw=_tail(attempt.log),
                            fix=f"{_see(attempt)}; edgedit doctor shows a TensorRT that does not belong to this JetPack; memory: "
                                f"{_again(attempt, '--workspace-mb 256')}")
    return EdgeditError(f"the build ended {during} without a result (exit status {outcome.code})", saw=_tail(attempt.log),
                        fix=_see(attempt))


def _memory(attempt: Attempt, outcome: Outcome, what: str, problems: list[str]) -> EdgeditError:
    seen = [f"last phase '{outcome.phase or 'none'}' after {outcome.wall_s:.0f} s", f"before: {attempt.memory.text()}",
            f"workspace {attempt.workspace_mb:,} MB"]
    if outcome.peak_mb is not None:
        seen.append(f"the build itself held up to {outcome.peak_mb:,} MB")
    if outcome.lowest_mb is not None:
        seen.append(f"the system was down to {outcome.lowest_mb:,} MB")
    swap = "" if attempt.memory.swap_mb else ", add swap"
    fix = (f"close the desktop (sudo systemctl isolate multi-user.target), drop caches (sync; echo 3 | sudo tee /proc/sys/vm/drop_caches)"
           f"{swap}, then {_again(attempt, '--workspace-mb 256 --set optimization_level=2')}")
    return EdgeditError(what, saw="; ".join(seen) + (f"\n       {_lines(problems)}" if problems else ""), fix=fix)


def _again(attempt: Attempt, options: str) -> str:
    return f"edgedit build {attempt.bundle.path} {options}"


def _see(attempt: Attempt) -> str:
    return f"look at {attempt.log}"


def _lines(problems: list[str]) -> str | None:
    return "\n       ".join(problems[-_LINES:]) or None


def _tail(log: Path) -> str | None:
    """Last lines of a log that may not be there."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return None
    return _lines(lines)
