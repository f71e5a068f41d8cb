"""What one generated image costs on paper, from the formulas of `edgedit.design.operators`: work, weights, bytes by kind of fusion."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgedit.core.spec import DiTSpec
from edgedit.design.operators import NORM, Form, operators


@dataclass(frozen=True)
class Work:
    """Counts for one generated image, guidance counted; weights are for the whole network.

    Attributes:
        precision, dialect, guidance_scale, head_size: of the graph; head_size with padding.
        attention_fused: whether `border_bytes` leaves the attention maps out.
        passes: images through the network per generated image.
        flops: 2 · multiply-adds of the design (`DiTSpec.flops`); head padding left out.
        product_flops, attention_flops: what the graph really does, padding included: products with weights; both attention products.
        exponentials: exp of the softmax and tanh of GELU.
        parameters: numbers in the graph's weights, padding included.
        weight_bytes: of all of them; read once a batch.
        border_bytes: activations that cross memory when everything element by element is fused into the products and attention:
            their inputs and outputs, the residual stream's second reads, noise in, images out.
        operator_bytes: when every operator reads its inputs and writes its outputs, attention spelled as the dialect does.
        map_bytes: attention maps as one operator after another moves them: written, read and written by the softmax, read; 0 where
            attention is one operator.
        largest_bytes: the biggest single activation.
        live_bytes: activations that an engine must hold at once in its widest place: residual stream and either queries, keys, values
            and their mix, or the MLP's hidden values; both attention maps where attention is not one kernel (estimate).
        operators: of the graph, views left out.
        kernels: of an engine that fuses what is element by element: 7 a block with fused attention, 9 without, and 7 for the ends
            (estimate).
    """

    precision: str
    dialect: str
    guidance_scale: float
    head_size: int
    attention_fused: bool
    passes: int
    flops: int
    product_flops: int
    attention_flops: int
    exponentials: int
    parameters: int
    weight_bytes: int
    border_bytes: int
    operator_bytes: int
    map_bytes: int
    largest_bytes: int
    live_bytes: int
    operators: int
    kernels: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def cost(spec: DiTSpec, precision: str = "fp16", guidance_scale: float = 1.5, *, dialect: str = "pattern", head_size: int | None = None,
         attention_fused: bool = True) -> Work:
    """Cost one design in one form.

    Args:
        precision: "fp32", "fp16" or "int8" (FP16 with INT8 before the four products of every block).
        guidance_scale: inside the graph; 1.0 is none and halves the work.
        dialect: "pattern", "onnx" or "ort".
        head_size: after zero-padding; None pads as `edgedit export` does.
        attention_fused: whether attention is one kernel (`edgedit.design.fuses`).

    Raises:
        UsageError: see `operators`.
    """
    form = Form(precision, dialect, guidance_scale, head_size)
    made, head = operators(spec, form), form.padded(spec)
    parameters, weights = _weights(spec, form)
    products = [op for op in made if op.role == "product"]
    attention = [op for op in made if op.role == "attention"]
    return Work(
        precision, dialect, guidance_scale, head, attention_fused, form.passes,
        flops=form.passes * spec.flops,
        product_flops=sum(op.flops for op in products), attention_flops=sum(op.flops for op in attention),
        exponentials=sum(op.exponentials for op in made),
        parameters=parameters, weight_bytes=weights, border_bytes=_borders(spec, form, attention_fused),
        operator_bytes=sum(op.reads + op.writes for op in made),
        map_bytes=4 * form.size * form.passes * spec.depth * spec.heads * spec.tokens**2 if dialect == "pattern" else 0,
        largest_bytes=max(op.largest for op in made),
        live_bytes=_live(spec, form, attention_fused), operators=len(made), kernels=(7 if attention_fused else 9) * spec.depth + 7)


def _live(spec: DiTSpec, form: Form, fused: bool) -> int:
    rows, maps = form.passes * spec.tokens, form.passes * spec.heads * spec.tokens**2
    attention = 4 * spec.heads * form.padded(spec) * rows + (0 if fused else 2 * maps)
    return form.size * (spec.width * rows + max(attention, spec.mlp_ratio * spec.width * rows))


def _borders(spec: DiTSpec, form: Form, fused: bool) -> int:
    """Activation bytes that cross memory at the borders of products and of attention."""
    e, rows = form.size, form.passes * spec.tokens
    inner, hidden, pixels = spec.heads * form.padded(spec), spec.mlp_ratio * spec.width, spec.channels * spec.image**2
    read = 1 if form.precision == "int8" else e                                           # Q/DQ ride along: products read INT8
    products = read * rows * (spec.width + inner + spec.width + hidden) + e * rows * (3 * inner + spec.width + hidden + spec.width)
    attention = 4 * e * rows * inner + (0 if fused else 4 * e * form.passes * spec.heads * spec.tokens**2)
    residuals = 2 * e * rows * spec.width
    ends = e * (pixels + spec.tokens * spec.width) + e * (rows * spec.width + rows * spec.patch_values)
    return spec.depth * (products + attention + residuals) + ends + 4 * pixels + pixels


def _weights(spec: DiTSpec, form: Form) -> tuple[int, int]:
    """Numbers and bytes of the graph's weights; shapes, scales and the like (a few hundred bytes) are left out."""
    w, e, inner, hidden = spec.width, form.size, spec.heads * form.padded(spec), spec.mlp_ratio * spec.width
    matrices = spec.depth * (3 * w * inner + inner * w + 2 * w * hidden)
    biases = spec.depth * (3 * inner + w + hidden + w)
    norm = spec.rows * 2 * (2 * spec.depth + 1) * w + (0 if form.dialect == "ort" else w) + spec.patch_values
    gates, ends = spec.rows * 2 * spec.depth * w, spec.tokens * w + 2 * spec.patch_values * w
    block, scales = (1, spec.depth * (3 * inner + 2 * w + hidden)) if form.precision == "int8" else (e, 0)
    return matrices + biases + norm + gates + ends, block * matrices + e * (biases + gates + ends + scales) + NORM * norm
