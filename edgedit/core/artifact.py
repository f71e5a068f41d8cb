"""Folders with a manifest: what was made, from what, with which settings, and a hash of every byte.

An artifact is a folder holding `manifest.json` and payload files in formats that other tools read. `create` writes it into
a temporary sibling, fsyncs and renames, so a power cut or a full disk leaves either the whole artifact or none. `seal`
gives an existing folder (a training run, which is watched while it grows) a manifest over some of its files. `open_artifact`
checks kind, sizes and hashes before anything is used. The manifest's own SHA-256 is the artifact's digest; children name
their parents by it, so `chain` can walk from a report row back to the teacher.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgedit import __version__
from edgedit.core.errors import ArtifactError, OutputError, UsageError
from edgedit.core.files import fsync, output_error, sha256_file, write_atomic

MANIFEST = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Parent:
    """What an artifact was made from: its role ("pairs", "student", "bundle"), digest, and where it lay then.

    `parents` repeats the parent's own lineage, so that the chain back to the teacher is readable on a board that holds only
    the last link of it.
    """

    role: str
    kind: str
    digest: str
    path: str = ""
    label: str = ""
    parents: tuple[Parent, ...] = ()

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Parent:
        """Inverse of `dataclasses.asdict`."""
        return cls(**{**body, "parents": tuple(cls.from_dict(p) for p in body.get("parents", ()))})


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    Attributes:
        kind: "pairs", "student", "bundle", "images", "record", "parity" …
        files: payload name → {"sha256": hex, "bytes": size}.
        parents: what it was made from.
        settings: the resolved settings of the stage that made it.
        spec: sizes of the DiT (`DiTSpec.to_dict`), where there is one.
        info: facts of this kind (class names, counts, shapes); plain JSON values.
        tool: name and version of the maker.
        created: ISO time, UTC.
        digest: SHA-256 of the manifest file; not stored inside it.
    """

    kind: str
    files: dict[str, dict[str, Any]]
    parents: tuple[Parent, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, int] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    tool: dict[str, str] = field(default_factory=lambda: {"name": "edgedit", "version": __version__})
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    schema: int = SCHEMA
    digest: str = ""

    def dumps(self) -> bytes:
        """The exact bytes of `manifest.json` (UTF-8 JSON, sorted keys)."""
        body = {k: v for k, v in vars(self).items() if k != "digest"}
        body["parents"] = [asdict(p) for p in self.parents]
        return (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk: its folder and its checked manifest."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Path of a payload; ArtifactError if the manifest does not list it."""
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.path} holds no '{name}'", saw=sorted(self.manifest.files))
        return self.path / name

    def as_parent(self, role: str) -> Parent:
        """How a child names this artifact."""
        m = self.manifest
        return Parent(role, m.kind, m.digest, str(self.path), str(m.info.get("label", "")), m.parents)


# --- reading ----------------------------------------------------------------------------------------------------------------


