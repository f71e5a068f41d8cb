"""Runtime, engines and execution contexts. An engine runs its ONNX by ONNX Runtime at the addresses it is given."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnx

from tensorrt_double.inspector import Inspector
from tensorrt_double.layers import data_type, sizes
from tensorrt_double.plan import PLAN, host_memory, pack, unpack
from tensorrt_double.strict import Part
from tensorrt_double.world import ERROR, INFO, WARNING, gpu, log, need_gpu, real


class Runtime(Part):
    """Runtime."""

    strict_class = "Runtime"
    engine_host_code_allowed, max_threads, num_DLA_cores, DLA_core = False, 1, 0, -1

    def __init__(self, logger: Any) -> None:
        need_gpu(logger)
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        data = bytes(memoryview(serialized_engine))
        read = unpack(PLAN, data)
        if read is None:
            return self._refuse("Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed."
                                "Magic tag does not match)")
        header, model = read
        if header["tensorrt"] != real.__version__:
            return self._refuse("Error Code 1: Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION "
                                f"failed.Version tag does not match. Note: Current Version: {real.__version__}, Serialized Engine "
                                f"Version: {header['tensorrt']})")
        here, there = gpu() or {}, header["gpu"]
        if here.get("compute_capability") != there.get("compute_capability"):
            return self._refuse("Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
                                f"expecting compute {_compute(here)} got compute {_compute(there)}, please rebuild.)")
        if here != there:
            log(self.logger, WARNING, "Using an engine plan file across different models of devices is not recommended and is likely "
                                      "to affect performance or even cause errors.")
        log(self.logger, INFO, f"Loaded engine size: {len(data) >> 20} MiB")
        return Engine(self, header, model).double

    def _refuse(self, text: str) -> None:
        log(self.logger, ERROR, f"IRuntime::deserializeCudaEngine: {text}")


def _compute(facts: dict[str, Any]) -> str:
    kind = facts.get("compute_capability")
    return ".".join(map(str, kind)) if isinstance(kind, list) else str(kind)


class Engine(Part):
    """ICudaEngine."""

    strict_class = "ICudaEngine"
    num_aux_streams, refittable, streamable_weights_size, tactic_sources = 0, False, 0, 0

    def __init__(self, runtime: Runtime, header: dict[str, Any], model: bytes) -> None:
        self.runtime, self.header, self.model = runtime, header, model
        graph = onnx.load_from_string(model).graph
        self.inputs, self.outputs = list(graph.input), list(graph.output)
        self.values = {value.name: value for value in (*self.inputs, *self.outputs)}
        self._session: Any = None

    name = property(lambda self: self.header["name"])
    num_layers = property(lambda self: len(self.header["layers"]))
    num_io_tensors = property(lambda self: len(self.values))
    num_optimization_profiles = property(lambda self: max(1, len(self.header["profiles"])))
    device_memory_size = device_memory_size_v2 = property(lambda self: 1 << 20)
    profiling_verbosity = property(lambda self: getattr(real.ProfilingVerbosity, self.header["verbosity"]))
    engine_capability = property(lambda self: real.EngineCapability.STANDARD)
    hardware_compatibility_level = property(lambda self: real.HardwareCompatibilityLevel.NONE)

    def get_tensor_name(self, index: int) -> str:
        return list(self.values)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = real.TensorIOMode
        if name not in self.values:
            return modes.NONE
        return modes.INPUT if any(value.name == name for value in self.inputs) else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> Any:
        return real.Dims(sizes(self.values[name]) if name in self.values else [])

    def get_tensor_dtype(self, name: str) -> Any:
        if name not in self.values:
            self.complain(f"ICudaEngine::getTensorDataType: Error Code 3: API Usage Error (unknown tensor name {name})")
            return real.DataType.FLOAT
        return data_type(self.values[name].type.tensor_type.elem_type)

    def get_tensor_location(self, name: str) -> Any:
        return real.TensorLocation.DEVICE

    def get_tensor_format(self, name: str, profile_index: int = 0) -> Any:
        return real.TensorFormat.LINEAR

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        return [real.Dims(shape) for shape in self.header["profiles"][profile_index].get(name, ())]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self.device_memory_size_v2

    def create_execution_context(self, strategy: Any = None, runtime_config: Any = None) -> Any:
        return Context(self).double

    def create_execution_context_without_device_memory(self) -> Any:
        return Context(self).double

    def create_engine_inspector(self) -> Any:
        return Inspector(self).double

    def serialize(self) -> Any:
        return host_memory(pack(PLAN, self.header, self.model))

    def complain(self, text: str) -> None:
        """An error through the runtime's logger."""
        log(self.runtime.logger, ERROR, text)

    def limits(self, name: str) -> list[list[int]]:
        """Smallest and largest sizes of an input: of its profile, or its own twice."""
        own = sizes(self.values[name]) or []
        shapes = self.header["profiles"][0].get(name) if self.header["profiles"] else None
        return [shapes[0], shapes[2]] if shapes else [own, own]

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """The ONNX by ONNX Runtime on one thread."""
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in self.outputs]
        return dict(zip(names, self._session.run(names, feed), strict=True))


