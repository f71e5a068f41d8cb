"""Statistics of a reference set: kept in a cache, or read from the files that other tools publish."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import ArtifactError, NumericsError
from edgedit.core.files import sha256_file, write_atomic
from edgedit.evaluate.sources import ARRAYS

FORMAT = "edgedit-reference-1"
FEATURES_LIMIT = 1 << 25
"""Most feature values kept beside mean and covariance (128 MB): 16,384 images at the 2048 tap."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set's features.

    Attributes:
        mean: float64 (d,).
        covariance: float64 (d, d), ddof = 1.
        n: images; None where the file does not say.
        facts: what the file says of data and extractor; of a foreign file its name and hash alone.
        features: float32 (n, d) where they were kept: KID, precision and recall need them.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None

    @property
    def width(self) -> int:
        """Features an image has."""
        return len(self.mean)


def save_statistics(file: Path, statistics: Statistics) -> None:
    """Write an .npz of `mu, sigma, n, facts` (JSON) and perhaps `features`: pytorch-fid and EDM's evaluation read it too."""
    arrays: dict[str, Any] = {"mu": statistics.mean, "sigma": statistics.covariance, "n": np.int64(statistics.n or 0),
                              "facts": np.array(json.dumps({"format": FORMAT, **statistics.facts}, sort_keys=True))}
    if statistics.features is not None and statistics.features.size <= FEATURES_LIMIT:
        arrays["features"] = statistics.features
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, stream.getvalue())


def load_statistics(file: Path) -> Statistics:
    """Read an .npz with `mu` and `sigma` (or `cov`): this tool's, EDM's fid-refs, pytorch-fid's, clean-fid's.

    Raises:
        ArtifactError: not such a file, or arrays that do not belong together.
        NumericsError: values that are not finite.
    """
    try:
        with np.load(file, allow_pickle=False) as body:
            if "mu" not in body or not {"sigma", "cov"} & set(body.files):
                raise ArtifactError(f"{file} holds no statistics", saw=body.files, fix="needed are mu (d,) and sigma (d, d)")
            mean = np.asarray(body["mu"], np.float64)
            covariance = np.asarray(body["sigma" if "sigma" in body else "cov"], np.float64)
            n = int(body["n"]) if "n" in body else 0
            facts = json.loads(str(body["facts"])) if "facts" in body else {}
            features = body.get("features")
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{file} cannot be read as statistics", saw=error, fix="an .npz with mu and sigma is needed") from error
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise ArtifactError(f"{file}: mean and covariance do not belong together", saw=f"{mean.shape} and {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise NumericsError(f"{file}: statistics that are not finite")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        facts = {"kind": "statistics", "name": file.name, "sha256": sha256_file(file)}
    return Statistics(mean, covariance, n or None, facts, features)


def holds_statistics(file: Path) -> bool:
    """Whether a file is an .npz without images: then `load_statistics` reads it, or says what is wrong with it."""
    if file.suffix != ".npz" or not file.is_file():
        return False
    try:
        with zipfile.ZipFile(file) as body:
            return not {f"{name}.npy" for name in ARRAYS} & set(body.namelist())
    except (OSError, zipfile.BadZipFile):
        return True


def cache_file(cache: Path, reference: dict[str, Any], extractor: dict[str, Any]) -> Path:
    """Where the statistics of these images (`identity`, with "used" and "subset_seed") by this extractor lie."""
    about = ("kind", "sha256", "digest", "seed", "start", "labels", "count", "used", "subset_seed")
    key = {"data": {k: reference[k] for k in about if k in reference}, "extractor": {k: extractor[k] for k in ("sha256", "tap", "resize")}}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    name = "".join(c if c.isalnum() else "-" for c in str(reference.get("name", "reference")))
    return cache / "references" / f"{name}-{extractor['tap']}-{digest[:16]}.npz"
