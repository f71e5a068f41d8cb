"""Run tegrastats beside the measurement: keep its raw output, stamp each line on arrival, stop only our own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

from edgedit.core.errors import MissingError
from edgedit.core.record import Verdict
from edgedit.device.power_source import PowerSample, Sink, Total, jetson_total, verdict
from edgedit.device.sysfs import container
from edgedit.device.tegrastats import parse_line

VARIABLE = "EDGEDIT_TEGRASTATS"
MOUNT = "-v /usr/bin/tegrastats:/usr/bin/tegrastats:ro"
"""Brings tegrastats into a container, where it is not (jetson.md §1.4)."""
_LONGEST_LINE = 1 << 16
_GRACE_S = 2.0


def find_tegrastats(executable: str | Path | None = None, *, root: Path = Path("/"),
                    environ: Mapping[str, str] = os.environ) -> Path | None:
    """The executable: as given, else `EDGEDIT_TEGRASTATS`, else on PATH, else /usr/bin; None when there is none.

    With another `root` than "/" only that tree is searched after the first two.
    """
    for named in (executable, environ.get(VARIABLE)):
        if named is not None and str(named):
            found = shutil.which(str(named))
            return Path(found) if found else None
    found = shutil.which("tegrastats", path=None if root == Path("/") else str(root / "usr/bin"))
    return Path(found) if found else None


class TegrastatsLog:
    """tegrastats as a power source, and its raw log.

    The child's `--interval` is a pause and not a period (100 ms gives about 9 lines a second), and its own stamps have 1 s
    resolution, so each line is stamped with `time.monotonic_ns` when it arrives. The raw log holds `stamp<TAB>line`, flushed
    line by line. The child runs in a session of its own, so Ctrl-C reaches only edgedit, and is ended by its process id;
    `tegrastats --stop`, which would end everybody's, is never used. If edgedit is killed, the child ends at its next line (its
    pipe is closed).

    Args:
        executable: path or name; None looks it up (`find_tegrastats`).
        interval_s: asked pause between lines.
        log_file: raw log, or None.
        root: root of the file system for the lookup.
    """

    name = "tegrastats"

    def __init__(self, executable: str | Path | None = None, *, interval_s: float = 0.1, log_file: Path | None = None,
                 root: Path = Path("/")) -> None:
        self.interval_s = interval_s
        self.lines = self.unparsed = self.with_rails = 0
        self._executable, self._log_file, self._root = executable, log_file, root
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._stopping = self._died = False
        self._began_ns = self._ended_ns = self._last_ns = self._bursts = 0
        self._exit: int | None = None
        self._first_rubbish: str | None = None
        self._log_error: str | None = None

    def start(self, sink: Sink) -> None:
        path = find_tegrastats(self._executable, root=self._root)
        if path is None:
            saw = self._executable or os.environ.get(VARIABLE) or "not on PATH"
            if (inside := container(self._root)) is not None:
                raise MissingError("tegrastats is not in containers unless mounted", saw=f"{inside}, {saw}",
                                   fix=f"docker run {MOUNT} --pid=host …")
            raise MissingError("tegrastats is not there", saw=saw, fix="on a Jetson it is /usr/bin/tegrastats; "
                               f"into a container mount it with {MOUNT}")
        command = [str(path), "--interval", str(max(1, round(self.interval_s * 1000)))]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                             stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            raise MissingError(f"{path} cannot be run", saw=error.strerror or error, fix="check the file") from error
        self._stopping, self._began_ns = False, time.monotonic_ns()
        self._reader = threading.Thread(target=self._read, args=(self._process, sink), name="power-tegrastats", daemon=True)
        self._reader.start()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._stopping = True
        self._ended_ns = self._ended_ns or time.monotonic_ns()
        if process.poll() is not None:
            self._died, self._exit = True, process.returncode
        else:
            process.terminate()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._reader is not None:
            self._reader.join(_GRACE_S)
        if process.stdout is not None and not (self._reader and self._reader.is_alive()):
            process.stdout.close()

    def alive(self) -> bool:
        return self._process is not None and self._reader is not None and self._reader.is_alive()

    def total(self, rails: Collection[str]) -> Total | None:
        return jetson_total(rails)

    def verdicts(self) -> list[Verdict]:
        """Died, stalled, printed rubbish, prints no rail, or lines came in bursts; each with what to do."""
        if not self._began_ns:
            return []
        found, by_hand = [], f"run `tegrastats --interval {round(self.interval_s * 1000)}` by hand to see"
        now = self._ended_ns or time.monotonic_ns()
        silent_s = (now - (self._last_ns or self._began_ns)) / 1e9
        if self._died:
            lived_s = (now - self._began_ns) / 1e9
            found.append(verdict("warning", "tegrastats-died", f"tegrastats ended by itself after {lived_s:.1f} s and "
                                 f"{self.lines} lines ({_how_ended(self._exit)}); what it printed is kept", by_hand))
        elif silent_s > max(_GRACE_S, 10 * self.interval_s):
            found.append(verdict("warning", "tegrastats-stalled", f"tegrastats printed nothing for the last {silent_s:.1f} s "
                                 f"({self.lines} lines before); what it printed is kept", by_hand))
        if self.unparsed:
            found.append(verdict("warning" if self.unparsed > 0.05 * self.lines else "note", "tegrastats-rubbish",
                                 f"{self.unparsed} of {self.lines} lines of tegrastats could not be read, "
                                 f"the first: {self._first_rubbish!r}", by_hand))
        if self.lines > self.unparsed and not self.with_rails:
            found.append(verdict("warning", "tegrastats-no-rails", "tegrastats prints no power rail",
                                 "run as root: JetPack 5 prints rails only to root"))
        if self.lines >= 10 and self._bursts > self.lines / 2:
            found.append(verdict("warning", "tegrastats-bursts", f"{self._bursts} of {self.lines} lines of tegrastats arrived "
                                 "together with the one before: their stamps are those of the arrival, not of the measurement"))
        if self._log_error is not None:
            found.append(verdict("warning", "tegrastats-log", f"the raw log could not be written: {self._log_error}"))
        return found

    def _read(self, process: subprocess.Popen[bytes], sink: Sink) -> None:
        stream = process.stdout
        assert stream is not None  # opened with a pipe above
        log = self._open_log()
        try:
            while raw := stream.readline(_LONGEST_LINE):
                now = time.monotonic_ns()
                text = raw.decode("utf-8", "replace").rstrip("\r\n")
                if log is not None:
                    try:
                        log.write(f"{now}\t{text}\n".encode())
                    except OSError as error:
                        self._log_error, log = error.strerror or str(error), None
                self._take(now, text, raw.endswith(b"\n"), sink)
        finally:
            if log is not None:
                log.close()
        if not self._stopping:
            self._ended_ns, self._died = time.monotonic_ns(), True
            self._exit = _wait_briefly(process)

    def _take(self, now: int, text: str, whole: bool, sink: Sink) -> None:
        self.lines += 1
        self._bursts += bool(self._last_ns) and now - self._last_ns < 0.1 * self.interval_s * 1e9
        self._last_ns = now
        sample = parse_line(text) if whole else None
        if sample is None:
            self.unparsed += 1
            self._first_rubbish = self._first_rubbish or text[:80]
            return
        if sample.rails:
            self.with_rails += 1
            clocks = sample.gpu["GR3D"].mhz if "GR3D" in sample.gpu else ()
            sink(PowerSample(now, {name: float(rail.now_mw) for name, rail in sample.rails.items()},
                             gpu_mhz=sum(clocks) / len(clocks) if clocks else None))

    def _open_log(self) -> BinaryIO | None:
        if self._log_file is None:
            return None
        try:
            return self._log_file.open("wb", buffering=0)
        except OSError as error:
            self._log_error = error.strerror or str(error)
            return None


def _wait_briefly(process: subprocess.Popen[bytes]) -> int | None:
    """Exit status after the output ended; None if it closed its output and lives on."""
    try:
        return process.wait(0.5)
    except subprocess.TimeoutExpired:
        return None


def _how_ended(status: int | None) -> str:
    if status is None:
        return "it closed its output"
    if status < 0:
        return f"signal {signal.Signals(-status).name}" if -status in set(signal.Signals) else f"signal {-status}"
    return f"exit status {status}"
