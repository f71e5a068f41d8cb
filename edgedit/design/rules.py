"""The paper's design principles as code: depth from width, heads from width, and a judgement of any design (science.md §1.2, §2).

The third principle, LPIPS as the loss, is a setting of training and says nothing about sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgedit.core.errors import UsageError
from edgedit.core.spec import DiTSpec, divisors

LARGEST_HEAD = 256
"""Head sizes above this never fuse in TensorRT (jetson.md §5.1): such a width has no usable head count by the rule."""
SHAPES = "2ⁿ and 3·2ⁿ"
LOWERED = 2
"""Blocks below ⌊log2 w⌋ up to which a design still counts as the rule's, lowered for its budget. The paper lowered by one, (5,64,8); its
wide designs lie four and more below. With one alone, budgets between two widths would be left half used."""
EXCEPTIONS = {
    (5, 64, 8): "the paper's own exception: ⌊log2 64⌋ = 6, but (6,64,8) has 495,756 parameters and its budget is 0.42M, so depth was "
                "lowered until the budget held",
    (5, 64, 4): "the paper's own variant with half the heads: 162.6 s instead of 198.7 s for FID 29.66 instead of 29.14; it leaves head "
                "count as a lever of latency out of its principles",
    (12, 384, 12): "the paper's teaching assistant departs from its own rules, which give depth 8 and 16 heads; it is a teacher and no "
                   "design for the board",
}
"""What science.md §2 row 6 and §1.2 say about designs of the paper that its rules do not give."""


@dataclass(frozen=True)
class Verdict:
    """Whether a design follows the principles.

    Attributes:
        follows: depth and heads are those of the rules, or depth was lowered by at most `LOWERED` for a budget that holds nothing deeper.
        depth, heads: what the rules give for its width (depth under the budget).
        departures: each departure as a sentence; also the depth that a budget forced.
        exception: what the paper itself says, where the design is one of its exceptions.
    """

    follows: bool
    depth: int
    heads: int
    departures: tuple[str, ...]
    exception: str = ""

    @property
    def short(self) -> str:
        """The verdict in one line, without what the paper says about it."""
        return "; ".join(["it follows the principles" if self.follows else "it departs from the principles", *self.departures])

    @property
    def text(self) -> str:
        """The verdict in one line."""
        return "; ".join([self.short, *([self.exception] if self.exception else [])])


def heads_rule(width: int) -> int:
    """h = min median(factors(w)): the median factor, and of two middle ones the smaller (paper §4, principle 3).

    Raises:
        UsageError: a width that no DiT has (not a positive multiple of 4), or whose heads would be too large to fuse.
    """
    if not isinstance(width, int) or isinstance(width, bool) or width < 4 or width % 4:
        near = max(4, round(width / 4) * 4) if isinstance(width, int | float) else 64
        raise UsageError("a width must be a positive multiple of 4 (2-D sin-cos positions)", saw=repr(width), fix=f"for example {near}")
    factors = divisors(width)
    heads = factors[(len(factors) - 1) // 2]
    if width // heads > LARGEST_HEAD:
        raise UsageError(f"width {width} has no usable head count", fix=f"take a width like {SHAPES}: {near_width(width)}",
                         saw=f"factors {', '.join(map(str, factors))}: the rule gives {heads} heads of size {width // heads}, and none "
                             f"above {LARGEST_HEAD} fuses")
    return heads


def depth_rule(width: int, budget: int | None = None, **sizes: int) -> int:
    """d = ⌊log2 w⌋, lowered until the parameters fit the budget (paper §4, principle 2; science.md §2 row 6).

    Args:
        budget: most parameters of the training form (`DiTSpec.parameters`); None sets no limit.
        sizes: other sizes of the spec: patch, image, channels, classes, mlp_ratio.

    Raises:
        UsageError: not even one block of this width fits.
    """
    rule, heads = width.bit_length() - 1, heads_rule(width)
    for depth in range(rule, 0, -1):
        if budget is None or DiTSpec(depth, width, heads, **sizes).parameters <= budget:
            return depth
    one = DiTSpec(1, width, heads, **sizes).parameters
    raise UsageError(f"width {width} does not fit {budget:,} parameters", saw=f"one block has {one:,}", fix="take a smaller width")


def deepest(width: int, budget: int, **sizes: int) -> int:
    """Most blocks of this width that fit a budget; 0 when none does."""
    heads = heads_rule(width)
    one = DiTSpec(1, width, heads, **sizes).parameters
    return 0 if one > budget else 1 + (budget - one) // (DiTSpec(2, width, heads, **sizes).parameters - one)


def judge(spec: DiTSpec, budget: int | None = None) -> Verdict:
    """Say whether a design follows the principles, and where it departs.

    Args:
        budget: most parameters; without one, a depth below ⌊log2 w⌋ is a departure.
    """
    sizes = {k: v for k, v in spec.to_dict().items() if k not in ("depth", "width", "heads")}
    rule = spec.width.bit_length() - 1
    depth = depth_rule(spec.width, budget, **sizes) if budget is None or deepest(spec.width, budget, **sizes) else rule
    heads = heads_rule(spec.width)
    found, follows = [], spec.depth == depth and spec.heads == heads
    if spec.depth == depth < rule:
        found.append(f"depth {depth}: ⌊log2 {spec.width}⌋ is {rule}, lowered until {budget:,} parameters hold")
    elif spec.depth != depth:
        than = "deeper" if spec.depth > depth else "shallower"
        found.append(f"depth {spec.depth} is {than} than the rule's {depth} (⌊log2 {spec.width}⌋ = {rule})")
    if spec.heads != heads:
        found.append(f"{spec.heads} heads; the rule gives {heads}, the smaller median of the factors of {spec.width}")
    if spec.depth == depth < rule - LOWERED:
        follows = False
        wide = "" if spec.width == widths()[0] else ": too wide for this budget"  # nothing narrower is explored
        found.append(f"{rule - depth} blocks below ⌊log2 {spec.width}⌋{wide}")
    return Verdict(follows, depth, heads, tuple(found), EXCEPTIONS.get((spec.depth, spec.width, spec.heads), ""))


def widths(least: int = 16, most: int = 4096) -> list[int]:
    """Widths of the form 2ⁿ and 3·2ⁿ, ascending: what the paper explored, since they "utilise hardware best"."""
    both = {m * 2**n for m in (1, 3) for n in range(2, 13)}
    return sorted(w for w in both if least <= w <= most and w % 4 == 0)


def near_width(width: int) -> int:
    """The explored width nearest to a given one."""
    return min(widths(), key=lambda w: (abs(w - width), w))
