"""Executables that write down what the scripts ask of a board, and small files for them to read.

They follow the documented command lines and messages of nvpmodel, jetson_clocks, apt-get and dpkg-query, and keep just enough
state that a second call sees what the first one did. What a real board does beyond that (hardware, package dependencies, how
long anything takes, sudo's questions) they do not show.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "jetson"
RELEASES = {
    "5": "# R35 (release), REVISION: 6.1, GCID: 39721438, BOARD: generic, EABI: aarch64",
    "6.0": "# R36 (release), REVISION: 3.0, GCID: 36191598, BOARD: generic, EABI: aarch64",
    "6": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
    "7.1": "# R38 (release), REVISION: 4.0, GCID: 1, BOARD: generic, EABI: aarch64",
    "7": "# R39 (release), REVISION: 2.1, GCID: 2, BOARD: generic, EABI: aarch64",
}
MODES = {"15W": 0, "25W": 1, "MAXN_SUPER": 2, "7W": 3}

_HEAD = """#!/bin/bash
set -eu
state={state}
log() {{ printf '%s\\n' "$*" >> "$state/log"; }}
"""

_TOOLS = {
    "id": 'cat "$state/uid"',
    "sudo": 'log "sudo $*"; [ "$1" != -- ] || shift; exec "$@"',
    "apt-get": """log "apt-get $*"
[ ! -e "$state/apt-fails" ] || { echo 'E: Unable to locate package' >&2; exit 100; }
for word; do case $word in -* | install | update) ;; *) echo "${word%%=*}" >> "$state/packages" ;; esac; done""",
    "dpkg-query": """for name; do :; done
grep -qx "$name" "$state/packages" 2>/dev/null || { echo "dpkg-query: no packages found matching $name" >&2; exit 1; }
case "$*" in *Version*) [ ! -e "$state/version-$name" ] || cat "$state/version-$name" ;; *) printf installed ;; esac""",
    "python3": """if [ "$1" = -m ] && [ "$2" = venv ]; then
  log "python3 $*"
  for folder; do :; done
  mkdir -p "$folder/bin"
  printf 'home = /usr/bin\\ninclude-system-site-packages = true\\n' > "$folder/pyvenv.cfg"
  cp "$state/../bin/venv-python" "$folder/bin/python"
  cp "$state/../bin/venv-edgedit" "$folder/bin/edgedit"
else
  exec /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin python3 "$@"
fi""",
    "venv-python": """case "$*" in
  *pip*install*)
    log "pip ${*##* install } CUDA_ROOT=${CUDA_ROOT:-}"
    [ ! -e "$state/pip-fails" ] || { echo 'error: subprocess-exited-with-error' >&2; exit 1; }
    for word; do case $word in *jetson]) printf 'edgedit\\npycuda\\n' >> "$state/modules" ;;
      onnxruntime-gpu) echo onnxruntime >> "$state/modules" ;; esac; done ;;
  *find_spec*) name=${2#*find_spec(\\'}; grep -qx "${name%%\\'*}" "$state/modules" 2>/dev/null ;;
esac""",
    "venv-edgedit": """log "edgedit $*"
code=$(cat "$state/edgedit-$1" 2>/dev/null || echo 0)
case $1 in profile) for word; do case $word in */record) mkdir -p "$word" ;; esac; done ;; esac
exit "$code" """,
    "fallocate": 'log "fallocate $*"; for file; do :; done; : > "$file"',
    "mkswap": 'log "mkswap $*"',
    "swapon": 'log "swapon $*"; printf "Filename Type Size\\n%s file 1\\n" "$1" > "$EDGEDIT_ROOT/proc/swaps"',
    "sync": ":",
    "nvpmodel": """log "nvpmodel $*"
status=$EDGEDIT_ROOT/var/lib/nvpmodel/status
case $1 in
  -q) id=$(sed 's/pmode:0*//' "$status"); printf 'NV Power Mode: X\\n%s\\n' "${id:-0}" ;;
  -m)
    if grep -qx "$2" "$state/needs-reboot" 2>/dev/null; then
      echo "NVPM WARN: Reboot required for changing to this power mode: $2"
      echo 'NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:'
      read -r answer; log "answered $answer"
      echo 'NVPM ERROR: optMask is 1, no request for power mode'; exit 255
    fi
    if grep -qx "$2" "$state/refuses" 2>/dev/null; then echo "NVPM ERROR: request for bad power mode $2"; exit 255; fi
    printf 'pmode:%04d\\n' "$2" > "$status" ;;
