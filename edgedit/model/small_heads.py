"""Attention on a CPU for the paper's small heads: a fused kernel in C, compiled where it runs, with a gradient.

DiT-Nano's heads hold 4 to 32 values (Table 2). torch's CPU attention packs its matrices for many more: a step of (5,64,8) spent nine
tenths of its time there. `small_heads.c` keeps tokens in vector registers instead; `benchmarks/small_heads.py` sets the two side by
side. Without a C compiler, on a GPU, for larger heads or in float64 there is torch's own attention, and nothing is asked of anybody.

Where the compiler knows OpenMP as torch's own library speaks it (GCC on Linux), the kernel runs in torch's threads: others would
share the cores with torch's, which spin for a while after each of its operators. Elsewhere it has threads of its own.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from edgedit.core.cache import cache_folder
from edgedit.core.errors import OutputError
from edgedit.core.files import write_atomic

LARGEST = 32
"""Values of a head up to which the kernel is the faster one (benchmarks/small_heads.py)."""
_SOURCE = Path(__file__).with_suffix(".c")
_TUNED: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])  # what GCC and Clang call this CPU; the last for any
_THREADS: tuple[list[str], ...] = (["-fopenmp"], [])


def serves(qkv: Tensor, heads: int) -> bool:
    """Is the kernel for these (B, T, 3w), and does it compile here? EDGEDIT_SMALL_HEADS=0 says no, and so do transforms that torch's
    own operators know and this one does not: forward-mode derivatives, torch.func, torch.export."""
    head = qkv.shape[-1] // (3 * heads)
    return qkv.device.type == "cpu" and qkv.dtype in (torch.float32, torch.bfloat16) and head <= LARGEST and _here(head, qkv.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _here(head: int, dtype: torch.dtype) -> bool:
    transformed = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    exported = getattr(torch.compiler, "is_exporting", lambda: False)()
    return not (transformed or exported or os.environ.get("EDGEDIT_SMALL_HEADS") == "0") and library(head, dtype) is not None


@functools.cache
def library(head: int, dtype: torch.dtype = torch.float32) -> ctypes.CDLL | None:
    """The kernel for heads of `head` values in float32 or bfloat16, compiled once for this machine's CPU, kept in the cache, tried on a
    small case; None where any of that fails."""
    compiler = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    half = ["-DHALF"] if dtype is torch.bfloat16 else []
    for tuned, threads in itertools.product(_TUNED, _THREADS) if compiler else ():
        command = [*str(compiler).split(), "-O3", *tuned, *threads, "-fno-fast-math", "-fPIC", f"-DHEAD={head}", *half]
        try:
            kernel = _loaded(command)
        except (OSError, RuntimeError, subprocess.SubprocessError, OutputError):  # RuntimeError: no home folder for the cache
            continue
        return kernel if _right(kernel, head, dtype) else None
    return None


def _loaded(command: list[str]) -> ctypes.CDLL:
    """The library, built if need be; one that the loader refuses is built again."""
    file = _built(command)
    try:
        return ctypes.CDLL(str(file))
    except OSError:
        file.unlink()
        return ctypes.CDLL(str(_built(command)))


def _right(kernel: ctypes.CDLL, head: int, dtype: torch.dtype) -> bool:
    """Does it agree with the formula on one small case? Compilers have options that break exact tricks with rounding."""
    qkv = torch.linspace(-2, 2, 5 * 3 * head, dtype=torch.float32).sin().view(1, 5, 3 * head).to(dtype)
    out, lse = torch.empty(1, 5, head, dtype=dtype), torch.empty(1, 5, dtype=torch.float32)
    _shared(kernel, "forward", [qkv, out, lse], 1, 5, 1)
    q, k, v = qkv.double().chunk(3, dim=-1)
    slip = 2**-8 if dtype is torch.bfloat16 else 1e-5
    return torch.allclose(out.double(), ((q @ k.mT) / head**0.5).softmax(-1) @ v, atol=1e-5, rtol=slip)


def _built(command: list[str]) -> Path:
    """The library's file; two processes may make it at once. Raises OSError, OutputError or SubprocessError: no compiler, an option it
    lacks, a folder that takes no file."""
    made_of = hashlib.sha256(b"\0".join([_SOURCE.read_bytes(), " ".join(command).encode(), _cpu().encode()])).hexdigest()
    file = cache_folder() / "kernels" / f"small-heads-{made_of[:20]}.so"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            part, made = Path(folder) / "kernel.o", Path(folder) / "kernel.so"
            linked = [c for c in command if c != "-fopenmp"]  # its symbols are those of the library that torch has loaded
            for step in ([*command, "-c", "-o", str(part), str(_SOURCE)], [*linked, "-shared", "-o", str(made), str(part), "-lm"]):
                subprocess.run(step, check=True, capture_output=True, timeout=120)
            write_atomic(file, made.read_bytes())
    return file


def _cpu() -> str:
    """What compiled code may rely on: a cache folder is sometimes shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _shared(kernel: ctypes.CDLL, name: str, tensors: list[Tensor], heads: int, tokens: int, units: int) -> None:
    """`kernel.name` on parts of the units, one a thread of torch's number. Each unit is one image's head: no result depends on the parts.

    Whatever happens here, nothing is left writing into the tensors on return.
    """
    if any(t.device.type != "cpu" or not t.is_contiguous() for t in tensors):
        raise TypeError("the attention kernel takes contiguous tensors on a CPU")
    threads = min(torch.get_num_threads(), units)
    given = [*(ctypes.c_void_p(t.data_ptr()) for t in tensors), ctypes.c_long(heads), ctypes.c_long(tokens)]
    if hasattr(kernel, f"{name}_all"):
        failed: int = kernel[f"{name}_all"](*given, ctypes.c_long(units), ctypes.c_int(threads))
    else:
        failed = _in_threads(lambda first, last: kernel[name](*given, ctypes.c_long(first), ctypes.c_long(last)), units, threads)
    if failed:
        raise MemoryError("the attention kernel found no memory for its rows")


