"""EngineInspector."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tensorrt_double.strict import Part
from tensorrt_double.world import VERSION, real

if TYPE_CHECKING:
    from tensorrt_double.runtime import Engine


class Inspector(Part):
    """EngineInspector: JSON or text, as detailed as the plan's profiling verbosity lets it be."""

    strict_class = "EngineInspector"

    def __init__(self, engine: Engine) -> None:
        self.engine, self._context = engine, None

    execution_context = property(lambda self: self._context, lambda self, context: setattr(self, "_context", context))

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        return self._written(self._layers()[layer_index], format)

    def get_engine_information(self, format: Any) -> str:
        if format != real.LayerInformationFormat.JSON:
            names = " ".join(self.engine.values)
            return "Layers:\n" + "\n".join(self._written(layer, format) for layer in self._layers()) + f"\n\nBindings:\n{names}\n"
        borders = "I/O Tensors" if VERSION >= (11,) else "Bindings"
        return json.dumps({"Layers": self._layers(), borders: list(self.engine.values)}, indent=1)

    def _layers(self) -> list[Any]:
        layers, verbosity = self.engine.header["layers"], self.engine.header["verbosity"]
        if verbosity == "DETAILED":
            return layers
        return [layer["Name"] for layer in layers] if verbosity == "LAYER_NAMES_ONLY" else []

    @staticmethod
    def _written(layer: Any, format: Any) -> str:
        if format == real.LayerInformationFormat.JSON:
            return json.dumps(layer)
        return layer if isinstance(layer, str) else ", ".join(f"{key}: {value}" for key, value in layer.items())


