"""The edgedit that runs here as a wheel: the same bytes on the board, without a build tool or a network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

import edgedit
from edgedit.core.errors import MissingError

_TIME = (1980, 1, 1, 0, 0, 0)


def own_wheel(folder: Path) -> Path:
    """Write edgedit-VERSION-py3-none-any.whl of the running package into `folder`; the same package gives the same bytes.

    The files are those of the package as it lies here, a checkout or an installation; name, dependencies and entry points are
    those of its installed metadata (PEP 427).

    Raises:
        MissingError: edgedit runs without being installed, or its metadata is of another version.
    """
    root = Path(edgedit.__file__).resolve().parent
    try:
        own = metadata.distribution("edgedit")
    except metadata.PackageNotFoundError:
        raise MissingError("edgedit is not installed here, so that its dependencies are not known", saw=root,
                           fix="pip install --editable .") from None
    if own.version != edgedit.__version__:
        raise MissingError("edgedit's installed metadata is of another version than its files",
                           saw=f"{own.version} and {edgedit.__version__}", fix="pip install --editable . (once more)")
    info = f"edgedit-{own.version}.dist-info"
    files = {f"edgedit/{p.relative_to(root).as_posix()}": p.read_bytes() for p in sorted(root.rglob("*"))
             if p.is_file() and "__pycache__" not in p.parts}
    files[f"{info}/METADATA"] = (own.read_text("METADATA") or own.read_text("PKG-INFO") or "").encode()
    files[f"{info}/entry_points.txt"] = (own.read_text("entry_points.txt") or "").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: edgedit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    wheel = folder / f"edgedit-{own.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr, entry.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return wheel


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
