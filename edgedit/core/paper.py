"""The paper's published numbers, typed once: Tables 1 to 6 of Sundaresha, "Designing Parameter and Compute Efficient
Diffusion Transformers using Distillation".

Data set CIFAR-10, class-conditional, one diffusion step. Latencies are seconds for 50,000 images at batch 128.
"""

from __future__ import annotations

from dataclasses import dataclass

TITLE = "Designing Parameter and Compute Efficient Diffusion Transformers using Distillation"
AUTHOR = "V. Sundaresha"
IMAGES = 50_000
BATCH = 128
GUIDANCE = 1.5
BOARD = "Jetson Orin Nano"
IMAGE_SIZES = {"patch": 2, "image": 32, "channels": 3, "classes": 10}
"""Sizes that every design of the paper shares."""
NOT_STATED = ("runtime", "precision", "power mode", "clocks", "whether the doubled guidance batch is in the time")
"""What the paper leaves open about its latencies."""


@dataclass(frozen=True)
class Setup:
    """A row of Table 1: FID by distillation set-up and loss, without guidance."""

    setup: str
    loss: str
    fid: float


@dataclass(frozen=True)
class Assistant:
    """A row of Table 3: teaching assistant; the flags tell which loss terms (λ0, λ1, λ2) are on."""

    row: int
    teacher: bool
    assistant_image: bool
    assistant_features: bool
    fid: float


@dataclass(frozen=True)
class Mapped:
    """A row of Table 4: MI1; which layers are mapped to which times."""

    layers: tuple[int, ...]
    times: tuple[float, ...]
    fid: float


@dataclass(frozen=True)
class Compared:
    """A row of Table 5: 50,000 images on an A100."""

    method: str
    parameters_millions: float
    fid: float
    latency_s: float
    epochs: int | None = None


@dataclass(frozen=True)
class Design:
    """A row of Table 6 (and of Table 2, where `name` is set): one design on the Orin Nano.

    Attributes:
        group: parameter budget as printed, "0.42M", "2.2M", "5M".
        depth, width, heads: the design.
        latency_s: seconds for 50,000 images at batch 128.
        fid, inception: Fréchet inception distance (reference set not stated) and inception score.
        follows: printed in bold: follows the paper's design principles.
        epochs: training length.
        name: how Table 2 calls it, "" when it is not in Table 2.
    """

    group: str
    depth: int
    width: int
    heads: int
    latency_s: float
    fid: float
    inception: float
    follows: bool = False
    epochs: int = 100
    name: str = ""

    @property
    def label(self) -> str:
        """The paper's way to name a design: "(d,w,h)"."""
        return f"({self.depth},{self.width},{self.heads})"

    @property
    def table(self) -> str:
        """Where it is printed."""
        return "Tables 2 and 6" if self.name else "Table 6"


TABLE_1 = (
    Setup("GET", "L1", 45.60),
    Setup("GET", "L2", 42.73),
    Setup("GET", "LPIPS", 18.30),
    Setup("DMD", "LPIPS", 20.92),
)

TABLE_3 = (
    Assistant(1, True, False, False, 14.03),
    Assistant(2, False, True, False, 13.99),
    Assistant(3, False, True, True, 14.36),
    Assistant(4, True, True, True, 14.28),
)

TABLE_4 = (
    Mapped((), (), 14.03),
    Mapped((3, 6), (0.5, 0.0), 14.49),
    Mapped((2, 4, 6), (0.66, 0.33, 0.0), 14.32),
)

TABLE_5 = (
    Compared("GET", 8.6, 12.93, 6.46),
    Compared("GET (the paper's principles)", 5.3, 10.21, 7.01, epochs=38),
    Compared("DiT-Nano", 5.0, 10.32, 3.66),
)

TABLE_6 = (
    Design("0.42M", 1, 128, 8, 97.5, 57.07, 6.38, name="wider"),
    Design("0.42M", 2, 96, 8, 123.6, 34.78, 7.48, name="wide"),
    Design("0.42M", 5, 64, 4, 162.6, 29.66, 7.76, name="lower heads"),
    Design("0.42M", 5, 64, 8, 198.7, 29.14, 7.79, follows=True, name="proposed"),
    Design("0.42M", 9, 48, 6, 259.0, 28.52, 7.78, name="deep"),
    Design("0.42M", 21, 32, 4, 411.7, 32.81, 7.41, name="deeper"),
    Design("2.2M", 3, 192, 12, 233.2, 16.40, 8.78),
    Design("2.2M", 7, 128, 8, 322.6, 13.95, 8.90, follows=True),
    Design("2.2M", 13, 96, 8, 493.7, 12.76, 8.92),
    Design("5M", 4, 256, 16, 367.6, 11.74, 9.04),
    Design("5M", 16, 128, 8, 657.9, 10.25, 9.15),
    Design("5M", 7, 192, 12, 460.9, 10.32, 9.16, follows=True),
    Design("5M", 7, 192, 12, 458.6, 8.90, 9.31, follows=True, epochs=200),
)

TABLE_2 = tuple(row for row in TABLE_6 if row.name)
"""The 0.42M designs, which Table 2 prints without the inception score."""


def published(depth: int, width: int, heads: int) -> tuple[Design, ...]:
    """The rows of Table 6 for a design, in the paper's order; empty when the paper has none ((7,192,12) has two)."""
    return tuple(row for row in TABLE_6 if (row.depth, row.width, row.heads) == (depth, width, heads))
