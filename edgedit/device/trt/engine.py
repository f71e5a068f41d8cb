"""Built engines: what makes two of them interchangeable, where they lie, and which one belongs to a bundle on this board.

An engine is an artifact of kind "engine": `engine.plan` (TensorRT's own format), `layers.json` (the engine inspector's report),
`fusion.json` (which attention blocks run as one kernel, `edgedit.device.trt.inspect`) and `build.log`. A plan runs on the GPU,
the TensorRT and the batch that it was built for and nowhere else (jetson.md §5.4), and it holds code: its hash is checked
before TensorRT sees a byte of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedit.core.artifact import MANIFEST, Artifact, open_artifact, read_manifest
from edgedit.core.cache import cache_folder
from edgedit.core.errors import ArtifactError, MissingError
from edgedit.device.bundle import Bundle
from edgedit.device.cuda.facts import GpuFacts

KIND = "engine"
PLAN_FILE, LAYERS_FILE, FUSION_FILE, LOG_FILE = "engine.plan", "layers.json", "fusion.json", "build.log"
Flag = str | int | float | bool | None
_NAMES = {"onnx_sha256": "model.onnx", "tensorrt": "TensorRT", "gpu": "GPU", "compute_capability": "compute capability",
          "sm_count": "SM count", "batch": "batch"}


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on. As a wish, a batch of None and flags that are not named are open.

    Attributes:
        onnx_sha256: of the bundle's model.onnx.
        tensorrt: exact version, "10.3.0".
        gpu: name as CUDA gives it.
        compute_capability: (8, 7) on Orin.
        sm_count: of the power mode it was built in; the 7 W modes switch some off.
        batch: images a run; of a dynamic bundle, the largest.
        flags: name and value, sorted by name: precision, attention, optimization_level, workspace_mb.
    """

    onnx_sha256: str
    tensorrt: str
    gpu: str
    compute_capability: tuple[int, int]
    sm_count: int
    batch: int | None
    flags: tuple[tuple[str, Flag], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the key: names the engine's folder."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def differences(self, other: EngineKey) -> list[tuple[str, str, str]]:
        """Where `other` is not what this key asks for: (what, here, there). Empty when it is."""
        mine, theirs = self.to_dict(), other.to_dict()
        found = [(_NAMES[name], mine[name], theirs[name]) for name in _NAMES
                 if mine[name] != theirs[name] and not (name == "batch" and self.batch is None)]
        found += [(name, value, theirs["flags"].get(name)) for name, value in self.flags if theirs["flags"].get(name) != value]
        return [(name, _brief(here), _brief(there)) for name, here, there in found]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "compute_capability": list(self.compute_capability), "flags": dict(self.flags)}

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> EngineKey:
        """Inverse of `to_dict`; KeyError, TypeError or ValueError when `body` is no key."""
        major, minor = body["compute_capability"]
        batch = None if body["batch"] is None else int(body["batch"])
        return cls(str(body["onnx_sha256"]), str(body["tensorrt"]), str(body["gpu"]), (int(major), int(minor)),
                   int(body["sm_count"]), batch, tuple(sorted(body["flags"].items())))


def make_key(bundle: Bundle, tensorrt: str, gpu: GpuFacts, batch: int | None, **flags: Flag) -> EngineKey:
    """The key of a bundle on this board; `precision` is added to the flags."""
    named = {"precision": bundle.precision, **flags}
    return EngineKey(bundle.onnx_sha256, tensorrt, gpu.name, gpu.compute_capability, gpu.sm_count, batch, tuple(sorted(named.items())))


def wanted_key(bundle: Bundle, tensorrt: str, gpu: GpuFacts, batch: int | None = None) -> EngineKey:
    """What a runtime asks for: this graph, this board, the right precision; how it was built is open.

    Args:
        batch: None takes the bundle's own where that is fixed, any where it is dynamic.
    """
    return make_key(bundle, tensorrt, gpu, bundle.batch if batch is None and not bundle.dynamic else batch)


@dataclass(frozen=True)
class Engine:
    """A built engine: its folder and its key. `open_engine` and `find_engine` make one."""

    artifact: Artifact
    key: EngineKey

    @property
    def path(self) -> Path:
        """Folder of the engine."""
        return self.artifact.path

    @property
    def plan(self) -> Path:
        """The serialised engine."""
        return self.artifact.file(PLAN_FILE)

    @property
    def info(self) -> dict[str, Any]:
        """Facts about the build and the fusion, from the manifest."""
        return self.artifact.manifest.info

    def read(self) -> bytes:
        """The plan, read once and compared with the manifest's hash before anybody deserialises it.

        Raises:
            ArtifactError: it cannot be read, or is not what was built.
        """
        try:
            data = self.plan.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{self.plan} cannot be read", saw=error.strerror, fix="edgedit build BUNDLE") from error
        wanted, seen = str(self.artifact.manifest.files[PLAN_FILE]["sha256"]), hashlib.sha256(data).hexdigest()
        if seen != wanted:
            raise ArtifactError(f"{self.plan} was altered after it was built; TensorRT was not given it",
                                saw=f"sha256 {seen[:16]}…, manifest says {wanted[:16]}…", fix="edgedit build BUNDLE")
        return data


