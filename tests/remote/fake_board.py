"""A board behind a real sshd on the loopback: its own HOME, its own PATH, and a python3 that makes environments quickly.

sshd, ssh, rsync, pip and edgedit are the real ones. What stands in: the board's `python3 -m venv` gives an environment without
copying pip, and the packages of this test environment (all but edgedit) take the place of the system's. So it does not show: a
real pip talking to an index, an aarch64 wheel, TensorRT, a slow disk or a slow network.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgedit.remote.ssh import Target

_PYTHON = """#!/bin/sh
{exports}
export PATH={bin}:$PATH
if [ "$1" = -m ] && [ "$2" = venv ]; then
  shift 2
  {python} -m venv --without-pip "$@" || exit
  for folder; do :; done
  echo {site} > "$folder"/lib/python{version}/site-packages/system.pth
  exit
fi
exec {python} "$@"
"""


class FakeBoard:
    """An sshd for one board. `target` reaches it; `home` is its user's home, `bin` comes first in its PATH."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: variables of everything that the board's python3 starts."""
        self.folder, self.home, self.bin = folder, folder / "home", folder / "bin"
        self.key, self.port = folder / "key", _free_port()
        self._sshd: subprocess.Popen[bytes] | None = None
        for place in (self.home, self.bin):
            place.mkdir()
        for name in ("key", "host", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        (folder / "authorized").write_text((folder / "key.pub").read_text())
        self.know_host("host")
        self._install_python(environment or {})
        self.start()

    @property
    def target(self) -> Target:
        return self.reach()

    def reach(self, *, key: str = "key", host: str = "127.0.0.1", port: int | None = None, options: tuple[str, ...] = ()) -> Target:
        """A target with the files of this board instead of the user's own."""
        known = (f"UserKnownHostsFile={self.folder / 'known'}", "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes",
                 "HostKeyAlgorithms=ssh-ed25519")
        return Target(host, _user(), port or self.port, self.folder / key, (*known, *options))

    def arguments(self) -> list[str]:
        """The same as options of the command line."""
        target = self.target
        options = [part for option in target.options for part in ("--ssh-option", option)]
        return [str(target), "--port", str(target.port), "--identity", str(target.identity), *options]

    def know_host(self, name: str | None) -> None:
        """Let known_hosts hold this host key, or none."""
        line = f"[127.0.0.1]:{self.port} {(self.folder / f'{name}.pub').read_text()}" if name else ""
        (self.folder / "known").write_text(line)

    def start(self) -> None:
        config = {"ListenAddress": f"127.0.0.1:{self.port}", "HostKey": self.folder / "host", "PidFile": self.folder / "sshd.pid",
                  "AuthorizedKeysFile": self.folder / "authorized", "UsePAM": "no", "StrictModes": "no", "PasswordAuthentication": "no",
                  "KbdInteractiveAuthentication": "no", "PermitRootLogin": "yes", "MaxStartups": "100", "PrintMotd": "no",
                  "SetEnv": f"HOME={self.home} PATH={self.bin}:/usr/bin:/bin ORT_DISABLE_TELEMETRY=1 OMP_NUM_THREADS=1"}
        (self.folder / "sshd_config").write_text("".join(f"{k} {v}\n" for k, v in config.items()))
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            self._sshd = subprocess.Popen([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")],
                                          stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._sshd.poll() is not None:
                break
            time.sleep(0.02)
        pytest.skip("sshd does not start here: " + (self.folder / "sshd.log").read_text()[-300:])

    def stop(self) -> None:
        """End the server and every connection that it holds."""
        if self._sshd is not None:
            connections = self.connections()
            self._sshd.terminate()
            self._sshd.wait()
            for pid in connections:
                _kill(pid)
            self._sshd = None

    def connections(self) -> list[int]:
        """Process ids of the server's children: the connections that are open."""
        return _children(self._sshd.pid) if self._sshd else []

    def cut(self) -> int:
        """Kill every open connection; how many there were."""
        pids = [grand for child in self.connections() for grand in (*_children(child), child)]
        for pid in pids:
            _kill(pid)
        return len(pids)

    def tool(self, name: str, script: str) -> Path:
        """An executable in the board's PATH."""
        file = self.bin / name
        file.write_text(script)
        file.chmod(0o755)
        return file

    def _install_python(self, environment: Mapping[str, str]) -> None:
        site = self.folder / "site"
        site.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if "edgedit" not in entry.name.lower() and entry.suffix != ".pth":
                (site / entry.name).symlink_to(entry)
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        base = Path(sys.base_prefix) / "bin" / f"python{version}"
        self.tool("python3", _PYTHON.format(python=base, site=site, version=version, exports=exports, bin=self.bin))


def need_ssh() -> None:
    """Skip where the real programs are missing."""
    for tool in ("ssh", "ssh-keygen", "rsync"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if shutil.which("sshd") is None and not Path("/usr/sbin/sshd").exists():
        pytest.skip("sshd is not installed (openssh-server)")


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(stat.parent.name))
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
