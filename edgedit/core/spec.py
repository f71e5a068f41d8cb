"""The shape of a DiT-Nano and every number that follows from it.

Counts are exact: tests compare them with instantiated modules for all designs of the paper's Table 6.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from edgedit.core.errors import UsageError, did_you_mean

FREQUENCIES = 256
"""Width of the sinusoid that stock DiT feeds to its timestep MLP."""


@dataclass(frozen=True)
class DiTSpec:
    """Sizes of a class-conditional one-step DiT (paper §3; Table 6 gives depth, width, heads).

    Attributes:
        depth: transformer blocks d.
        width: channels w; a multiple of 4 (2-D sin-cos positions) and of `heads`.
        heads: attention heads h.
        patch: side of a square patch in pixels.
        image: side of the square image in pixels; a multiple of `patch`.
        channels: image channels.
        classes: real classes; the label table has one more row, the null class (index `classes`).
        mlp_ratio: hidden width of the MLP over `width`.
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    image: int = 32
    channels: int = 3
    classes: int = 10
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"spec.{field.name} must be a positive whole number", saw=repr(value))
        if self.width % self.heads:
            raise UsageError("spec.width must be a multiple of spec.heads", saw=f"width {self.width}, heads {self.heads}",
                             fix=f"heads that divide {self.width}: {', '.join(map(str, divisors(self.width)))}")
        if self.width % 4:
            raise UsageError("spec.width must be a multiple of 4 (2-D sin-cos positions)", saw=self.width)
        if self.image % self.patch:
            raise UsageError("spec.image must be a multiple of spec.patch", saw=f"image {self.image}, patch {self.patch}")

    # --- sizes ------------------------------------------------------------------------------------------------------

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        """Sequence length T."""
        return self.grid**2

    @property
    def head_size(self) -> int:
        """Channels of one attention head, H = w/h."""
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """Numbers in one patch, p·p·C."""
        return self.patch**2 * self.channels

    @property
    def rows(self) -> int:
        """Rows of the label table: classes + the null class."""
        return self.classes + 1

    @property
    def null_class(self) -> int:
        """Label index that means "no class"."""
        return self.classes

    @property
    def modulations(self) -> int:
        """adaLN vectors of width w that one class needs: 6 a block and 2 for the output layer."""
        return 6 * self.depth + 2

    # --- parameters (science.md §4.2, §4.3) -----------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        """All parameters of the training form, with the frozen positions and the timestep MLP (the paper's count)."""
        w, pc, r = self.width, self.patch_values, self.mlp_ratio
        embed = (pc * w + w) + self.tokens * w
        timestep = (FREQUENCIES * w + w) + (w * w + w)
        block = (4 * w * w + 4 * w) + (2 * r * w * w + (r + 1) * w) + (6 * w * w + 6 * w)
        final = (2 * w * w + 2 * w) + (w * pc + pc)
        return embed + timestep + self.rows * w + self.depth * block + final

    @property
    def trainable_parameters(self) -> int:
        """`parameters` without the fixed sin-cos positions."""
        return self.parameters - self.tokens * self.width

    @property
    def deployed_parameters(self) -> int:
        """Parameters after conditioning folding: timestep MLP, label table and adaLN linears become one table."""
        w = self.width
        gone = (w * w + (FREQUENCIES + 2) * w) + self.rows * w + self.depth * (6 * w * w + 6 * w) + (2 * w * w + 2 * w)
        return self.parameters - gone + self.rows * self.modulations * w

    # --- work -----------------------------------------------------------------------------------------------------------

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass for one image: block matmuls, attention, embedding and output.

        Conditioning (a table look-up once folded), normalisations and softmax are left out. One guided image costs two.
        """
        w, t = self.width, self.tokens
        block = (4 + 2 * self.mlp_ratio) * w * w * t + 2 * w * t * t
        return self.depth * block + 2 * self.patch_values * w * t

    @property
    def block_macs(self) -> int:
        """`macs` of the blocks alone: the GMAC column of science.md §4.2."""
        return self.macs - 2 * self.patch_values * self.width * self.tokens

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass for one image: 2 · `macs`."""
        return 2 * self.macs

    # --- names ----------------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """The paper's way to name a design: "(d,w,h)"."""
        return f"({self.depth},{self.width},{self.heads})"

    def to_dict(self) -> dict[str, int]:
        """Plain numbers for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DiTSpec:
        """Inverse of `to_dict`; unknown or missing sizes raise UsageError."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise UsageError(f"unknown size '{name}' in a DiT spec", fix=did_you_mean(name, known))
        missing = [name for name in ("depth", "width", "heads") if name not in values]
        if missing:
            raise UsageError(f"a DiT spec needs {', '.join(missing)}", saw=sorted(values))
        return cls(**values)


def divisors(n: int) -> list[int]:
    """All divisors of n, ascending."""
    return [k for k in range(1, n + 1) if n % k == 0]
