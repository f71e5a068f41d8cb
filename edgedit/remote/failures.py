"""What ssh and rsync say when they fail, as errors with a remedy."""

from __future__ import annotations

from dataclasses import dataclass

from edgedit.core.errors import EdgeditError, MissingError, OutputError


class Unreachable(MissingError):
    """The board cannot be talked to.

    Attributes:
        kind: "name", "refused", "timeout", "route", "host-key-changed", "host-key-unknown", "denied", "key-file", "closed",
            "options", "other".
        again: a later try may succeed without anybody's doing: the board boots, the network comes back.
    """

    def __init__(self, kind: str, what: str, *, saw: str, fix: str, again: bool = False) -> None:
        super().__init__(what, saw=saw, fix=fix)
        self.kind, self.again = kind, again


@dataclass(frozen=True)
class _Rule:
    """One failure: words of ssh (OpenSSH 8 to 10, locale C) and what they mean; {board} and {host} are filled in."""

    words: tuple[str, ...]
    kind: str
    what: str
    fix: str
    again: bool = False


_RULES = (
    _Rule(("REMOTE HOST IDENTIFICATION HAS CHANGED",), "host-key-changed", "{board} shows another host key than before",
          "if the board was flashed again: ssh-keygen -R '{known}', then ssh {ssh} once; if not, do not connect"),
    _Rule(("Host key verification failed",), "host-key-unknown", "the host key of {board} is not known yet",
          "connect once by hand and compare the fingerprint: ssh {ssh}"),
    _Rule(("UNPROTECTED PRIVATE KEY FILE", "invalid format", "error in libcrypto"), "key-file", "ssh does not take the key file",
          "chmod 600 KEYFILE, or name another one with --identity"),
    _Rule(("Permission denied", "Too many authentication failures"), "denied", "{board} lets nobody in with these keys",
          "ssh-copy-id {ssh} (deploy asks for no password), or name the key with --identity"),
    _Rule(("Could not resolve hostname", "Name or service not known"), "name", "no host is called {host}",
          "give its address, or its name in ~/.ssh/config"),
    _Rule(("Connection refused",), "refused", "{board} refuses ssh", "is the board still starting? on it: sudo systemctl start ssh; "
          "another port: --port", True),
    _Rule(("timed out", "Operation timed out"), "timeout", "{board} does not answer", "is it on, and in this network? ping {host}", True),
    _Rule(("No route to host", "Network is unreachable"), "route", "there is no way to {board}",
          "is it on, and in this network? ping {host}", True),
    _Rule(("Bad configuration option", "Bad owner or permissions", "unsupported option", "Bad number", "keyword"), "options",
          "ssh does not take its options", "look at --ssh-option and ~/.ssh/config"),
    _Rule(("Unable to negotiate",), "options", "{board} and this ssh share no method", "update the older of the two"),
    _Rule(("Connection closed", "Connection reset", "closed by remote host", "Broken pipe", "not responding", "kex_exchange_identification",
           "mux_client", "Control socket", "Shared connection", "client_loop", "connection unexpectedly closed", "io timeout",
           "received SIG"), "closed", "{board} closed the connection",
          "run the same command again; on the board: journalctl -u ssh", True),
)


def ssh_failure(stderr: str, *, host: str, board: str, ssh: str, known: str) -> Unreachable:
    """The error for what ssh printed.

    Args:
        stderr: all of it.
        host: name or address; `board`: as the user called it; `ssh`: arguments for a connection by hand.
        known: the name under which known_hosts lists it.
    """
    saw = _last_line(stderr)
    for rule in _RULES:
        hit = next((line for line in stderr.splitlines() if any(word in line for word in rule.words)), None)
        if hit is not None:
            fills = {"host": host, "board": board, "ssh": ssh, "known": known}
            return Unreachable(rule.kind, rule.what.format(**fills), saw=hit.strip("@ \t"), fix=rule.fix.format(**fills), again=rule.again)
    return Unreachable("other", f"the connection to {board} ended", saw=saw or "ssh said nothing", fix=f"try it by hand: ssh {ssh}",
                       again=not saw)


NO_SPACE = ("No space left on device", "Disk quota exceeded")


def disk_full(text: str, where: str) -> OutputError | None:
    """The error for a full disk when `text` tells of one."""
    if not any(word in text for word in NO_SPACE):
        return None
    line = next(line for line in text.splitlines() if any(word in line for word in NO_SPACE))
    return OutputError(f"the disk is full: {where}", saw=line.strip(), fix="free some space there, then run the same command again")


def rsync_failure(code: int, stderr: str, *, where: str) -> EdgeditError | None:
    """The error for an rsync that failed by itself; None when the connection broke and the transfer can go on.

    Exit codes of rsync(1): 10, 12, 30, 35 are broken streams and timeouts, 20 a signal, 255 is ssh's own.
    """
    full = disk_full(stderr, where)
    if full is not None:
        return full
    if "command not found" in stderr or "rsync: not found" in stderr:
        return no_rsync(_last_line(stderr))
    if "is your shell clean" in stderr:
        return EdgeditError("the board's login shell prints text where rsync expects none", saw=_last_line(stderr),
                            fix="let .bashrc on the board print nothing when it is not interactive")
    if code == 11 and "rsync:" not in stderr:  # the receiver's words are lost at times, its exit code is not
        return OutputError(f"files could not be written, as if the disk is full: {where}", saw="rsync exit code 11 (error in file I/O)",
                           fix="look at the free space there (df -h), then run the same command again")
    if code in (10, 12, 20, 30, 35, 255) or code < 0:
        return None
    return OutputError(f"files could not be copied: {where}", saw=f"rsync exit code {code}: {_last_line(stderr)}",
                       fix="look at permissions there, then run the same command again")


def no_rsync(saw: str) -> MissingError:
    """rsync is not on the board."""
    return MissingError("the board has no rsync", saw=saw, fix="on the board: sudo apt install rsync")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" @\t")]
    return lines[-1] if lines else ""
