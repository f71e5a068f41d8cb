"""The CPU kernel of small heads: torch's attention in float64 says what is right, whatever the sizes; without it nothing else changes."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgedit.core.spec import DiTSpec
from edgedit.model import small_heads
from edgedit.model.dit import DiT, merge_heads, split_heads

needs_kernel = pytest.mark.skipif(small_heads.library(8) is None, reason="no C compiler is here (or EDGEDIT_SMALL_HEADS=0)")


@pytest.fixture(autouse=True)
def none_is_remembered() -> Iterator[None]:
    small_heads.library.cache_clear()
    yield
    small_heads.library.cache_clear()


def exact(qkv: Tensor, heads: int) -> Tensor:
    q, k, v = split_heads(qkv, heads)
    return merge_heads(F.scaled_dot_product_attention(q, k, v))


def both(qkv: Tensor, heads: int, seed: int = 1) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(output, gradient) of the kernel, and of float64."""
    results = []
    for leaf, f in ((qkv.clone(), small_heads.attention), (qkv.double(), exact)):
        leaf.requires_grad_()
        out = f(leaf, heads)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
        (out * weights.to(out.dtype)).sum().backward()
        assert leaf.grad is not None
        results.append((out.detach(), leaf.grad))
    return results[0], results[1]


@needs_kernel
@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 3), t=st.integers(1, 70), heads=st.integers(1, 5), head=st.sampled_from([1, 4, 5, 6, 8, 12, 16, 32]),
       scale=st.sampled_from([0.01, 1.0, 8.0]), seed=st.integers(0, 1 << 20))
def test_it_is_attention(b: int, t: int, heads: int, head: int, scale: float, seed: int) -> None:
    qkv = scale * torch.randn(b, t, 3 * heads * head, generator=torch.Generator().manual_seed(seed))
    (out, grad), (right, right_grad) = both(qkv, heads, seed)
    q, k, v = split_heads(qkv.abs().double(), heads)
    slip = 1e-5 + 8 * 2**-23 * float((q @ k.mT).max()) / head**0.5  # of a share: what float32 leaves of logits so large
    assert (out - right).abs().max() <= slip * v.max()
    assert (grad - right_grad).abs().max() <= 16 * slip * max(1.0, scale**2) * right_grad.abs().max().clamp(min=1)


@needs_kernel
def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    qkv = torch.zeros(1, 3, 24)
    qkv[0, :, 0], qkv[0, :, 8] = 100.0, torch.tensor([100.0, 0.0, -100.0])  # logits ±3,500
    qkv[0, :, 16] = torch.tensor([1.0, 2.0, 3.0])
    (out, grad), (right, _) = both(qkv, 1)
    assert torch.equal(out[0, :, 0], torch.ones(3)) and torch.allclose(out.double(), right) and bool(grad.isfinite().all())


@needs_kernel
def test_a_row_of_low_logits_is_not_disturbed_by_what_lies_beyond_its_end() -> None:
    qkv = torch.ones(1, 1, 24)
    qkv[0, 0, 8:16] = -200.0  # the only logit: -566; a zero in the register's other lanes would be e^566 of it
    (out, grad), (right, right_grad) = both(qkv, 1)
    assert torch.allclose(out.double(), right) and torch.allclose(grad.double(), right_grad)


@needs_kernel
def test_what_is_not_a_number_is_not_hidden() -> None:
    qkv = torch.randn(2, 20, 48)
    qkv[1, 4, 3] = math.nan
    out = small_heads.attention(qkv, 2)
    assert bool(out[0].isfinite().all()) and bool(out[1].isnan().any())
    for bits in (0x7FC00001, 0x7FC001FF, -1):
        odd = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
        row = torch.randn(1, 3, 24)
        row[0, 1, 0] = odd[0]
        assert bool(small_heads.attention(row, 1)[0, 1].isnan().all())


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_is_not_its_business(dtype: torch.dtype) -> None:
    qkv = torch.randn(2, 16, 48)
    before = both(qkv, 2)[0]
    torch.set_default_dtype(dtype)
    try:
        after = small_heads.attention(qkv, 2)
        small_heads.library.cache_clear()
        assert small_heads.library(8) is not None
    finally:
        torch.set_default_dtype(torch.float32)
    assert after.equal(before[0])


@needs_kernel
def test_what_it_does_not_know_is_torchs() -> None:
    model, exactly, labels = grown().eval(), grown().eval().double(), torch.tensor([1, 2])
    images, tangent = torch.randn(2, 2, 3, 16, 16)
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused one has no forward-mode derivative either, and says so
        slope = torch.func.jvp(lambda x: exactly(x, labels), (images.double(),), (tangent.double(),))[1]
        found = torch.func.jvp(lambda x: model(x, labels), (images,), (tangent,))[1]
    assert slope.abs().max() > 0.01 and torch.allclose(found.double(), slope, atol=1e-4)
    assert bool(torch.func.grad(lambda x: model(x, labels).sum())(images).isfinite().all())
    assert small_heads.serves(torch.zeros(1, 4, 96), 4)


