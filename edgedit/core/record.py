"""One measurement with everything needed to judge it: what ran, where, how, how long, at what power.

A record is an artifact of kind "record": `record.json` (the `Record` below), `batches.jsonl` (raw times of every batch),
`power.jsonl` (raw power samples, monotonic stamps), `tegrastats.log` where there was one, and `samples.png`.
Times are seconds or milliseconds of a monotonic clock, powers milliwatts, energies millijoules: the unit is in the name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgedit.core.errors import ArtifactError

RECORD_FILE = "record.json"
BATCHES_FILE = "batches.jsonl"
POWER_FILE = "power.jsonl"
TEGRASTATS_FILE = "tegrastats.log"
SAMPLES_FILE = "samples.png"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Verdict(_Frozen):
    """A judgement on the measurement, in words: level, a short code, the sentence, and what to type."""

    level: Literal["ok", "note", "warning", "error"]
    code: str
    text: str
    fix: str = ""


class Distribution(_Frozen):
    """Statistics of per-batch times (the fields of trtexec's report, and the coefficient of variation)."""

    count: int
    min: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    max: float
    cov_percent: float


class Subject(_Frozen):
    """What was measured."""

    label: str
    """The design, "(5,64,8)"."""
    spec: dict[str, int]
    bundle_digest: str
    onnx_sha256: str
    precision: str
    attention: str
    guidance_scale: float
    forward_batch: int
    """Images that pass the network per batch: 2 · batch when guidance is inside the graph."""
    parameters: int
    deployed_parameters: int
    flops_per_image: int
    """Of one generated image, guidance counted."""


class Environment(_Frozen):
    """Where it ran. Unknown is None, never 0."""

    machine: str
    cpu: str
    cpu_count: int
    os: str
    python: str
    packages: dict[str, str] = {}
    board: str | None = None
    jetpack: str | None = None
    l4t: str | None = None
    gpu: str | None = None
    sm_count: int | None = None
    power_mode: str | None = None
    power_mode_id: int | None = None
    clocks_locked: bool | None = None
    gpu_clock_hz: int | None = None
    cpu_governor: str | None = None
    temperature_c: dict[str, float] = {}
    extra: dict[str, Any] = {}


class Protocol(_Frozen):
    """How it ran."""

    images: int
    batch: int
    batches: int
    last_batch: int
    """Images kept of the last batch; the rest is padding."""
    warmup_batches: int
    seed: int
    runtime: str
    provider: str
    """The provider that really ran the graph, read back from the runtime."""
    threads: int | None = None
    save: bool = False
    overlap: bool = True
    options: dict[str, Any] = {}


class PowerRail(_Frozen):
    """Energy of one rail or domain over the run window."""

    name: str
    mean_mw: float
    max_mw: float
    energy_mj: float


class Power(_Frozen):
    """Power over the run window, by trapezoid over monotonic stamps (jetson.md §3.5)."""

    source: str
    """ "ina3221", "tegrastats", "rapl", "nvml"."""
    boundary: str
    """What the figure covers and leaves out: "module input VDD_IN; carrier board, fan and NVMe excluded"."""
    rails: list[PowerRail]
    total_rail: str
    window_s: float
    samples: int
    rate_hz: float
    largest_gap_s: float
    idle_mw: float | None
    idle_window_s: float | None
    energy_total_mj: float
    energy_net_mj: float | None
    """Total less idle power times window; None without an idle baseline."""
    mj_per_image: float
    net_mj_per_image: float | None


class Record(_Frozen):
    """A whole measurement; see the module's text for the files beside it."""

    schema_version: int = 1
    started_utc: str
    subject: Subject
    environment: Environment
    protocol: Protocol
    wall_s: float
    """From the first timed batch's start to the last result saved."""
    images_per_s: float
    phases_s: dict[str, float]
    """Sums over the run: noise, upload, compute, download, save; overlapped phases may add up to more than wall_s."""
    batch_ms: Distribution
    """Compute time of one batch."""
    period_ms: Distribution
    """Time from one finished batch to the next."""
    peak_memory_mb: float | None = None
    power: Power | None = None
    power_others: list[Power] = []
    """Further power sources logged at the same time."""
    verdicts: list[Verdict] = []
    complete: bool = True
    """False when the run was cut short; the figures cover what was measured."""


def load_record(folder: str | Path) -> Record:
    """Read `record.json` of a record folder; ArtifactError when it does not parse."""
    file = Path(folder) / RECORD_FILE
    try:
        return Record.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{folder} holds no {RECORD_FILE}", fix="edgedit profile BUNDLE --out FOLDER makes one") from None
    except ValidationError as error:
        raise ArtifactError(f"{file} is not a record this version reads", saw=error.errors()[0]["msg"]) from error
