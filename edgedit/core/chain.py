"""The chain of evidence: from an artifact back to the teacher, re-checked where the ancestors are at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgedit.core.artifact import Artifact, Parent, open_artifact
from edgedit.core.errors import ArtifactError


@dataclass(frozen=True)
class Link:
    """One artifact of a chain.

    Attributes:
        depth: distance from the artifact asked about.
        role, kind, label, digest, path: as its child names it.
        status: "verified" (here, every hash right), "absent" (not at its path), "changed" (another artifact lies there),
            "damaged" (there, but a file fails its check).
        detail: what was seen, for "changed" and "damaged".
    """

    depth: int
    role: str
    kind: str
    label: str
    digest: str
    path: str
    status: str
    detail: str = ""


def chain(path: str | Path) -> list[Link]:
    """Links from the artifact at `path` (which must verify) to its farthest ancestors, depth first.

    Ancestors that are not here are listed from the lineage their child carries, as "absent".

    Raises:
        ArtifactError: `path` itself is missing, truncated or altered.
    """
    top = open_artifact(path)
    me = top.as_parent("this")
    links = [Link(0, "this", me.kind, me.label, me.digest, str(path), "verified")]
    for parent in me.parents:
        _walk(parent, Path(path), 1, links)
    return links


def _walk(parent: Parent, child: Path, depth: int, links: list[Link]) -> None:
    status, detail, where = "absent", "", parent.path
    for candidate in (Path(parent.path), child.parent / Path(parent.path).name) if parent.path else ():
        if not candidate.is_dir():
            continue
        try:
            found: Artifact = open_artifact(candidate)
        except ArtifactError as error:
            status, detail, where = "damaged", error.what, str(candidate)
            continue
        where = str(candidate)
        if found.manifest.digest == parent.digest:
            status, detail = "verified", ""
            break
        status, detail = "changed", f"there now: {found.manifest.kind} {found.manifest.digest[:12]}"
    links.append(Link(depth, parent.role, parent.kind, parent.label, parent.digest, where, status, detail))
    for grand in parent.parents:
        _walk(grand, Path(where), depth + 1, links)
