"""The building itself: one child, or two where the first left attention unfused; the better engine becomes the artifact."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedit.core.artifact import create
from edgedit.core.errors import ArtifactError, EdgeditError, Interrupted
from edgedit.core.say import Event, Say
from edgedit.core.stop import StopRequest
from edgedit.device.bundle import LABELS, NOISE, Bundle
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.jetpack import version_numbers
from edgedit.device.trt.engine import (
    FUSION_FILE,
    KIND,
    LAYERS_FILE,
    LOG_FILE,
    PLAN_FILE,
    Engine,
    EngineKey,
    engine_folder,
    engines_folder,
    open_engine,
)
from edgedit.device.trt.failures import Attempt, Outcome, explain
from edgedit.device.trt.inspect import Proof, judge, read_layers
from edgedit.device.trt.memory import RESERVE_MB, Memory, choose_workspace, read_memory
from edgedit.device.trt.process import run_child
from edgedit.device.trt.settings import BuildSettings

ATTENTION_SINCE = (10, 14)
"""The first TensorRT that reads ONNX `Attention` and has `add_attention` (jetson.md §5.1)."""
CHECKS_FILE = "checks.json"


def interrupted(stop: StopRequest) -> Interrupted:
    """The error for a build that was asked to stop."""
    return Interrupted(f"build: stopped by {stop.reason or 'Ctrl-C'}", saw="no engine was left behind", fix="run the same command again")


@dataclass(frozen=True)
class Built:
    """One finished child: its folder, what it reported, and the verdict."""

    way: str
    folder: Path
    outcome: Outcome
    proof: Proof

    @property
    def facts(self) -> dict[str, Any]:
        return self.outcome.done or {}


@dataclass(frozen=True)
class Make:
    """Everything that one build holds together."""

    bundle: Bundle
    settings: BuildSettings
    key: EngineKey
    gpu: GpuFacts
    version: str
    target: Path
    label: str
    say: Say
    stop: StopRequest
    root: Path

    def run(self) -> Engine:
        """Build, compare, keep; the memory is looked at before anything starts."""
        memory = read_memory(self.gpu, self.root)
        workspace, why = choose_workspace(self.gpu, self.settings.workspace_mb)
        tight = self.gpu.free_mb < RESERVE_MB + workspace
        self.say(Event(f"{memory.text()}; workspace {workspace:,} MB ({why})", level="warning" if tight else "info"))
        _sweep(self.target)
        start = time.monotonic()
        with create(self.target, KIND) as draft:
            tried, given_up = self._try(draft.path, memory, workspace)
            best = max(tried, key=lambda built: built.proof.fused)  # the first of equals: the bundle's own form
            for name in (PLAN_FILE, LAYERS_FILE, LOG_FILE):
                shutil.move(best.folder / name, draft.path / name)
            for built in tried:
                shutil.rmtree(built.folder)
            draft.write_json(FUSION_FILE, best.proof.to_dict())
            draft.parents, draft.spec = [self.bundle.artifact.as_parent("bundle")], self.bundle.spec.to_dict()
            draft.settings = {**self.settings.model_dump(), "batch": self.key.batch}
            draft.info = self._info(best, tried, given_up, memory, workspace, time.monotonic() - start)
        with contextlib.suppress(OSError):
            self._failed_log.unlink(missing_ok=True)
        return open_engine(self.target)

    @property
    def _failed_log(self) -> Path:
        return engines_folder() / f"{engine_folder(self.key, self.label).name}.failed.log"

    def _try(self, folder: Path, memory: Memory, workspace: int) -> tuple[list[Built], str]:
        """The engines that the settings ask for, one or two, and why there is no second one where it was tried."""
        first = "iattention" if self.settings.attention == "iattention" else "pattern"
        if self.bundle.attention == "onnx":
            first = "operator"  # the bundle's graph holds Attention operators: there is nothing to replace
        tried = [self._one(first, folder, memory, workspace)]
        missed = tried[0].proof.missed
        if self.settings.attention != "auto" or first != "pattern" or not missed or version_numbers(self.version) < ATTENTION_SINCE:
            return tried, ""
        self.say(Event(f"{len(missed)} blocks that should fuse did not; building again with TensorRT's own attention layer"))
        try:
            tried.append(self._one("iattention", folder, memory, workspace))
        except Interrupted:
            raise
        except EdgeditError as error:
            self.say(Event(f"{error.what}; the first engine is kept", level="warning"))
            return tried, error.what
        return tried, ""

    def _one(self, way: str, folder: Path, memory: Memory, workspace: int) -> Built:
        """One child's work, judged."""
        place = folder / way
        place.mkdir()
        batch, dynamic = self.key.batch, self.bundle.dynamic
        request = {
            "folder": str(place), "model": str(self.bundle.model.resolve()), "onnx_sha256": self.bundle.onnx_sha256, "attention": way,
            "workspace_mb": workspace, "optimization_level": self.settings.optimization_level,
            "largest": {NOISE: [batch, *self.bundle.noise_shape], LABELS: [batch]} if dynamic else {},
            "timing_cache": str(timing_cache_file(self.version, self.gpu))}
        outcome = run_child(request, place, text="build" if way != "iattention" else "build (own attention)", say=self.say,
                            stop=self.stop)
        if outcome.stopped or self.stop:
            raise interrupted(self.stop)
        if outcome.done is None:
            _keep_log(place, self._failed_log)
            raise explain(Attempt(self.bundle, self.version, memory, workspace, self._failed_log, self.target), outcome)
        if reason := outcome.done.get("timing_cache_unkept"):
            self.say(Event(f"the timing cache could not be kept ({reason}); the next build measures everything again", level="warning"))
        layers = read_layers((place / LAYERS_FILE).read_bytes())
        return Built(way, place, outcome, judge(layers, self._checks(), precision=self.bundle.precision, tensorrt=self.version))

    def _checks(self) -> object:
        """What the export found about fusion; None for bundles without it."""
        try:
            return json.loads(self.bundle.artifact.file(CHECKS_FILE).read_bytes()).get("fusion")
        except (ArtifactError, OSError, ValueError, AttributeError):
            return None

    def _info(self, best: Built, tried: list[Built], given_up: str, memory: Memory, workspace: int, wall_s: float) -> dict[str, Any]:
        here = self.bundle
        return {
            "label": self.label, "key": self.key.to_dict(), "tensorrt": self.version, "gpu": {**vars(self.gpu)},
            "bundle": {"path": str(here.path.resolve()), "digest": here.digest, "attention": here.attention, "precision": here.precision},
            "profile": {"min": 1, "opt": self.key.batch, "max": self.key.batch} if here.dynamic else None,
            "attention": {"asked": self.settings.attention, "used": best.way, "tried": [
                {"way": built.way, "fused": built.proof.fused, "blocks": len(built.proof.blocks), "wall_s": round(built.outcome.wall_s, 1)}
                for built in tried], "given_up": given_up or None},
            "fusion": {"blocks": len(best.proof.blocks), "fused": best.proof.fused, "unknown": best.proof.unknown},
            "build": {"wall_s": round(wall_s, 1), "workspace_mb": workspace, "optimization_level": best.facts.get("optimization_level"),
                      "timing_cache_known": best.facts.get("timing_cache_known"), "free_mb_before": memory.gpu_free_mb,
                      "available_mb_before": memory.available_mb, "available_mb_lowest": best.outcome.lowest_mb,
                      "peak_host_mb": best.outcome.peak_mb, "warnings": best.facts.get("problems", [])},
            "plan_bytes": best.facts.get("plan_bytes"),
        }


def timing_cache_file(tensorrt: str, gpu: GpuFacts) -> Path:
    """Where the builder's measurements are kept, by TensorRT and board: they hold for nothing else."""
    name = f"{tensorrt}-{gpu.name}-{gpu.architecture}-{gpu.sm_count}sm.timing"
    return engines_folder().parent / "timing" / "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def _sweep(target: Path) -> None:
    """Remove what builds of this engine left that were cut off by a power loss; their place is held by nobody but us."""
    for rest in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(rest, ignore_errors=True)


def _keep_log(folder: Path, place: Path) -> None:
    """The log of a build that failed outlives its folder."""
    if (folder / LOG_FILE).is_file():
        with contextlib.suppress(OSError):
            shutil.copyfile(folder / LOG_FILE, place)
