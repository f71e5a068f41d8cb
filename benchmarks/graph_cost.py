"""What each fold and each dialect costs on paper: operators, parameters, weight bytes and activation bytes per image.

    python benchmarks/graph_cost.py [--design 5,64,8] [--guidance 1.5] [--json]

The first rows are PyTorch's own operators while the network runs eagerly: the stock way (guidance as a doubled batch outside,
float images), then the folded form. The others are exported graphs. Activation bytes count every operator as reading its
inputs and writing its outputs, weights and views left out (`edgedit.export.cost`); runtimes that fuse move less. Output bytes
are what leaves the network per image. No runtime is timed and nothing depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgedit.core.spec import DiTSpec
from edgedit.export.cost import graph_cost
from edgedit.export.graph import build
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold
from edgedit.model.dit import DiT


class _Count(TorchDispatchMode):
    """Counts operators that are no views, and the bytes of activations that they read and write."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.operators = self.moved = 0
        self._weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
            self.operators += 1
            flat = [t for value in (*args, result) for t in (value if isinstance(value, (list, tuple)) else (value,))]
            self.moved += sum(t.nbytes for t in flat if isinstance(t, Tensor) and not self._is_weight(t))
        return result

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._weights


def _eager(name: str, network: nn.Module, run: Any, output_bytes: int) -> dict[str, Any]:
    with torch.inference_mode(), _Count(network) as count:
        run()
    numbers = sum(p.numel() for p in network.parameters())
    return {"form": name, "operators": count.operators, "parameters": numbers, "weight_bytes": 4 * numbers,
            "activation_bytes": count.moved, "output_bytes": output_bytes}


def table(spec: DiTSpec, guidance: float) -> list[dict[str, Any]]:
    """One row per form, for one image."""
    model = DiT(spec).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.1)  # a fresh DiT's equal zeros would be stored once
    folded = fold(model, guidance)
    noise, label = torch.zeros(1, spec.channels, spec.image, spec.image), torch.zeros(1, dtype=torch.long)
    pixels = math.prod(noise.shape)
    rows = [
        _eager("training form, eager PyTorch", model, lambda: model.guided(noise, label, guidance), 4 * pixels),
        _eager("+ conditioning as a table, scale in Q", folded, lambda: folded.images(noise, label), 4 * pixels),
        _eager("+ uint8 inside", folded, lambda: folded(noise, label), pixels)]
    plain = Plan.of(spec, "fp32", "pattern", batch=1, guidance_scale=guidance)
    typed = Plan.of(spec, "fp16", "pattern", batch=1, guidance_scale=guidance, head_size=spec.head_size)
    plans = {
        "ONNX pattern, fp32": plain,
        "ONNX Attention operator, fp32": Plan.of(spec, "fp32", "onnx", batch=1, guidance_scale=guidance),
        "ONNX Runtime's operators, fp32": Plan.of(spec, "fp32", "ort", batch=1, guidance_scale=guidance),
        "ONNX pattern, typed fp16": typed,
        "+ heads padded for TensorRT": Plan.of(spec, "fp16", "pattern", batch=1, guidance_scale=guidance),
        "ONNX Attention operator, typed fp16": Plan.of(spec, "fp16", "onnx", batch=1, guidance_scale=guidance),
    }
    for name, plan in plans.items():
        cost = graph_cost(build(folded, plan))
        views = sum(cost.operators.get(kind, 0) for kind in ("Reshape", "Shape"))
        rows.append({"form": name, "operators": cost.nodes - views, "parameters": cost.parameters,
                     "weight_bytes": cost.weight_bytes, "activation_bytes": cost.activation_bytes, "output_bytes": pixels})
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--design", default="5,64,8", help="depth,width,heads")
    options.add_argument("--guidance", type=float, default=1.5)
    options.add_argument("--json", action="store_true")
    args = options.parse_args()
    spec = DiTSpec(*map(int, args.design.split(",")))
    rows = table(spec, args.guidance)
    if args.json:
        print(json.dumps({"design": spec.label, "guidance_scale": args.guidance, "forms": rows}, indent=1))
        return 0
    print(f"{spec.label}, guidance {args.guidance}, per image")
    print(f"{'form':<40} {'operators':>9} {'parameters':>11} {'weights':>10} {'activations':>12} {'output':>8}")
    for row in rows:
        print(f"{row['form']:<40} {row['operators']:>9} {row['parameters']:>11,} {row['weight_bytes'] / 1e6:>7.2f} MB "
              f"{row['activation_bytes'] / 1e6:>9.1f} MB {row['output_bytes'] / 1e3:>5.1f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
