"""MatMul–Softmax–MatMul of a parsed network replaced by TensorRT's own attention. TensorRT ≥ 10.14; import only then.

`INetworkDefinition.add_attention` takes query, key and value as [B, N, S, H] and computes softmax(Q·Kᵀ)·V; the scale is in Q
already (`edgedit.model.deploy`). The pattern of `edgedit.export.attention` hands the key to the first product transposed,
[B, N, H, S]: one shuffle turns it back, and TensorRT folds the two transpositions into one. An attention may be decomposed into
primitives where no fused kernel exists; without that the build would fail (jetson.md §5.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorrt as trt

from edgedit.device.trt.failures import Failure

NEEDS = (10, 14)
"""The first version with `add_attention`; TensorRT 11 still takes it beside `add_attention_v2`."""
_KEY_BACK = (0, 1, 3, 2)


@dataclass(frozen=True)
class _Pattern:
    """The layers of one attention: first product, softmax, second product."""

    scores: trt.ILayer
    softmax: trt.ILayer
    values: trt.ILayer


def replace_attention(network: trt.INetworkDefinition) -> list[str]:
    """Replace every plain attention of the network.

    Returns:
        names of the softmax layers that were replaced; empty when there is none of this form.

    Raises:
        Failure: "attention": TensorRT refused to add one.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    users: dict[str, list[tuple[trt.ILayer, int]]] = {}
    makers: dict[str, trt.ILayer] = {}
    for layer in layers:
        for index in range(layer.num_inputs):
            tensor = layer.get_input(index)
            if tensor is not None:
                users.setdefault(tensor.name, []).append((layer, index))
        for index in range(layer.num_outputs):
            makers[layer.get_output(index).name] = layer
    found = [pattern for layer in layers if layer.type == trt.LayerType.SOFTMAX
             for pattern in [_match(layer, makers, users)] if pattern is not None]
    for pattern in found:
        _replace(network, pattern, users)
    return [pattern.softmax.name for pattern in found]


def _match(softmax: trt.ILayer, makers: dict[str, trt.ILayer], users: dict[str, list[tuple[trt.ILayer, int]]]) -> _Pattern | None:
    """The attention around a softmax: nothing else between the products, nobody else reads scores or shares, shapes as expected."""
    scores = makers.get(softmax.get_input(0).name)
    after = users.get(softmax.get_output(0).name, [])
    if scores is None or scores.type != trt.LayerType.MATRIX_MULTIPLY or len(users.get(scores.get_output(0).name, [])) != 1:
        return None
    if len(after) != 1 or after[0][0].type != trt.LayerType.MATRIX_MULTIPLY or after[0][1] != 0:
        return None
    values = after[0][0]
    q, k, v = (tuple(tensor.shape) for tensor in (scores.get_input(0), scores.get_input(1), values.get_input(1)))
    if not len(q) == len(k) == len(v) == 4 or q[1] != k[1] or k[1] != v[1] or q[3] != k[2] or k[3] != v[2]:
        return None
    return _Pattern(scores, softmax, values)


def _replace(network: trt.INetworkDefinition, pattern: _Pattern, users: dict[str, list[tuple[trt.ILayer, int]]]) -> None:
    name = pattern.softmax.name.rpartition("/")[0] or pattern.softmax.name
    back = network.add_shuffle(pattern.scores.get_input(1))
    back.first_transpose = trt.Permutation(_KEY_BACK)
    back.name = f"{name}/key"
    attention = network.add_attention(pattern.scores.get_input(0), back.get_output(0), pattern.values.get_input(1),
                                      trt.AttentionNormalizationOp.SOFTMAX, False)
    if attention is None:
        raise Failure("attention", problems=[f"add_attention refused {name}"])
    attention.decomposable = True
    attention.name = name
    attention.metadata = "\x1e".join(f"[ONNX Layer: {layer.name}]" for layer in (pattern.scores, pattern.softmax, pattern.values))
    for layer, index in users.get(pattern.values.get_output(0).name, []):
        layer.set_input(index, attention.get_output(0))