def _in_threads(call: Callable[[int, int], int], units: int, threads: int) -> int:
    """The sum of what calls on parts of the units return."""
    bounds = [units * part // threads for part in range(threads + 1)]
    others: list[Future[int]] = []
    try:
        others += [_pool(threads).submit(call, *bounds[n : n + 2]) for n in range(1, threads)]
        failed = call(*bounds[:2])
    finally:
        wait(others)
    return failed + sum(o.result() for o in others)


@functools.lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="small-heads")


# Schemas are written out: torch 2.4 reads none from annotations that are strings.
@torch.library.custom_op("edgedit::small_heads_backward", mutates_args=(), device_types="cpu",
                         schema="(Tensor qkv, Tensor out, Tensor lse, Tensor grad, int heads) -> Tensor")
def _backward(qkv: Tensor, out: Tensor, lse: Tensor, grad: Tensor, heads: int) -> Tensor:
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype)
    if grad_qkv.numel():
        kernel = library(out.shape[2] // heads, qkv.dtype)
        assert kernel is not None, "serves() was not asked"
        held = [qkv.contiguous(), out.contiguous(), lse.contiguous(), grad.to(qkv.dtype).contiguous(), grad_qkv]
        _shared(kernel, "backward", held, heads, qkv.shape[1], qkv.shape[0] * heads)
    return grad_qkv


@_backward.register_fake
def _(qkv: Tensor, out: Tensor, lse: Tensor, grad: Tensor, heads: int) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    qkv, heads = inputs
    ctx.heads = heads  # type: ignore[attr-defined]
    ctx.save_for_backward(qkv, *output)


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
    qkv, out, lse = ctx.saved_tensors  # type: ignore[attr-defined]
    return _backward(qkv, out, lse, grad, ctx.heads), None  # type: ignore[attr-defined]


def _with_gradient(op: torch.library.CustomOpDef) -> torch.library.CustomOpDef:
    op.register_autograd(_gradient, setup_context=_keep)
    return op


@_with_gradient
@torch.library.custom_op("edgedit::small_heads", mutates_args=(), device_types="cpu", schema="(Tensor qkv, int heads) -> (Tensor, Tensor)")
def _forward(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    b, t, w = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    out, lse = torch.empty(b, t, w, dtype=qkv.dtype), torch.empty(b * heads, t, dtype=torch.float32)
    if out.numel():
        kernel = library(w // heads, qkv.dtype)
        assert kernel is not None, "serves() was not asked"
        _shared(kernel, "forward", [qkv.contiguous(), out, lse], heads, t, b * heads)
    return out, lse


@_forward.register_fake
def _(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    b, t, w = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    return qkv.new_empty(b, t, w), qkv.new_empty(b * heads, t, dtype=torch.float32)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / sqrt(H)) v of every head, without masks or dropout.

    Args:
        qkv: float32 or bfloat16 (B, T, 3w) on a CPU, q, k and v one after another, of each its heads of H = w / heads values.
        heads: how many; `serves(qkv, heads)` must be true.

    Returns:
        (B, T, w) in qkv's dtype; inside it is float32.
    """
    out: Tensor = _forward(qkv, heads)[0]
    return out
