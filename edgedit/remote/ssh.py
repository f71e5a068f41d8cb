"""One connection to a board over the system's ssh: argument lists only, one login for many commands."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edgedit.core.errors import MissingError, UsageError
from edgedit.remote.failures import Unreachable, ssh_failure

_TARGET = re.compile(r"(?:([A-Za-z_][\w.+-]*\$?)@)?([A-Za-z0-9_][\w.-]*|\[?[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?:%[\w.-]+)?\]?)")
_OPTION = re.compile(r"[A-Za-z]+=[^\n\r\0]+")
_LONGEST_SOCKET = 90
LOST = 255


@dataclass(frozen=True)
class Target:
    """Where the board is and how ssh gets there.

    Attributes:
        host: name, address or alias of ~/.ssh/config.
        user: None takes ssh's default.
        port, identity: None takes ssh's default.
        options: "Name=value" of ssh_config(5); they win over those of edgedit.
    """

    host: str
    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, *, port: int | None = None, identity: Path | None = None, options: tuple[str, ...] = ()) -> Target:
        """Read "user@board", "board" or "user@fe80::1%eth0"; UsageError for what ssh could take for something else."""
        match = _TARGET.fullmatch(text)
        if match is None:
            raise UsageError("this is not the name of a board", saw=repr(text), fix="edgedit deploy USER@BOARD BUNDLE, with --port apart")
        for option in options:
            if not _OPTION.fullmatch(option):
                raise UsageError("an ssh option is written Name=value", saw=option, fix="--ssh-option ProxyJump=gateway")
        if identity is not None and not identity.expanduser().is_file():
            raise UsageError("the key file is not there", saw=identity, fix="--identity ~/.ssh/id_ed25519")
        return cls(match[2].strip("[]"), match[1], port, identity, options)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def arguments(self) -> tuple[str, ...]:
        """Options for ssh that say who and where, without the host."""
        parts: list[str] = []
        for option in self.options:
            parts += ["-o", option]
        if self.port is not None:
            parts += ["-p", str(self.port)]
        if self.identity is not None:
            parts += ["-i", str(self.identity.expanduser().absolute()), "-o", "IdentitiesOnly=yes"]
        return tuple(parts)

    def path(self, remote: str) -> str:
        """`remote` as rsync names it; an IPv6 address goes into brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{remote}" if self.user else f"{host}:{remote}"


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


class Connection:
    """A shared ssh connection (`ControlMaster`), opened at entry and closed at exit.

    Never asks for anything: keys only (`BatchMode`). A link that has been dead for 30 s ends (`ServerAliveInterval`).

    Raises:
        MissingError: no ssh or rsync on this host.
        Unreachable: the board cannot be reached; its `kind` says how.
    """

    def __init__(self, target: Target, *, timeout_s: int = 15) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._folder: Path | None = None

    def __enter__(self) -> Connection:
        for tool, package in (("ssh", "openssh-client"), ("rsync", "rsync")):
            if shutil.which(tool) is None:
                raise MissingError(f"this host has no {tool}", fix=f"sudo apt install {package}")
        self._folder = Path(tempfile.mkdtemp(prefix="edgedit-ssh-"))
        if len(str(self._folder)) > _LONGEST_SOCKET:  # a socket's path has at most 107 bytes
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="edgedit-ssh-", dir="/tmp"))
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _socket(self) -> Path:
        if self._folder is None:
            raise RuntimeError("the connection is not open")
        return self._folder / "mux"

    @property
    def command(self) -> tuple[str, ...]:
        """ssh up to the host's name, for this connection; rsync takes it as its remote shell."""
        return self._ssh("ControlMaster=no")

    def _ssh(self, *more: str) -> tuple[str, ...]:
        options = ("BatchMode=yes", f"ConnectTimeout={self._timeout_s}", "ServerAliveInterval=10", "ServerAliveCountMax=3",
                   "ClearAllForwardings=yes", "RequestTTY=no", f"ControlPath={self._socket}", *more)
        return ("ssh", *self.target.arguments, *(part for option in options for part in ("-o", option)))

    @property
    def _destination(self) -> tuple[str, ...]:
        return ("--", str(self.target))

    def open(self) -> None:
        """Log in; where a connection is open already, nothing happens."""
        if self._control("check") == 0:
            return
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        log = self._socket.with_name("log")
        with log.open("w+b") as errors:  # a file: the process in the background keeps it open
            done = subprocess.run([*self._ssh("ControlMaster=yes", "ControlPersist=300"), "-f", "-N", *self._destination],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=_environment(),
                                  start_new_session=True, check=False)
        if done.returncode != 0:
            raise self.failure(log.read_text(errors="replace"))

    def close(self) -> None:
        """Log out; nothing on the board ends by it but what waits on this connection."""
        if self._folder is None:
            return
        self._control("exit")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def failure(self, stderr: str) -> Unreachable:
        """The error for what ssh said."""
        target = self.target
        port = target.port or 22
        by_hand = shlex.join([*target.arguments, str(target)])
        known = target.host if port == 22 else f"[{target.host}]:{port}"
        return ssh_failure(stderr, host=target.host, board=str(target), ssh=by_hand, known=known)

    def lost(self, stderr: str) -> Unreachable:
        """The error for a connection that was there and broke: `failure`, or else one that a later try may cure."""
        error = self.failure(stderr)
        return error if error.kind != "other" else Unreachable("closed", f"the connection to {self.target} broke", saw=error.saw or "",
                                                               fix="run the same command again", again=True)

    def run(self, command: str, stdin: str, *, timeout_s: float | None = None) -> Result:
        """Run one command line of the board's login shell. `Unreachable` where ssh itself failed or the time ran out."""
        try:
            done = subprocess.run([*self.command, *self._destination, command], input=stdin, capture_output=True, text=True,
                                  errors="replace", env=_environment(), timeout=timeout_s, start_new_session=True, check=False)
        except subprocess.TimeoutExpired:
            raise self.failure(f"timed out after {timeout_s:.0f} s") from None
        if done.returncode == LOST or done.returncode < 0:
            raise self.lost(done.stderr)
        return Result(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def lines(self, command: str, stdin: str) -> Iterator[Iterator[str]]:
        """Like `run`, for output that is read line by line while it comes."""
        with tempfile.TemporaryFile("w+", errors="replace") as errors, \
                subprocess.Popen([*self.command, *self._destination, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=errors, text=True, errors="replace", env=_environment(), start_new_session=True) as ssh:
            def read() -> Iterator[str]:
                if ssh.stdin is None or ssh.stdout is None:
                    raise RuntimeError("no pipes")
                with contextlib.suppress(BrokenPipeError):  # the exit code below says why
                    ssh.stdin.write(stdin)
                    ssh.stdin.close()
                yield from ssh.stdout
                if ssh.wait() == LOST or ssh.returncode < 0:
                    errors.seek(0)
                    raise self.lost(errors.read())
            try:
                yield read()
            finally:
                ssh.terminate()
                until = time.monotonic() + 5
                while ssh.poll() is None and time.monotonic() < until:
                    time.sleep(0.01)

    def _control(self, order: str) -> int:
        if self._folder is None or not self._socket.exists():
            return 1
        return subprocess.run([*self.command, "-O", order, *self._destination], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=_environment(), check=False).returncode


def _environment() -> dict[str, str]:
    """ssh and rsync in the language that their errors are known in, never with a window that asks for a password."""
    return {**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
