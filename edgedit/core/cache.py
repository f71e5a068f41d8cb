"""Where edgedit keeps what it can make or fetch again: downloads, engines, timing caches."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """$EDGEDIT_CACHE, or the platform's cache folder (`~/.cache/edgedit` on Linux). It need not exist."""
    if chosen := os.environ.get("EDGEDIT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgedit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "edgedit"
