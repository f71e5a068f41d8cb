"""Builder, its configuration and optimization profiles: checks what the builder checks, reports progress, makes a plan.

EDGEDIT_FAKE_TRT {"build": …}: "ok"; "null" fails; "memory" fails as when the GPU's memory is full; "kill" is killed in the midst
of it (as by the kernel's out-of-memory killer); "slow" takes two seconds. {"fuse": false} declines every attention,
{"fuse": "iattention"} all but those that add_attention made.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import onnx

from tensorrt_double import fusion
from tensorrt_double.graph import Network
from tensorrt_double.plan import PLAN, TimingCache, host_memory, pack, read_cache, where
from tensorrt_double.strict import Part, part
from tensorrt_double.world import ERROR, INFO, INTERNAL_ERROR, VERSION, WARNING, gpu, knob, log, need_gpu, real

PHASES = (("Building Engine", None), ("Timing graph nodes", "Building Engine"), ("Selecting tactics", "Building Engine"))
"""Nested as the documentation of IProgressMonitor describes; the library's own names vary by version and network."""


class Profile(Part):
    """IOptimizationProfile: minimum, optimum, maximum sizes by input."""

    strict_class = "IOptimizationProfile"
    extra_memory_target = 1.0

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = tuple(tuple(int(size) for size in shape) for shape in (min, opt, max))
        low, usual, high = shapes
        if not len(low) == len(usual) == len(high) or any(not 0 <= a <= b <= c for a, b, c in zip(*shapes, strict=True)):
            raise ValueError(f"Shape provided for input: {input} is inconsistent")
        self.shapes[input] = shapes

    def get_shape(self, input: str) -> list[Any]:
        return [real.Dims(shape) for shape in self.shapes.get(input, ())]

    def __bool__(self) -> bool:
        return True


