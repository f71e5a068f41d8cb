"""Options that several verbs share, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts; progress stays on stderr.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting by its dotted name; repeatable.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="TOML", help="Settings from a file; --set and options win over it.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the noise. Image i of a seed is the same everywhere.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write. The same command again resumes, or returns at once.")]
BundleDir = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder made by `edgedit export`.")]
Runtime = Annotated[str, typer.Option("--runtime", help="auto (TensorRT where `edgedit build` made an engine for this board, else ONNX "
                                                        "Runtime, and NumPy where that is not installed), trt, ort, numpy (slow, "
                                                        "needs no package), torch (on a host: the student of the bundle).")]
Engine = Annotated[Path | None, typer.Option("--engine", metavar="FOLDER", help="TensorRT: an engine outside the cache.")]
CudaGraph = Annotated[bool, typer.Option("--cuda-graph/--no-cuda-graph", help="TensorRT: launch a batch as one CUDA graph, where "
                                                                              "cuda-python is installed.")]
DeviceNoise = Annotated[bool, typer.Option("--device-noise/--host-noise", help="TensorRT: make the noise on the GPU, where nvcc is "
                                                                               "installed. The pictures are the same.")]
Provider = Annotated[str | None, typer.Option("--provider", help="ONNX Runtime's provider: cpu, cuda, tensorrt.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads inside one run; the runtime's choice by default.")]
Fallback = Annotated[bool, typer.Option("--fallback", help="Let another provider run what the chosen one cannot; else an error.")]