@needs_kernel
def test_threads_and_layout_change_no_bit() -> None:
    qkv = torch.randn(3, 64, 3 * 24)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(both(qkv, 3)[0])
    finally:
        torch.set_num_threads(before)
    strided = torch.randn(64, 3, 72).copy_(qkv.transpose(0, 1)).transpose(0, 1)
    assert not strided.is_contiguous()
    for out, grad in (*results[1:], both(strided, 3)[0]):
        assert torch.equal(out, results[0][0]) and torch.equal(grad, results[0][1])


@needs_kernel
def test_half_precision_is_that_of_the_ends_alone() -> None:
    qkv = torch.randn(2, 64, 96).bfloat16()
    out = small_heads.attention(qkv, 4)
    assert out.dtype is torch.bfloat16 and torch.equal(out, small_heads.attention(qkv.float(), 4).bfloat16())


@needs_kernel
@settings(max_examples=15, deadline=None)
@given(t=st.integers(1, 70), heads=st.integers(1, 4), head=st.sampled_from([4, 8, 12, 32]), seed=st.integers(0, 1 << 20))
def test_a_gradient_in_half_precision_is_off_by_its_rounding(t: int, heads: int, head: int, seed: int) -> None:
    qkv = torch.randn(2, t, 3 * heads * head, generator=torch.Generator().manual_seed(seed)).bfloat16()
    (out, grad), (right, right_grad) = both(qkv, heads, seed)
    assert out.dtype is grad.dtype is torch.bfloat16
    assert (out - right).abs().max() <= 2**-8 * right.abs().max()
    assert (grad - right_grad).abs().max() <= 2**-5 * right_grad.abs().max().clamp(min=1)


@needs_kernel
def test_its_own_threads_give_the_same_as_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = torch.randn(3, 40, 3 * 24)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first = both(qkv, 3)[0]
        monkeypatch.setattr(small_heads, "_THREADS", ([],))
        small_heads.library.cache_clear()
        kernel = small_heads.library(8)
        assert kernel is not None and not hasattr(kernel, "forward_all")
        assert all(torch.equal(a, b) for a, b in zip(first, both(qkv, 3)[0], strict=True))
    finally:
        torch.set_num_threads(threads)


@needs_kernel
def test_nothing_of_nothing() -> None:
    assert small_heads.attention(torch.randn(0, 16, 96, requires_grad=True), 4).shape == (0, 16, 32)


@needs_kernel
def test_torch_finds_the_operators_sound() -> None:
    qkv = torch.randn(2, 16, 3 * 8, requires_grad=True)
    torch.library.opcheck(torch.ops.edgedit.small_heads.default, (qkv, 2))


def grown(**options: int) -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTSpec(**{"depth": 2, "width": 32, "heads": 4, "image": 16} | options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def step(model: torch.nn.Module) -> list[Tensor]:
    model.zero_grad()
    out = model(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 4, 10]))
    out.square().mean().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.allclose(x, y, rtol=1e-3, atol=1e-5) for x, y in zip(a, b, strict=True))


@needs_kernel
def test_the_network_is_the_same_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, used = grown(), []
    real = small_heads.attention
    monkeypatch.setattr(small_heads, "attention", lambda *a: used.append(1) or real(*a))
    fast = step(model)
    assert len(used) == 2
    monkeypatch.setenv("EDGEDIT_SMALL_HEADS", "0")
    assert close(fast, step(model)) and len(used) == 2


@needs_kernel
def test_compiled_it_is_one_graph() -> None:
    model = grown()
    assert close(step(model), step(torch.compile(model, fullgraph=True, backend="aot_eager")))


@pytest.mark.parametrize("case", ["large heads", "float64"])
def test_it_serves_what_it_is_for(case: str) -> None:
    qkv = torch.zeros(1, 4, 3 * 64, dtype=torch.float64 if case == "float64" else torch.float32)
    assert not small_heads.serves(qkv, 1 if case == "large heads" else 8)


@needs_kernel
def test_a_compiler_that_breaks_the_arithmetic_is_not_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "gcc -ffast-math")  # undone by an option that follows
    assert small_heads.library(8) is not None or shutil.which("gcc") is None
    small_heads.library.cache_clear()
    monkeypatch.setattr(small_heads, "_TUNED", (["-Dsqrtf=cbrtf"],))
    assert small_heads.library(8) is None


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "sleep"])
def test_without_a_compiler_there_is_torchs_attention(compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path / "cache"))
    assert small_heads.library(8) is None and not small_heads.serves(torch.zeros(1, 4, 96), 4)
    assert bool(step(grown())[0].isfinite().all())
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(small_heads.shutil, "which", lambda name: None)
    assert small_heads.library(8) is None


@needs_kernel
def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path / "file"))
    assert small_heads.library(8) is None


@needs_kernel
def test_a_damaged_library_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path))
    assert small_heads.library(8) is not None
    code = "from edgedit.model import small_heads; print(small_heads.library(8))"
    file, = tmp_path.rglob("*.so")
    file.unlink()  # the file that this process has mapped stays whole
    file.write_bytes(b"not a library")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "CDLL" in done.stdout and list(tmp_path.rglob("*.so")) == [file], done.stderr