def open_artifact(path: str | Path, kind: str | None = None, *, verify: bool = True, fix: str | None = None) -> Artifact:
    """Open an artifact and check it.

    Args:
        path: its folder.
        kind: the kind the caller needs, or None for any.
        verify: also read every payload and compare its SHA-256 (sizes are always compared).
        fix: what to type to make such an artifact, for the error when nothing is there.

    Raises:
        ArtifactError: no folder, no manifest, another kind or schema, or a payload missing, truncated or altered.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not there" if not folder.exists() else f"{folder} is not a folder", fix=fix)
    manifest = read_manifest(folder, fix=fix)
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{folder} is of kind '{manifest.kind}', needed is '{kind}'", fix=fix)
    for name, entry in manifest.files.items():
        _check_payload(folder, name, entry, verify)
    return Artifact(folder, manifest)


def read_manifest(folder: Path, *, fix: str | None = None) -> Manifest:
    """Parse `folder/manifest.json`; ArtifactError names what is wrong with it."""
    file = folder / MANIFEST
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{folder} has no {MANIFEST}: it is not an edgedit artifact, or its making was cut short",
                            saw=sorted(p.name for p in folder.iterdir())[:8], fix=fix) from None
    try:
        body = json.loads(raw)
        if body["schema"] != SCHEMA:
            raise ArtifactError(f"{file} has schema {body['schema']}, this edgedit reads {SCHEMA}",
                                fix="make it again with this version, or install the version named in it")
        body["parents"] = tuple(Parent.from_dict(p) for p in body["parents"])
        for name, entry in body["files"].items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ArtifactError(f"{file} lists a file outside its folder", saw=name)
            str(entry["sha256"]), int(entry["bytes"])
        return Manifest(**body, digest=hashlib.sha256(raw).hexdigest())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{file} cannot be read as a manifest", saw=f"{type(error).__name__}: {error}",
                            fix=fix or "make the artifact again") from error


def _check_payload(folder: Path, name: str, entry: dict[str, Any], verify: bool) -> None:
    file = folder / name
    again = "copy it again from its source, or make it again with the command that made it"
    if not file.is_file():
        raise ArtifactError(f"{folder} lacks '{name}', which its manifest lists", fix=again)
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise ArtifactError(f"{file} is truncated or altered", saw=f"{size} bytes, manifest says {entry['bytes']}", fix=again)
    if verify and (seen := sha256_file(file)) != entry["sha256"]:
        raise ArtifactError(f"{file} was altered after it was made",
                            saw=f"sha256 {seen[:16]}…, manifest says {entry['sha256'][:16]}…", fix=again)


# --- writing ----------------------------------------------------------------------------------------------------------------


class Draft:
    """An artifact being written: put payloads under `path` (or use the helpers), set `info`, `spec`, `parents`, `settings`."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self.parents: list[Parent] = []
        self.settings: dict[str, Any] = {}
        self.spec: dict[str, int] | None = None
        self.info: dict[str, Any] = {}
        self.manifest: Manifest | None = None

    def write(self, name: str, data: bytes | str) -> Path:
        """Write one payload; text is UTF-8."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        return file

    def write_json(self, name: str, value: Any) -> Path:
        """Write one payload as JSON."""
        return self.write(name, json.dumps(value, indent=1, ensure_ascii=False, default=_plain) + "\n")


@contextmanager
def create(out: str | Path, kind: str, *, replace: bool = True) -> Iterator[Draft]:
    """Write a new artifact: `with create(out, "bundle") as draft: draft.write("model.onnx", data)`.

    Everything goes to a temporary sibling of `out`; when the block ends well, files are hashed and fsynced, the manifest is
    written, and the folder takes the name `out` (an artifact of the same kind that was there is replaced if `replace`,
    anything else never is). When it raises, the sibling is removed and `out` is as before. Afterwards `draft.manifest` is set.

    Raises:
        OutputError: `out` cannot be written, is full, or holds something that is not an artifact.
    """
    target = Path(out)
    check_output(target, replace=replace, kind=kind)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise output_error(target, error) from error
    draft = Draft(work, kind)
    try:
        yield draft
        names = sorted(p.relative_to(work).as_posix() for p in work.rglob("*") if p.is_file())
        draft.manifest = _write_manifest(work, kind, names, draft)
        work.chmod(0o755)
        _swap(work, target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def seal(folder: str | Path, kind: str, files: Iterable[str], *, parents: Iterable[Parent] = (), info: dict[str, Any] | None = None,
         settings: dict[str, Any] | None = None, spec: dict[str, int] | None = None) -> Manifest:
    """Write (or atomically replace) the manifest of an existing folder over the named files; the rest are unsealed logs."""
    draft = Draft(Path(folder), kind)
    draft.parents, draft.settings, draft.spec, draft.info = list(parents), settings or {}, spec, info or {}
    try:
        return _write_manifest(draft.path, kind, sorted(files), draft)
    except OSError as error:
        raise output_error(draft.path, error) from error


def check_output(target: Path, *, replace: bool = True, kind: str | None = None) -> None:
    """Raise OutputError before any work when `target` could not be written at the end.

    With `kind`, an artifact of another kind that lies there counts as something in the way.
    """
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; an artifact is a folder", fix="choose another --out")
    if target.is_dir() and any(target.iterdir()):
        if not (target / MANIFEST).is_file():
            raise OutputError(f"{target} holds files that edgedit did not make; nothing there was touched",
                              saw=sorted(p.name for p in target.iterdir())[:5], fix="choose another --out, or empty it")
        if not replace:
            raise OutputError(f"{target} already holds an artifact", fix="choose another --out, or remove it")
        if kind is not None and (there := _kind_of(target)) not in (kind, None):
            raise OutputError(f"{target} holds an artifact of kind '{there}'; a {kind} does not replace it", fix="choose another --out")
    parent = next(p for p in [target, *target.absolute().parents] if p.exists())
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{target} cannot be written", saw=f"no permission in {parent}", fix="choose another --out")


def _kind_of(folder: Path) -> str | None:
    """Kind of the artifact in a folder; None when its manifest cannot be read."""
    try:
        return read_manifest(folder).kind
    except ArtifactError:
        return None


def _write_manifest(folder: Path, kind: str, names: list[str], draft: Draft) -> Manifest:
    if MANIFEST in names:
        raise UsageError(f"{MANIFEST} is written by edgedit, not by a stage")
    files = {}
    for name in names:
        fsync(folder / name)
        files[name] = {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
    settings, info = (json.loads(json.dumps(x, default=_plain)) for x in (draft.settings, draft.info))
    manifest = Manifest(kind, files, tuple(draft.parents), settings, draft.spec, info)
    data = manifest.dumps()
    write_atomic(folder / MANIFEST, data)
    return Manifest(**{**vars(manifest), "digest": hashlib.sha256(data).hexdigest()})


def _swap(work: Path, target: Path) -> None:
    """Give `work` the name `target`; an older artifact there is moved aside first and removed last."""
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        os.replace(target, old)
    os.replace(work, target)
    fsync(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _plain(value: Any) -> Any:
    """JSON for what settings and facts hold: paths, numpy numbers and arrays, tuples, pydantic models."""
    if isinstance(value, Path):
        return str(value)
    for name in ("model_dump", "tolist", "to_dict"):
        if hasattr(value, name):
            return getattr(value, name)()
    raise TypeError(f"{type(value).__name__} has no place in a manifest")
