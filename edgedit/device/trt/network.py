"""From ONNX bytes to a plan, with the calls that TensorRT 10.3 to 11.x share. Import after `import_tensorrt`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tensorrt as trt

from edgedit.core.errors import OutputError
from edgedit.core.files import write_atomic
from edgedit.device.trt.failures import Failure
from edgedit.device.trt.log import Log
from edgedit.device.trt.monitor import Monitor

_MB = 1 << 20


@dataclass(frozen=True)
class Wish:
    """How to build.

    Attributes:
        workspace_mb: limit of the scratch memory.
        optimization_level: 0 … 5, None leaves TensorRT's own (3).
        largest: of a dynamic graph: input name → shape at the largest batch, which is also the one to tune for.
    """

    workspace_mb: int
    optimization_level: int | None
    largest: dict[str, tuple[int, ...]]


def make_builder(log: Log) -> trt.Builder:
    """A builder; Failure "builder" where CUDA does not work: the binding then raises TypeError (jetson.md §5.8)."""
    try:
        return trt.Builder(log)
    except TypeError as error:
        raise Failure("builder", problems=[*log.problems(), str(error)]) from error


def parse(builder: trt.Builder, log: Log, model: bytes) -> trt.INetworkDefinition:
    """A strongly typed network from ONNX; Failure "parse" lists every operator that the parser refuses."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        nodes = [{"node": error.node_name(), "operator": error.node_operator(), "text": error.desc()} for error in errors]
        raise Failure("parse", problems=log.problems(), nodes=nodes)
    return network


def configure(builder: trt.Builder, wish: Wish, monitor: Monitor) -> trt.IBuilderConfig:
    """The configuration: memory, level, types, profile, progress, and a report that names every layer's origin."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wish.workspace_mb * _MB)
    if wish.optimization_level is not None:
        config.builder_optimization_level = wish.optimization_level
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: an FP32 engine would round products to 10 bits (jetson.md §5.3)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = monitor
    if wish.largest:
        profile = builder.create_optimization_profile()
        for name, shape in wish.largest.items():
            profile.set_shape(name, (1, *shape[1:]), shape, shape)
        config.add_optimization_profile(profile)
    return config


def use_timing_cache(config: trt.IBuilderConfig, file: Path) -> bool:
    """Give the build what earlier ones measured; True where `file` could be used."""
    try:
        known = file.read_bytes()
    except OSError:
        known = b""
    for content in (known, b"") if known else (b"",):
        cache = config.create_timing_cache(content)  # None where the bytes are damaged
        if cache is not None and config.set_timing_cache(cache, False):
            return content != b""
    return False


def keep_timing_cache(config: trt.IBuilderConfig, file: Path) -> str:
    """Write what was measured, whole or not at all; the reason when it could not be."""
    cache = config.get_timing_cache()
    if cache is None:
        return "TensorRT gave none"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, bytes(cache.serialize()))
    except OutputError as error:
        return error.saw or error.what
    except OSError as error:
        return error.strerror or str(error)
    return ""


def inspect_plan(log: Log, plan: bytes) -> str:
    """The engine inspector's JSON; Failure "plan" when TensorRT does not load what it has just built."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise Failure("plan", problems=log.problems())
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