esac""",
    "jetson_clocks": """log "jetson_clocks ${1:-} $(basename "${2:-}")"
clocks=$state/clocks
case ${1:-} in
  --store)
    if [ -e "$2" ]; then echo "File $2 already exists. Can I overwrite it? Y/N:"; read -r answer; exit 1; fi
    cat "$clocks" > "$2" ;;
  --restore) [ -e "$2" ] || { echo "Error: $2 file not found !"; exit 1; }; cat "$2" > "$clocks" ;;
  *) echo "pinned in $(cat "$EDGEDIT_ROOT/var/lib/nvpmodel/status")" > "$clocks" ;;
esac""",
}


class ScriptBoard:
    """A board for shell scripts under `folder`: `run` starts one of them, `log` is what its tools were asked."""

    def __init__(self, folder: Path, jetpack: str = "6", *, uid: int = 1000, live: str = "25W") -> None:
        self.root, self.state, self.bin, self.home = (folder / name for name in ("root", "state", "bin", "home"))
        for place in (self.state, self.bin, self.home, self.root / "etc", self.root / "proc/sys/vm", self.root / "var/lib/nvpmodel"):
            place.mkdir(parents=True)
        for name, body in _TOOLS.items():
            file = self.bin / name
            file.write_text(_HEAD.format(state=self.state) + body + "\n")
            file.chmod(0o755)
        (self.state / "uid").write_text(f"{uid}\n")
        (self.state / "log").write_text("")
        (self.state / "clocks").write_text("free\n")
        (self.root / "etc/nv_tegra_release").write_text(RELEASES[jetpack] + "\n")
        (self.root / "etc/fstab").write_text("# <file system>\n/dev/root / ext4 defaults 0 1\n")
        (self.root / "proc/swaps").write_text("Filename Type Size\n/dev/zram0 partition 1\n")
        (self.root / "proc/sys/vm/drop_caches").write_text("0\n")
        modes = "".join(f"< POWER_MODEL ID={i} NAME={name} >\nCPU_ONLINE CORE_0 1\n\n" for name, i in MODES.items())
        (self.root / "etc/nvpmodel.conf").write_text(f"# modes\n{modes}< PM_CONFIG DEFAULT=1 >\n")
        self.set_live(live)

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin", "HOME": str(self.home), "EDGEDIT_ROOT": str(self.root),
                "EDGEDIT_STATE": str(self.state / "power"), "LC_ALL": "C.UTF-8"}

    def start(self, script: str, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen([str(SCRIPTS / script), *arguments], env=self.environment | environment, cwd=cwd or self.home,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, script: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        with self.start(script, *arguments, cwd=cwd) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @property
    def log(self) -> list[str]:
        """What the tools were asked so far, without sudo's own lines."""
        return [line for line in (self.state / "log").read_text().splitlines() if not line.startswith("sudo ")]

    @property
    def as_root(self) -> list[str]:
        """What was asked through sudo."""
        return [line.removeprefix("sudo -- ") for line in (self.state / "log").read_text().splitlines() if line.startswith("sudo ")]

    def forget(self) -> None:
        (self.state / "log").write_text("")

    def mark(self, name: str, *lines: str) -> Path:
        """A knob of the tools."""
        file = self.state / name
        file.write_text("".join(f"{line}\n" for line in lines))
        return file

    def set_live(self, mode: str) -> None:
        (self.root / "var/lib/nvpmodel/status").write_text(f"pmode:{MODES[mode]:04d}\n")

    @property
    def live(self) -> str:
        number = int((self.root / "var/lib/nvpmodel/status").read_text().partition(":")[2])
        return next(name for name, i in MODES.items() if i == number)

    @property
    def clocks(self) -> str:
        return (self.state / "clocks").read_text().strip()


def bundle(folder: Path, precision: str = "fp16") -> Path:
    """A manifest for bench.sh to read."""
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"kind": "bundle", "settings": {"precision": precision, "batch": 128}}))
    return folder
