"""A `tensorrt` for tests: NVIDIA's real names and signatures, behaviour on the CPU. See tensorrt_double for what it cannot show."""

import sys as _sys

from tensorrt_double import build as _build
from tensorrt_double import parser as _parser
from tensorrt_double import plan as _plan
from tensorrt_double import runtime as _runtime
from tensorrt_double import strict as _strict
from tensorrt_double import world as _world
from tensorrt_double.layers import LAYER_CLASSES as _LAYERS

_doubles = _strict.make_classes(
    _world.real,
    ["Builder", "INetworkDefinition", "ITensor", "ILayer", *_LAYERS.values(), "IAttention", "IBuilderConfig", "IOptimizationProfile",
     "ITimingCache", "OnnxParser", "ParserError", "Runtime", "ICudaEngine", "IExecutionContext", "EngineInspector"],
    {"Builder": _build.Builder, "OnnxParser": _parser.Parser, "Runtime": _runtime.Runtime})
_plan.install_host_memory()

_module = _sys.modules[__name__]
for _name, _value in vars(_world.real).items():
    if not _name.startswith("__") or _name == "__version__":
        setattr(_module, _name, _doubles.get(_name, _value) if isinstance(_value, type) else _value)
__path__ = [*__path__, *_world.real.__path__]
del _module, _name, _value
