"""What the board is, judged before anything is changed on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgedit.core.errors import MissingError, OutputError
from edgedit.remote.failures import no_rsync

PYTHONS = ((3, 10), (3, 13))
RUNTIMES = ("auto", "trt", "ort")
ENVIRONMENT_MB = 1000
"""Free space that an environment with a runtime wants: numpy, pydantic and Pillow 150 MB, onnxruntime-gpu 500 MB, pip's own copies."""
SPARE_MB = 300
"""Left free beside what is copied: engine, timing cache, logs."""
ORT_INDEX = {"6": "https://pypi.jetson-ai-lab.io/jp6/cu126/+simple/", "7": "https://pypi.jetson-ai-lab.io/sbsa/cu132/+simple/"}
"""JetPack's major version → where onnxruntime-gpu is built for Orin; PyPI's own holds no code for sm_87 (jetson.md 1.3)."""
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class BoardFacts:
    """A board as `onboard.facts` sees it.

    Attributes:
        folder: where the deployment lives there, absolute.
        writable, free_mb: of the file system that holds it.
        machine: "aarch64".
        python: version of its python3.
        ensurepip: whether `python3 -m venv` works (python3-venv).
        tensorrt: whether the system's Python sees TensorRT.
        rsync: its path, None without.
        l4t: Jetson Linux, "36.4.3"; None where it is no Jetson.
        model: of the device tree.
        pycuda: whether the system's Python sees it.
        nvcc: its path, None without; /usr/local/cuda/bin is looked at too.
    """

    folder: str
    writable: bool
    free_mb: int
    machine: str
    python: str
    ensurepip: bool
    tensorrt: bool
    rsync: str | None
    l4t: str | None
    model: str | None
    pycuda: bool = False
    nvcc: str | None = None

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> BoardFacts:
        """Out of the board's answer, whose "release" is the first line of /etc/nv_tegra_release."""
        known = dict(answer)
        match = _RELEASE.search(known.pop("release") or "")
        return cls(**known, l4t=f"{match[1]}.{match[2]}" if match else None)

    @property
    def python_minor(self) -> tuple[int, int]:
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)

    @property
    def jetpack_major(self) -> str | None:
        """"6" for Jetson Linux 36.4 and newer of that line, "7" from 38 on; None for older ones and for machines that are no Jetson."""
        if self.l4t is None:
            return None
        numbers = tuple(int(part) for part in self.l4t.split("."))
        return "7" if numbers[0] >= 38 else "6" if numbers >= (36, 4) else None

    def __str__(self) -> str:
        jetson = f"Jetson Linux {self.l4t}" if self.l4t else "no Jetson Linux"
        return f"{self.model or self.machine}, {jetson}, Python {self.python}, {self.free_mb:,} MB free in {self.folder}"

    def runtime(self, asked: str) -> str:
        """"trt" or "ort" for what was asked (one of RUNTIMES): "auto" takes TensorRT where it is."""
        if asked == "trt" and not self.tensorrt:
            raise MissingError("the board's Python has no TensorRT", saw=f"python3 {self.python} finds no tensorrt",
                               fix="on the board: sudo apt install python3-libnvinfer python3-libnvinfer-dev; or --runtime ort")
        return asked if asked != "auto" else "trt" if self.tensorrt else "ort"


def check(facts: BoardFacts, needed_mb: int) -> None:
    """Raise where a deployment could not end well: system too old, tools missing, no room.

    Raises:
        MissingError: Python, python3-venv or rsync is missing or too old.
        OutputError: the folder cannot be written, or too little space is free.
    """
    if facts.l4t is not None and facts.jetpack_major is None:
        raise MissingError("this JetPack is not supported", saw=f"Jetson Linux {facts.l4t}, Python {facts.python}",
                           fix="install JetPack 6.1 or newer")
    if not PYTHONS[0] <= facts.python_minor <= PYTHONS[1]:
        raise MissingError("the board's Python is not supported", saw=facts.python, fix="a system with python3 3.10 to 3.13")
    if facts.rsync is None:
        raise no_rsync("no rsync on PATH")
    if not facts.ensurepip:
        raise MissingError("the board cannot make virtual environments", saw="python3 has no ensurepip",
                           fix="on the board: sudo apt install python3-venv")
    if not facts.writable:
        raise OutputError(f"{facts.folder} on the board cannot be written", saw="no permission", fix="choose another --dir")
    if facts.free_mb < needed_mb:
        raise OutputError("too little space is free on the board", saw=f"{facts.free_mb:,} MB at {facts.folder}, wanted {needed_mb:,} MB",
                          fix="free some space, or choose a --dir on another disk")


def check_compiler(facts: BoardFacts) -> None:
    """Raise where pycuda, which has no wheel, could not be compiled.

    Raises:
        MissingError: no nvcc. JetPack's CUDA is not on boards that were flashed with Jetson Linux alone.
    """
    if not facts.pycuda and facts.nvcc is None:
        raise MissingError("the board cannot compile pycuda, which TensorRT runs through", saw="no nvcc on PATH or in /usr/local/cuda/bin",
                           fix="on the board: sudo apt install nvidia-jetpack, or jetson/setup.sh, which takes less; or --runtime ort")
