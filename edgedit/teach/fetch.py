"""Downloads into a cache: resumed where they stopped, checked before they are used."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError

from edgedit import __version__
from edgedit.core.errors import MissingError
from edgedit.core.files import output_error
from edgedit.core.say import Event, Say, silent

_PIECE = 1 << 18
_TIMEOUT_S = 30


def fetch(url: str, file: Path, *, md5: str, fix: str, say: Say = silent) -> Path:
    """Download `url` to `file` unless it is there; a broken download goes on where it stopped (HTTP Range).

    Args:
        url: http or https address.
        file: destination; `<file>.part` beside it holds what has come so far.
        md5: hex MD5 that the publisher states.
        fix: what to do when the network is refused.

    Raises:
        MissingError: no network, the server refuses, the transfer breaks off, or the content has another MD5.
        OutputError: the cache cannot be written or is full.
    """
    if file.is_file() and _md5(file) == md5:
        return file
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
        _transfer(url, part, have, say)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the part is already whole
            raise MissingError(f"{url} could not be downloaded", saw=f"HTTP {error.code} {error.reason}", fix=fix) from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, SSLError) as error:
        saw = getattr(error, "reason", None) or error or type(error).__name__
        raise MissingError(f"{url} could not be downloaded", saw=saw, fix=fix) from error
    except OSError as error:
        raise output_error(part, error) from error
    if (seen := _md5(part)) != md5:
        part.unlink()
        raise MissingError(f"{url} did not give the published file", saw=f"md5 {seen}, published is {md5}",
                           fix="run the same command again; " + fix)
    os.replace(part, file)
    return file


def _transfer(url: str, part: Path, have: int, say: Say) -> None:
    headers = {"User-Agent": f"edgedit/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as reply:
        if have and reply.status != 206:  # the server sends the whole file again
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length else None
        done, told, started = have, have, have
        with part.open("ab" if have else "wb") as stream:
            while piece := reply.read(_PIECE):
                stream.write(piece)
                done += len(piece)
                if done - told >= 1 << 20:
                    told = done
                    say(Event(f"download {part.stem}", done >> 20, None if total is None else total >> 20, started >> 20, "MB"))
    if total is not None and done < total:
        raise ConnectionError(f"the connection closed after {done} of {total} bytes; what came is kept")


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
