"""Whether a folder belongs to the run that is asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgedit.core.artifact import Manifest, Parent
from edgedit.core.errors import OutputError, UsageError
from edgedit.learn.settings import LearnSettings, changes

_OTHERWISE = "use the same settings to go on, begin anew with --restart, or choose another --out"


def check_kind(out: Path, manifest: Manifest | None, kind: str) -> None:
    """Raise OutputError when the folder holds something else than a training run: it is not touched, restart or not."""
    if manifest is not None and manifest.kind != kind:
        raise OutputError(f"{out} holds an artifact of kind '{manifest.kind}', not a training run of kind '{kind}'",
                          fix="choose another --out")


def check_same_run(out: Path, manifest: Manifest, settings: LearnSettings, parents: tuple[Parent, ...], steps: int) -> None:
    """Raise UsageError unless the folder's run has the same inputs and settings, and no more steps or minutes than asked for."""
    try:
        before = type(settings).model_validate(manifest.settings)
    except ValidationError as error:
        raise UsageError(f"{out} was trained by another version of edgedit, with settings this one does not know",
                         saw=error.errors()[0]["loc"], fix="begin anew with --restart, or choose another --out") from error
    if different := changes(before, settings):
        raise UsageError(f"{out} holds a run with other settings", saw="; ".join(different), fix=_OTHERWISE)
    was, now = ({p.role: p.digest for p in some} for some in (manifest.parents, parents))
    if was != now:
        roles = sorted(r for r in was.keys() | now.keys() if was.get(r) != now.get(r))
        raise UsageError(f"{out} holds a run from other {' and '.join(roles)}", fix=_OTHERWISE,
                         saw="; ".join(f"{r}: {was.get(r, 'none')[:12]} → {now.get(r, 'none')[:12]}" for r in roles))
    if manifest.info["step"] > steps:
        raise UsageError(f"{out} was trained for {manifest.info['step']} steps already", saw=f"{steps} steps asked for",
                         fix="ask for more steps, begin anew with --restart, or choose another --out")
    if settings.minutes is not None and manifest.info["wall_s"] > 60 * settings.minutes and (before.minutes or math.inf) > settings.minutes:
        raise UsageError(f"{out} was trained for {manifest.info['wall_s'] / 60:.4g} minutes already",
                         saw=f"{settings.minutes:g} minutes asked for",
                         fix="ask for more minutes, begin anew with --restart, or choose another --out")


def check_same_loss(out: Path, before: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raise UsageError when a run would go on under another measure than it began with (other LPIPS weights)."""
    if before != facts:
        different = sorted(k for k in before.keys() | facts.keys() if before.get(k) != facts.get(k))
        raise UsageError(f"{out} holds a run with another loss", fix=_OTHERWISE,
                         saw="; ".join(f"{k}: {before.get(k)} → {facts.get(k)}" for k in different))
