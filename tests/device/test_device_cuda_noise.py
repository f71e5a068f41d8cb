"""Our CUDA source: compiled for the host it gives core's noise, nvcc takes it for every board, on a GPU it runs."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.noise import noise
from edgedit.device.cuda.kernels import THREADS, kernel_source, noise_grid
from tests.fake_cuda.making import KERNELS, compile_, host_kernels, need

BOUND = 3e-6
"""Largest difference of a value, up to 6.8 in size: a few last bits of float32 log, cos and sin from two mathematics libraries
(numpy's own and glibc's, ≤ 4 and ≤ 1 units in the last place; CUDA's logf 1, sinf and cosf 2), times a radius of up to 6.8."""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The kernels as host functions."""
    need("g++")
    folder = tmp_path_factory.mktemp("kernels")
    compile_([host_kernels(folder / "kernels.cpp")], folder / "kernels.so", "-ffp-contract=off")
    return ctypes.CDLL(str(folder / "kernels.so"))


def launch(library, name, grid, *arguments):
    """Pack as the driver does: each argument at the next multiple of its size."""
    packed = bytearray()
    for argument in arguments:
        size = ctypes.sizeof(argument)
        packed += bytes(-len(packed) % size) + bytes(argument)
    three = ctypes.c_uint * 3
    getattr(library, f"double_launch_{name}")(bytes(packed), three(*grid, 1), three(THREADS, 1, 1))


def make(library, seed, indices, shape):
    values = math.prod(shape)
    out = np.full((len(indices), *shape), np.nan, np.float32)
    where = np.asarray(indices, np.int64)
    launch(library, "noise", noise_grid(len(indices), values), ctypes.c_void_p(out.ctypes.data),
           ctypes.c_void_p(where.ctypes.data), ctypes.c_uint64(seed), ctypes.c_uint(values))
    return out


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, (1 << 64) - 1), indices=st.lists(st.integers(0, (1 << 48) - 1), min_size=1, max_size=4),
       shape=st.tuples(st.integers(1, 4), st.integers(1, 17), st.integers(1, 17)))
def test_noise_is_cores(library, seed, indices, shape):
    np.testing.assert_allclose(make(library, seed, indices, shape), noise(seed, indices, shape), rtol=0, atol=BOUND)


def test_noise_of_whole_batches_to_the_last_bits(library):
    seen, wanted = make(library, 3, range(128), (3, 32, 32)), noise(3, range(128), (3, 32, 32))
    away = np.abs(seen - wanted)
    assert away.max() < BOUND and away.mean() < 1e-7 and abs(seen.mean()) < 0.01 and abs(seen.std() - 1) < 0.01


def test_counters_beyond_64_bits(library):
    """An image of 2^20 values takes 2^17 blocks, so that the last image starts at counter 2^65."""
    shape, index = (1, 1024, 1024), (1 << 48) - 1
    np.testing.assert_allclose(make(library, 1, [index], shape), noise(1, [index], shape), rtol=0, atol=BOUND)


@given(rows=st.lists(st.one_of(st.just(-1), st.integers(0, 99)), min_size=1, max_size=6), values=st.integers(1, 70))
@settings(max_examples=30, deadline=None)
def test_padding_rows_are_zero_and_change_no_other(library, rows, values):
    seen = make(library, 5, rows, (values,))
    for row, index in zip(seen, rows, strict=True):
        wanted = np.zeros(values) if index < 0 else noise(5, [index], (values,))[0]
        np.testing.assert_allclose(row, wanted, rtol=0, atol=BOUND)


@pytest.mark.parametrize("scale", [None, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_are_what_the_exported_graph_gives(library, scale, channels):
    rng = np.random.default_rng(0)
    floats = rng.uniform(-1.4, 1.4, ((1 if scale is None else 2) * 5, channels, 4, 4)).astype(np.float32)
    out = np.zeros((5, 4, 4, channels), np.uint8)
    launch(library, "levels", (-(-out.size // THREADS), 1), ctypes.c_void_p(out.ctypes.data), ctypes.c_void_p(floats.ctypes.data),
           ctypes.c_uint(5), ctypes.c_uint(channels), ctypes.c_uint(16), ctypes.c_uint(scale is not None), ctypes.c_float(scale or 1))
    x = floats[:5] if scale is None else floats[5:] + np.float32(scale) * (floats[:5] - floats[5:])
    wanted = np.floor(np.clip(np.float32(127.5) * x + np.float32(128), 0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(out, wanted)
    assert out.min() == 0 and out.max() == 255


def test_not_a_number_becomes_black_and_not_noise(library):
    floats, out = np.full((1, 1, 1, 4), np.nan, np.float32), np.full((1, 1, 4, 1), 7, np.uint8)
    launch(library, "levels", (1, 1), ctypes.c_void_p(out.ctypes.data), ctypes.c_void_p(floats.ctypes.data), ctypes.c_uint(1),
           ctypes.c_uint(1), ctypes.c_uint(4), ctypes.c_uint(0), ctypes.c_float(1))
    assert (out == 0).all()


@pytest.mark.parametrize("kind", ["cubin", "ptx"])
@pytest.mark.parametrize("architecture", ["sm_87", "sm_89", "sm_90"])
def test_nvcc_compiles_it_without_a_word(tmp_path, architecture, kind):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    out = tmp_path / f"k.{kind}"
    done = subprocess.run(["nvcc", f"--{kind}", "-arch", architecture, "-O3", "-Werror", "all-warnings", str(KERNELS), "-o", str(out)],
                          capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout + done.stderr and out.stat().st_size > 1000
    if kind == "ptx":
        assert f".target {architecture}" in out.read_text()


@pytest.mark.gpu
def test_on_a_gpu_it_is_cores_noise():
    """Through cupy; the same source, compiled by its own nvrtc."""
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDevice()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no GPU: {error}")
    kernel = cupy.RawModule(code=kernel_source(), options=("--std=c++17",)).get_function("noise")
    shape, indices = (3, 32, 32), [0, 5, (1 << 48) - 1, -1]
    values = math.prod(shape)
    out = cupy.empty((4, *shape), cupy.float32)
    kernel(noise_grid(4, values), (THREADS,),
           (out, cupy.asarray(np.asarray(indices, np.int64)), np.uint64(9), np.uint32(values)))
    seen = cupy.asnumpy(out)
    np.testing.assert_allclose(seen[:3], noise(9, indices[:3], shape), rtol=0, atol=BOUND)
    assert (seen[3] == 0).all()