class Config(Part):
    """IBuilderConfig. Flags start with TF32 set, as in the library."""

    strict_class = "IBuilderConfig"

    def __init__(self) -> None:
        self.flags = 1 << int(real.BuilderFlag.TF32)
        self.builder_optimization_level, self.max_aux_streams, self.avg_timing_iterations = 3, 0, 1
        self.profiling_verbosity = real.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: Any = None
        self.hardware_compatibility_level = real.HardwareCompatibilityLevel.NONE
        self.runtime_platform, self.engine_capability = real.RuntimePlatform.SAME_AS_BUILD, real.EngineCapability.STANDARD
        self.default_device_type, self.max_num_tactics, self.DLA_core = real.DeviceType.GPU, -1, -1
        self.tiling_optimization_level = getattr(getattr(real, "TilingOptimizationLevel", None), "NONE", None)
        self.pools: dict[Any, int] = {}
        self.profiles: list[Profile] = []
        self.cache: TimingCache | None = None
        self.sources = 0

    num_optimization_profiles = property(lambda self: len(self.profiles))

    def set_flag(self, flag: Any) -> None:
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self.flags >> int(flag) & 1)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.pools[pool] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self.pools.get(pool, int((gpu() or {}).get("memory_mb", 0)) << 20)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self.sources = int(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        return self.sources

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        return None

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        cache = read_cache(bytes(memoryview(serialized_timing_cache)))
        return None if cache is None else cache.double

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        wanted: TimingCache = part(cache)
        if wanted.made_on != where() and not ignore_mismatch:
            return False
        self.cache = wanted
        return True

    def get_timing_cache(self) -> Any:
        return None if self.cache is None else self.cache.double

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(part(profile))
        return len(self.profiles) - 1


class Builder(Part):
    """Builder."""

    strict_class = "Builder"
    max_DLA_batch_size, num_DLA_cores, max_threads = 1, 0, 1
    platform_has_tf32 = platform_has_fast_fp16 = platform_has_fast_int8 = True

    def __init__(self, logger: Any) -> None:
        need_gpu(logger)
        self.logger = logger

    def create_network(self, flags: int = 0) -> Any:
        known = real.NetworkDefinitionCreationFlag.__members__.values()
        if int(flags) & ~sum(1 << int(flag) for flag in known):
            log(self.logger, ERROR, f"createNetworkV2: Error Code 3: API Usage Error (unknown network flags {int(flags):#x})")
            return None
        jit = real.NetworkDefinitionCreationFlag.__members__.get("PREFER_JIT_PYTHON_PLUGINS")
        if jit is not None and int(flags) >> int(jit) & 1:
            log(self.logger, WARNING, "Network prefers JIT Python plugins.")
        return Network(self, int(flags)).double

    def create_builder_config(self) -> Any:
        return Config().double

    def create_optimization_profile(self) -> Any:
        return Profile().double

    def reset(self) -> None:
        return None

    def is_network_supported(self, network: Any, config: Any) -> bool:
        return self._complaint(part(network), part(config)) is None

    def build_serialized_network(self, network: Any, config: Any, kernel_text: Any = None) -> Any:
        net, settings = part(network), part(config)
        complaint = self._complaint(net, settings)
        if complaint is None and knob("build", "ok") == "null":
            complaint = "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[...]}.)"
        if complaint is not None:
            return self._refuse(complaint)
        model = net.to_onnx()
        onnx.checker.check_model(model)
        half = net.strongly_typed or settings.get_flag(real.BuilderFlag.FP16)
        entries = fusion.layers(model, fuse=self._fusing(net) if half else lambda name: False)
        complaint = self._undecomposed(net, entries)
        if complaint is not None:
            return self._refuse(complaint)
        if not self._progress(settings, len(entries)):
            return self._refuse("Error Code 11: Cancelled (Engine build was cancelled by the progress monitor.)")
        if settings.cache is not None:
            settings.cache.entries |= {entry["TacticName"] for entry in entries}
        log(self.logger, INFO, f"Engine generation completed: {len(entries)} layers")
        profiles = [profile.shapes for profile in settings.profiles]
        header = {**where(), "name": net.name, "layers": entries, "profiles": profiles, "flags": settings.flags,
                  "verbosity": settings.profiling_verbosity.name, "pools": {pool.name: v for pool, v in settings.pools.items()},
                  "optimization_level": settings.builder_optimization_level, "strongly_typed": net.strongly_typed}
        return host_memory(pack(PLAN, header, model.SerializeToString()))

    def _fusing(self, net: Network) -> Callable[[str], bool]:
        """Whether the attention that ends in a node of this name may fuse, as EDGEDIT_FAKE_TRT wishes."""
        wish, own = knob("fuse", True), {attention.name for attention in net.attentions}
        return lambda name: bool(wish) and (wish != "iattention" or name in own)

    def _refuse(self, text: str) -> None:
        log(self.logger, ERROR, f"IBuilder::buildSerializedNetwork: {text}")

    def _complaint(self, net: Network, config: Config) -> str | None:
        """What the builder refuses, in its words as far as they are public."""
        if not net.outputs:
            return "Error Code 4: API Usage Error (Network must have at least one output)"
        uint8 = real.DataType.UINT8
        border = {"CAST", "IDENTITY", "CONSTANT"}
        bad = next((layer.name for layer in net.layers if layer.kind not in border
                    for tensor in (*layer.inputs, *layer.outputs) if tensor.elem_type and tensor.dtype == uint8), None)
        if bad is not None:
            return f"Error Code 9: API Usage Error (Layer '{bad}': UInt8 is only supported for network inputs and outputs, by Cast)"
        weak = [name for name in ("FP16", "BF16", "INT8") if hasattr(real.BuilderFlag, name) and net.strongly_typed
                and config.get_flag(getattr(real.BuilderFlag, name))]
        if weak:
            return f"Error Code 4: API Usage Error (BuilderFlag {', '.join(weak)} cannot be set for a strongly typed network)"
        dynamic = [tensor for tensor in net.inputs if -1 in (tensor.sizes or [])]
        if dynamic and not config.profiles:
            return ("Error Code 4: Internal Error (Network has dynamic or shape inputs, but no optimization profile has been "
                    "defined.)")
        for tensor, profile in itertools.product(net.inputs, config.profiles):
            shapes = profile.shapes.get(tensor.name, ())
            if (tensor in dynamic and not shapes) or any(
                    len(shape) != len(tensor.sizes or []) or any(s not in (-1, g) for s, g in zip(tensor.sizes or [], shape, strict=False))
                    for shape in shapes):
                return f"Error Code 4: API Usage Error (Optimization profile is missing or wrong for network input {tensor.name}.)"
        return None

    def _undecomposed(self, net: Network, entries: list[dict[str, Any]]) -> str | None:
        """An IAttention without a fused kernel, not declared decomposable, fails the build."""
        fused = {name for entry in entries if "mha" in entry["TacticName"] for name in entry["Metadata"].split("\x1e")}
        for attention in net.attentions:
            told = attention.metadata or f"[{attention.back.kind}] {attention.name}"
            if not attention.decomposable and not fused.issuperset(told.split("\x1e")):
                return f"Error Code 10: Internal Error (Could not find any implementation for node {attention.name}.)"
        return None

    def _progress(self, config: Config, steps: int) -> bool:
        """Phases and steps through the monitor; False when it asks to stop."""
        wish, monitor = knob("build", "ok"), config.progress_monitor
        for name, parent in PHASES:
            count = min(steps, 20)
            if monitor is not None:
                monitor.phase_start(name, parent, count)
            for step in range(count) if parent else ():
                if wish == "kill" and step == count // 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                if wish == "memory" and step == count // 2:
                    self._out_of_memory(config)
                    return False
                time.sleep(1.0 / count if wish == "slow" else 0)
                if monitor is not None and not monitor.step_complete(name, step):
                    return False
            if monitor is not None and parent:
                monitor.phase_finish(name)
        if monitor is not None:
            monitor.phase_finish(PHASES[0][0])
        return True

    def _out_of_memory(self, config: Config) -> None:
        size = config.get_memory_pool_limit(real.MemoryPoolType.WORKSPACE)
        log(self.logger, WARNING, f"Requested amount of GPU memory ({size} bytes) could not be allocated. There may not be enough free "
                                  "memory for allocation to succeed.")
        log(self.logger, ERROR, "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was "
                                f"{size} bytes.)")
        log(self.logger, INTERNAL_ERROR if VERSION < (10,) else ERROR,
            "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[...]}.)")