def engines_folder() -> Path:
    """Where built engines are kept: `engines` in the cache folder."""
    return cache_folder() / "engines"


def engine_folder(key: EngineKey, label: str) -> Path:
    """The cache's place for this key: `<label>-<first 12 digits of the digest>`."""
    slug = re.sub(r"[^\w.]+", "-", label).strip("-") or "engine"
    return engines_folder() / f"{slug}-{key.digest[:12]}"


def open_engine(folder: Path, *, verify: bool = False) -> Engine:
    """Open one engine; ArtifactError when it is none, or (with `verify`) when a byte of it changed."""
    artifact = open_artifact(folder, KIND, verify=verify, fix="edgedit build BUNDLE")
    artifact.file(PLAN_FILE)
    return Engine(artifact, _key_of(artifact.manifest.info, folder))


def find_engine(bundle: Bundle, key_wanted: EngineKey, *, folder: Path | None = None) -> Engine:
    """The engine of a bundle on this board: the one in `folder`, or the newest that fits in the cache.

    Raises:
        ArtifactError: what is there was built for another board, TensorRT, batch, graph or other flags; both sides are shown.
        MissingError: nothing was built yet.
    """
    fix = f"edgedit build {bundle.path}"
    if folder is not None:
        engine = open_engine(folder)
        if rows := key_wanted.differences(engine.key):
            raise ArtifactError(f"{folder} is not an engine for {bundle.path} on this board", saw=table(rows),
                                fix=f"{fix} --out {folder}")
        return engine
    cached = list(cached_engines())
    fitting = [(created, path) for created, path, key, _ in cached if not key_wanted.differences(key)]
    if fitting:
        return open_engine(max(fitting)[1])
    if (nearest := _nearest(bundle, key_wanted, cached)) is not None:
        path, rows = nearest
        raise ArtifactError(f"no engine for {bundle.path} on this board; {path} was built for something else", saw=table(rows), fix=fix)
    raise MissingError(f"no engine was built for {bundle.path} yet", saw=f"nothing of it in {engines_folder()}", fix=fix)


Cached = tuple[str, Path, EngineKey, dict[str, Any]]


def cached_engines() -> Iterator[Cached]:
    """(created, folder, key, facts of its bundle) of every readable engine in the cache, checked no further."""
    folder = engines_folder()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or not (path / MANIFEST).is_file():
            continue
        try:
            manifest = read_manifest(path)
            if manifest.kind == KIND:
                yield manifest.created, path, _key_of(manifest.info, path), dict(manifest.info.get("bundle") or {})
        except ArtifactError:  # damaged: it is built anew when it is asked for
            continue


def _nearest(bundle: Bundle, wanted: EngineKey, cached: list[Cached]) -> tuple[Path, list[tuple[str, str, str]]] | None:
    """The engine of the same graph, or of the same folder before it changed, with the fewest differences."""
    here = str(bundle.path.resolve())
    related = [(len(rows), path, rows) for _, path, key, facts in cached
               if key.onnx_sha256 == bundle.onnx_sha256 or facts.get("path") == here
               for rows in [wanted.differences(key)]]
    if not related:
        return None
    _, path, rows = min(related, key=lambda found: found[0])
    return path, rows


def table(rows: list[tuple[str, str, str]]) -> str:
    """Differences as lines: what, here, in the engine."""
    lines = [("", "here", "engine"), *rows]
    wide = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(f"       {a:<{wide[0]}}  {b:<{wide[1]}}  {c}" for a, b, c in lines).lstrip()


def _key_of(info: dict[str, Any], folder: Path) -> EngineKey:
    try:
        return EngineKey.from_dict(info["key"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{folder}: the manifest holds no engine key", saw=f"{type(error).__name__}: {error}",
                            fix="edgedit build BUNDLE") from error


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return ".".join(map(str, value))
    text = "not set" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def fusion_of(engine: Engine) -> dict[str, Any]:
    """The verdict on the attention blocks (`fusion.json`): "summary", "fused", "unknown", "blocks"."""
    try:
        body = json.loads(engine.artifact.file(FUSION_FILE).read_bytes())
        return {"summary": str(body["summary"]), "fused": int(body["fused"]), "unknown": int(body["unknown"]),
                "blocks": [dict(block) for block in body["blocks"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{engine.path}: {FUSION_FILE} cannot be read", saw=f"{type(error).__name__}: {error}",
                            fix="edgedit build BUNDLE --again") from error
