"""Every operator of a deployed DiT's graph by formula: what it reads, writes and computes for one generated image.

The list mirrors what `edgedit export` writes (conditioning folded, guidance inside, uint8 out); a test compares its bytes and its
length with the exported graphs. Nothing here needs torch or onnx, so a design is costed before it exists.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgedit.core.errors import UsageError, did_you_mean
from edgedit.core.spec import DiTSpec
from edgedit.design.fuses import fusing_head_size

DIALECTS = ("pattern", "onnx", "ort")
PRECISIONS = ("fp32", "fp16", "int8")
NORM = 4
"""Bytes of a number in LayerNormalization and its modulation: always FP32."""


@dataclass(frozen=True)
class Operator:
    """One operator of the graph; views such as Reshape are left out.

    Attributes:
        kind: ONNX operator type.
        reads, writes: bytes of activations per generated image; weights are left out.
        largest: bytes of the largest single output.
        flops: 2 per multiply-add of a product, head padding included.
        exponentials: exp of the softmax and tanh of GELU.
        role: "product" (weights on one side), "attention" (both products and the softmax) or "other".
    """

    kind: str
    reads: int
    writes: int
    largest: int
    flops: int = 0
    exponentials: int = 0
    role: str = "other"


@dataclass(frozen=True)
class Form:
    """How a design is exported.

    Attributes:
        precision: "fp32", "fp16", or "int8": FP16 with Q/DQ before the four products of every block.
        dialect: spelling of attention: "pattern", "onnx" or "ort" (`edgedit.export.attention`).
        guidance_scale: classifier-free guidance inside the graph; 1.0 is none.
        head_size: channels of a head after zero-padding; None pads as `edgedit export` does.
    """

    precision: str = "fp16"
    dialect: str = "pattern"
    guidance_scale: float = 1.5
    head_size: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("precision", self.precision, PRECISIONS), ("dialect", self.dialect, DIALECTS)):
            if value not in known:
                raise UsageError(f"there is no {name} '{value}'", fix=did_you_mean(str(value), known))
        if self.precision == "int8" and self.dialect == "ort":
            raise UsageError("INT8 is made for TensorRT, which does not read ONNX Runtime's own operators", saw="dialect 'ort'",
                             fix="precision fp32 on a CPU, dialect pattern on a GPU")

    @property
    def passes(self) -> int:
        """Images that pass the network for one generated image: 2 with guidance."""
        return 1 if self.guidance_scale == 1.0 else 2

    @property
    def size(self) -> int:
        """Bytes of a number in products and the residual stream."""
        return 4 if self.precision == "fp32" else 2

    def padded(self, spec: DiTSpec) -> int:
        """Channels of a head inside the graph."""
        if self.head_size is not None:
            if self.head_size < spec.head_size:
                raise UsageError("head_size can only pad", saw=f"{self.head_size}, {spec.label} has {spec.head_size}")
            return self.head_size
        pads = self.precision != "fp32" and self.dialect != "ort"
        return fusing_head_size(spec.head_size) if pads else spec.head_size


class _List:
    """Collects operators; sizes are given in numbers and bytes a number."""

    def __init__(self, spec: DiTSpec, form: Form) -> None:
        self.made: list[Operator] = []
        self.spec, self.form, self.e = spec, form, form.size
        self.t, self.w, self.n = spec.tokens, spec.width, form.passes
        self.x = self.n * self.t * self.w                                                 # numbers of the residual stream
        self.inner = spec.heads * form.padded(spec)                                       # h·H, padding included

    def op(self, kind: str, reads: int, writes: int, *, outputs: int = 1, flops: int = 0, exponentials: int = 0,
           role: str = "other") -> None:
        self.made.append(Operator(kind, reads, writes, writes // outputs, flops, exponentials, role))

    def map(self, kind: str, values: int, size: int, more: int = 0, *, exponentials: int = 0, role: str = "other") -> None:
        """An operator from `values` numbers to as many, with `more` bytes of a second input."""
        self.op(kind, values * size + more, values * size, exponentials=exponentials, role=role)

    def cast(self, values: int, before: int, after: int) -> None:
        if before != after:
            self.op("Cast", values * before, values * after)

    def product(self, rows: int, inside: int, out: int, *, int8: bool = False) -> None:
        """(rows, inside) @ weights (inside, out); `int8`: through QuantizeLinear and DequantizeLinear."""
        if int8 and self.form.precision == "int8":
            self.op("QuantizeLinear", rows * inside * self.e, rows * inside)
            self.op("DequantizeLinear", rows * inside, rows * inside * self.e)
        self.op("MatMul", rows * inside * self.e, rows * out * self.e, flops=2 * rows * inside * out, role="product")

    # --- parts, in the order of the graph -----------------------------------------------------------------------------------

    def embed(self) -> None:
        pixels, fused_norm = self.spec.channels * self.spec.image**2, self.form.dialect == "ort"
        self.cast(pixels, 4, self.e)
        self.map("Transpose", pixels, self.e)
        self.product(self.t, self.spec.patch_values, self.w)
        self.map("Add", self.t * self.w, self.e)
        m, rows = 2 * (2 * self.spec.depth + 1) * self.w, self.n                          # shifts and scales, numbers a row
        if rows == 2:
            self.op("Concat", 4, 8)
        for count, size, parts in ((m, NORM, 2 * (2 * self.spec.depth + 1)), (2 * self.spec.depth * self.w, self.e, 2 * self.spec.depth)):
            self.op("Gather", 4 * rows, rows * count * size)
            self.op("Split", rows * count * size, rows * count * size, outputs=parts)
        if not fused_norm:
            self.cast(self.t * self.w, self.e, NORM)
            self.map("LayerNormalization", self.t * self.w, NORM)
        if self.n == 2:
            self.op("Concat", 2 * self.t * self.w * self.e, self.x * self.e)
            if not fused_norm:
                self.op("Concat", 2 * self.t * self.w * NORM, self.x * NORM)

    def modulate(self, *, normed: bool = False) -> None:
        row = self.n * self.w * NORM
        if self.form.dialect == "ort":
            self.cast(self.x, self.e, NORM)
            self.map("LayerNormalization", self.x, NORM, 2 * row)
        else:
            if not normed:
                self.cast(self.x, self.e, NORM)
                self.map("LayerNormalization", self.x, NORM)
            self.map("Mul", self.x, NORM, row)
            self.map("Add", self.x, NORM, row)
        self.cast(self.x, NORM, self.e)

    def attend(self) -> None:
        heads, rows, e = self.spec.heads, self.n * self.t, self.e
        one, maps = rows * self.inner, self.n * heads * self.t**2                         # numbers of q; of the attention maps
        flops = 2 * self.t * one                                                          # of either product
        if self.form.dialect == "ort":
            for _ in "qkv":
                self.product(rows, self.w, self.inner)
            self.op("MultiHeadAttention", 3 * one * e, one * e, flops=2 * flops, exponentials=maps, role="attention")
            return
        self.product(rows, self.w, 3 * self.inner, int8=True)
        self.map("Add", 3 * one, e)
        self.op("Split", 3 * one * e, 3 * one * e, outputs=3)
        for _ in "qkv":
            self.map("Transpose", one, e)
        if self.form.dialect == "onnx":
            self.op("Attention", 3 * one * e, one * e, flops=2 * flops, exponentials=maps, role="attention")
        else:
            self.op("MatMul", 2 * one * e, maps * e, flops=flops, role="attention")
            self.map("Softmax", maps, e, exponentials=maps, role="attention")
            self.op("MatMul", (maps + one) * e, one * e, flops=flops, role="attention")
        self.map("Transpose", one, e)

    def add_gated(self) -> None:
        self.map("Mul", self.x, self.e, self.n * self.w * self.e)
        self.map("Add", self.x, self.e, self.x * self.e)

    def block(self, first: bool) -> None:
        rows, hidden = self.n * self.t, self.spec.mlp_ratio * self.w
        self.modulate(normed=first)
        self.attend()
        self.product(rows, self.inner, self.w, int8=True)
        self.map("Add", self.x, self.e)
        self.add_gated()
        self.modulate()
        self.product(rows, self.w, hidden, int8=True)
        if self.form.dialect == "ort":
            self.map("FastGelu", rows * hidden, self.e, exponentials=rows * hidden)
        else:
            self.map("Add", rows * hidden, self.e)
            self.map("Gelu", rows * hidden, self.e, exponentials=rows * hidden)
        self.product(rows, hidden, self.w, int8=True)
        self.map("Add", self.x, self.e)
        self.add_gated()

    def output(self) -> None:
        levels = self.t * self.spec.patch_values
        self.modulate()
        self.product(self.n * self.t, self.w, self.spec.patch_values)
        self.cast(self.n * levels, self.e, 4)
        self.map("Add", self.n * levels, 4)
        if self.n == 2:
            self.op("Split", 8 * levels, 8 * levels, outputs=2)
            self.op("Sub", 8 * levels, 4 * levels)
            self.map("Mul", levels, 4)
            self.op("Add", 8 * levels, 4 * levels)
        for kind in ("Clip", "Floor", "Transpose"):
            self.map(kind, levels, 4)
        self.op("Cast", 4 * levels, levels)


def operators(spec: DiTSpec, form: Form) -> list[Operator]:
    """All operators of one design in one form, in the order of the graph, for one generated image.

    Raises:
        UsageError: an unknown precision or dialect, INT8 for ONNX Runtime, a head size below the design's.
    """
    made = _List(spec, form)
    made.embed()
    for i in range(spec.depth):
        made.block(i == 0)
    made.output()
    return made.made