class Context(Part):
    """IExecutionContext."""

    strict_class = "IExecutionContext"
    active_optimization_profile, persistent_cache_limit, enqueue_emits_profile, debug_sync = 0, 0, True, False

    def __init__(self, engine: Engine) -> None:
        self.engine_part, self.addresses, self.name = engine, dict[str, int](), ""
        self.shapes = {value.name: sizes(value) or [] for value in engine.inputs}
        self.nvtx_verbosity = engine.profiling_verbosity

    engine = property(lambda self: self.engine_part.double)
    all_binding_shapes_specified = property(lambda self: not self.infer_shapes())
    all_shape_inputs_specified = True

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return int(profile_index) < self.engine_part.num_optimization_profiles

    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted = [int(size) for size in shape]
        if name not in self.shapes:
            return self._refuse("setInputShape", f"Given invalid tensor name: {name}")
        low, high = self.engine_part.limits(name)
        if len(wanted) != len(low) or any(not a <= w <= b for a, w, b in zip(low, wanted, high, strict=True)):
            return self._refuse("setInputShape", f"Set dimension {wanted} for tensor {name} does not satisfy any optimization profiles. "
                                f"Valid range for profile 0: {low}..{high}.")
        self.shapes[name] = wanted
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name, shape in self.shapes.items() if -1 in shape]

    def get_tensor_shape(self, name: str) -> Any:
        if name in self.shapes:
            return real.Dims(self.shapes[name])
        return real.Dims(self._output_shape(name))

    def get_tensor_strides(self, name: str) -> Any:
        shape = list(self.get_tensor_shape(name))
        return real.Dims([int(np.prod(shape[i + 1 :])) for i in range(len(shape))])

    def _output_shape(self, name: str) -> list[int]:
        """Dynamic sizes of an output are the batch of the inputs."""
        shape = sizes(self.engine_part.values[name]) or []
        own = {d for value in self.engine_part.inputs
               for d, size in zip(self.shapes[value.name], sizes(value) or [], strict=True) if size == -1}
        return [next(iter(own)) if size == -1 and len(own) == 1 else size for size in shape]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine_part.values:
            return self._refuse("setTensorAddress", f"Given invalid tensor name: {name}. Get valid tensor names with getIOTensorName()")
        self.addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self.addresses.get(name, 0)

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self.engine_part
        if missing := self.infer_shapes():
            return self._refuse("enqueueV3", f"Input dimensions of {', '.join(missing)} are not specified")
        for name in engine.values:
            if not self.addresses.get(name):
                return self._refuse("enqueueV3", f"Address is not set for {'in' if name in self.shapes else 'out'}put tensor {name}. Call "
                                                 "setInputTensorAddress or setTensorAddress before enqueue/execute.")
        if int(stream_handle) == 0:
            log(engine.runtime.logger, WARNING, "Using default stream in enqueueV3() may lead to performance issues due to additional "
                                                "calls to cudaStreamSynchronize() by TensorRT to ensure correct synchronization.")
        feed = {name: self._read(name) for name in self.shapes}
        batches = {shape[0] for shape in self.shapes.values() if shape}
        if len(batches) > 1 and any(-1 in (sizes(value) or []) for value in engine.inputs):
            return self._refuse("enqueueV3", f"Dynamic dimensions disagree between inputs: {sorted(batches)}")
        for name, array in engine.run(feed).items():
            array = np.ascontiguousarray(array)
            ctypes.memmove(self.addresses[name], array.ctypes.data, array.nbytes)
        return True

    def _read(self, name: str) -> Any:
        kind = onnx.helper.tensor_dtype_to_np_dtype(self.engine_part.values[name].type.tensor_type.elem_type)
        shape = self.shapes[name]
        size = int(np.prod(shape)) * kind.itemsize
        return np.frombuffer(ctypes.string_at(self.addresses[name], size), kind).reshape(shape).copy()

    def _refuse(self, what: str, text: str) -> bool:
        self.engine_part.complain(f"IExecutionContext::{what}: Error Code 3: API Usage Error (Parameter check failed, {text})")
        return False
