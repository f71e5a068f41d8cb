"""`edgedit build`: a bundle becomes an engine for this board, proven and cached; the second time it is there at once."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgedit.core.artifact import MANIFEST, check_output, create
from edgedit.core.errors import ArtifactError, OutputError, UsageError
from edgedit.core.files import held, output_error
from edgedit.core.say import Event, Say, silent
from edgedit.core.stop import StopRequest, stop_on_signals
from edgedit.device.bundle import Bundle
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.jetpack import version_numbers
from edgedit.device.trt.engine import (
    KIND,
    Engine,
    EngineKey,
    cached_engines,
    engine_folder,
    engines_folder,
    make_key,
    open_engine,
)
from edgedit.device.trt.make import ATTENTION_SINCE, Make, interrupted
from edgedit.device.trt.module import import_tensorrt, tensorrt_version
from edgedit.device.trt.settings import BuildSettings

__all__ = ["BuildSettings", "build"]

_WAIT_S = 0.5


def build(bundle_path: str | Path, settings: BuildSettings | None = None, *, out: str | Path | None = None, again: bool = False,
          gpu: GpuFacts | None = None, say: Say = silent, root: Path = Path("/")) -> Engine:
    """Build the engine of a bundle for this board, or find the one that was built before.

    TensorRT works in a child process: when it is killed or crashes, this one lives to say so. Progress, memory before, the log,
    the inspector's report and the verdict on every attention block are kept with the engine. One build at a time runs on a
    machine; another one waits, since two would share the memory and disturb each other's timings.

    Args:
        bundle_path: folder of an exported bundle.
        settings: how.
        out: a folder for the engine; None puts it into the cache (`$EDGEDIT_CACHE` or `~/.cache/edgedit`, `engines/`).
        again: build although the engine is there.
        gpu: facts of the GPU; None asks CUDA.
        root: root of the file system, for memory and releases.

    Raises:
        UsageError: a bundle or settings that this TensorRT cannot take, with the export to make instead.
        MissingError: no TensorRT, no GPU.
        ArtifactError: no bundle, or a damaged one.
        OutputError: no space, no permission, another thing in the way.
        EdgeditError: the build failed: out of memory, crashed, refused; each with its own remedy.
        Interrupted: Ctrl-C or SIGTERM; nothing half-made is left.
    """
    settings = settings or BuildSettings()
    bundle = Bundle.open(bundle_path)
    _refuse_dialect(bundle)
    version = tensorrt_version(import_tensorrt(root))
    _refuse_version(bundle, settings, version)
    batch = bundle.choose_batch(settings.batch)
    gpu = gpu or _ask_cuda()
    key = make_key(bundle, version, gpu, batch, attention=settings.attention,
                   optimization_level=settings.optimization_level, workspace_mb=settings.workspace_mb)
    label = str(bundle.artifact.manifest.info.get("label", bundle.spec.label))
    target = Path(out) if out is not None else engine_folder(key, label)
    if not again and (there := _made(target, key, say)) is not None:
        return there
    check_output(target, kind=KIND)
    with stop_on_signals(deferred=True) as stop:
        try:
            with _alone(say, stop):
                if not again and (there := _made(target, key, say) or _copied(target, key, say)) is not None:
                    return there
                return Make(bundle, settings, key, gpu, version, target, label, say, stop, root).run()
        except KeyboardInterrupt:
            raise interrupted(stop) from None


def _ask_cuda() -> GpuFacts:
    from edgedit.device.cuda.device import read_gpu

    return read_gpu()


def _refuse_dialect(bundle: Bundle) -> None:
    if bundle.attention == "ort":
        raise UsageError(f"{bundle.path} is written for ONNX Runtime: TensorRT does not know its operators",
                         saw="attention 'ort'", fix="edgedit export STUDENT --out FOLDER --attention pattern --precision fp16")


def _refuse_version(bundle: Bundle, settings: BuildSettings, version: str) -> None:
    newer = version_numbers(version) >= ATTENTION_SINCE
    since = ".".join(map(str, ATTENTION_SINCE))
    if bundle.attention == "onnx" and not newer:
        raise UsageError(f"TensorRT {version} does not read the Attention operator of {bundle.path}; {since} is the first that does",
                         saw=f"attention 'onnx', opset {bundle.opset}", fix="edgedit export STUDENT --out FOLDER --attention pattern")
    if settings.attention == "iattention" and not newer:
        raise UsageError(f"TensorRT {version} has no attention layer of its own; {since} is the first that does",
                         saw="--attention iattention", fix=f"edgedit build {bundle.path} --attention pattern")


@contextmanager
def _alone(say: Say, stop: StopRequest) -> Iterator[None]:
    """Hold the machine's one place for builds; waits for another build, and says so."""
    folder = engines_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    with ExitStack() as hold:
        told = False
        while True:
            try:
                hold.enter_context(held(folder, "building an engine in"))
                break
            except OutputError:
                if not told:
                    say(Event("another build is under way on this machine; waiting for it"))
                    told = True
                if stop:
                    raise interrupted(stop) from None
                time.sleep(_WAIT_S)
        yield


def _made(target: Path, key: EngineKey, say: Say) -> Engine | None:
    """The engine at `target` if it is this one and whole."""
    if not (target / MANIFEST).is_file():
        return None
    try:
        engine = open_engine(target, verify=True)
    except ArtifactError as error:
        say(Event(f"{error.what}; it is built again", level="warning"))
        return None
    if key.differences(engine.key):
        return None
    say(Event(f"{target} is built already for this bundle and board"))
    return engine


def _copied(target: Path, key: EngineKey, say: Say) -> Engine | None:
    """An engine of this very key in the cache, copied to a folder that was asked for."""
    for _, path, cached, _ in cached_engines():
        if path == target or key.differences(cached):
            continue
        with contextlib.suppress(ArtifactError):
            engine = open_engine(path, verify=True)
            manifest = engine.artifact.manifest
            with create(target, KIND) as draft:
                for name in manifest.files:
                    shutil.copyfile(path / name, draft.path / name)
                draft.parents, draft.settings = list(manifest.parents), manifest.settings
                draft.spec, draft.info = manifest.spec, manifest.info
            say(Event(f"{target} is a copy of {path}"))
            return open_engine(target)
    return None


