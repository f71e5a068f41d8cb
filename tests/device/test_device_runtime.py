"""Choosing a runtime, registering another, and the pipeline that feeds it."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from bundle_kit import PyRuntime, expected, make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import EdgeditError, UsageError
from edgedit.core.noise import labels as balanced
from edgedit.device import runtime as room
from edgedit.device.bundle import Bundle
from edgedit.device.pipeline import Channel, Source, run, split
from edgedit.device.runtime import RuntimeChoice, check_inputs, describe, open_runtime, opened, register, runtime_names


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("runtime") / "b", dynamic=True))


def source(bundle, count, batch, first=0, seed=7):
    return Source(seed, bundle.noise_shape, batch, lambda i: balanced(0, i, 4), split(first, count, batch))


# --- choice -----------------------------------------------------------------------------------------------------------------


def test_auto_is_onnx_runtime(bundle):
    ready = open_runtime(bundle)
    try:
        assert (ready.name, ready.provider) == ("ort", "CPUExecutionProvider")
    finally:
        ready.close()


def test_an_unknown_runtime_suggests(bundle):
    with pytest.raises(UsageError, match="did you mean 'ort'"):
        open_runtime(bundle, "orf")


def test_no_threads_is_refused(bundle):
    with pytest.raises(UsageError, match="threads"):
        open_runtime(bundle, threads=0)


def test_another_runtime_registers_and_is_closed(bundle, monkeypatch):
    monkeypatch.setattr(room, "_FACTORIES", dict(room._FACTORIES))
    made = []
    register("py", lambda choice: made.append(PyRuntime(bundle)) or made[-1])
    assert "py" in runtime_names()
    with opened(bundle, "py") as ready:
        assert ready.name == "py" and not made[0].closed
    assert made[0].closed


def test_a_runtime_that_fails_to_load_is_closed(bundle, monkeypatch):
    monkeypatch.setattr(room, "_FACTORIES", dict(room._FACTORIES))

    class Bad(PyRuntime):
        def load(self, bundle):
            raise EdgeditError("no memory")

    bad = Bad(bundle)
    register("bad", lambda choice: bad)
    with pytest.raises(EdgeditError, match="no memory"):
        open_runtime(bundle, "bad")
    assert bad.closed


def test_a_loaded_runtime_is_used_as_it_is_and_left_open(bundle):
    mine = PyRuntime(bundle)
    with opened(bundle, mine) as ready:
        assert ready is mine
    assert not mine.closed


def test_a_runtime_without_timing_is_timed(bundle):
    class Bare:
        name, provider, version = "bare", "host", "0"

        def infer(self, noise, labels):
            time.sleep(0.01)
            return np.zeros((len(noise), 8, 8, 3), np.uint8)

        def close(self):
            pass

    with opened(bundle, Bare()) as ready:
        ready.infer(np.zeros((2, 3, 8, 8), np.float32), np.zeros(2, np.int32))
        assert ready.phases.compute_s >= 0.01 and ready.batch is None and ready.options == {}


def test_describe_makes_auto_and_ort_the_same():
    assert describe("auto") == describe(RuntimeChoice(name="ort")) != describe(RuntimeChoice(provider="cuda"))


@pytest.mark.parametrize("noise, labels, says", [
    (np.zeros((4, 3, 8, 8)), np.zeros(4, np.int32), "float64"),
    (np.zeros((4, 3, 8, 9), np.float32), np.zeros(4, np.int32), "noise"),
    (np.zeros((0, 3, 8, 8), np.float32), np.zeros(0, np.int32), "noise"), (np.float32(1), np.zeros(1, np.int32), "noise"),
    (np.zeros((4, 3, 8, 8), np.float32), np.zeros(3, np.int32), r"labels must be int32 \(4,\)"),
    (np.zeros((4, 3, 8, 8), np.float32), np.zeros(4, np.int64), "int64"),
    (np.zeros((4, 3, 8, 8), np.float32), np.full(4, 5, np.int32), r"0 … 4"),
    (np.zeros((4, 3, 8, 8), np.float32), np.full(4, -1, np.int32), r"0 … 4")])
def test_wrong_inputs_are_named(bundle, noise, labels, says):
    with pytest.raises(UsageError, match=says):
        check_inputs(bundle, None, noise, labels)


def test_a_fixed_batch_takes_no_other(bundle):
    with pytest.raises(UsageError, match=r"\(4, 3, 8, 8\)"):
        check_inputs(bundle, 4, np.zeros((3, 3, 8, 8), np.float32), np.zeros(3, np.int32))


# --- pipeline ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 40), batch=st.integers(1, 9), first=st.integers(0, 1000), overlap=st.booleans())
def test_every_image_comes_out_once_in_order_whatever_the_batch(bundle, count, batch, first, overlap):
    seen, images = [], []
    with opened(bundle, RuntimeChoice(threads=1)) as ready:
        assert run(ready, source(bundle, count, batch, first), lambda b: (seen.append(b), images.append(b.images)),
                   overlap=overlap)
    indices = np.concatenate([b.indices for b in seen])
    np.testing.assert_array_equal(indices, np.arange(first, first + count))
    assert [b.number for b in seen] == list(range(len(seen)))
    np.testing.assert_array_equal(np.concatenate(images), expected(bundle, 7, indices, balanced(0, indices, 4)))


def test_the_ragged_last_batch_is_padded_with_zero_noise_and_cut(bundle):
    shapes, padding = [], []

    class Spy(PyRuntime):
        def infer(self, noise, labels):
            shapes.append(noise.shape[0])
            padding.append((float(np.abs(noise[3:]).max()), labels[3:].tolist()))
            return super().infer(noise, labels)

    kept = []
    run(Spy(bundle), source(bundle, 13, 5), lambda b: kept.append(len(b.images)))
    assert shapes == [5, 5, 5] and kept == [5, 5, 3] and padding[-1] == (0.0, [0, 0])


def test_noise_and_saving_run_beside_the_graph(bundle):
    """With stages of 30 ms each, ten batches take about 10 · 30 ms overlapped, not 10 · 60 ms: told by what ran at once."""
    active, together, lock = set(), [], threading.Lock()

    def during(name):
        with lock:
            active.add(name)
            together.append(frozenset(active))
        time.sleep(0.02)
        with lock:
            active.discard(name)

    run(PyRuntime(bundle, on_call=lambda n: during("graph")), source(bundle, 40, 4), lambda b: during("save"))
    assert any(len(names) == 2 for names in together)


def test_memory_is_bounded_by_a_ring_of_noise_buffers(bundle):
    buffers = set()

    class Spy(PyRuntime):
        def infer(self, noise, labels):
            buffers.add(noise.__array_interface__["data"][0])
            return super().infer(noise, labels)

    run(Spy(bundle), source(bundle, 200, 4), lambda b: None)
    assert len(buffers) <= 3


@pytest.mark.parametrize("overlap", [True, False])
def test_an_error_of_the_runtime_comes_out_and_earlier_batches_are_saved(bundle, overlap):
    def fail(call):
        if call == 6:
            raise EdgeditError("device lost")

    kept = []
    with pytest.raises(EdgeditError, match="device lost"):
        run(PyRuntime(bundle, on_call=fail), source(bundle, 100, 4), lambda b: kept.append(b.number), overlap=overlap)
    assert kept == [0, 1, 2, 3, 4]
    assert not [t for t in threading.enumerate() if t.name.startswith("edgedit-")]


@pytest.mark.parametrize("overlap", [True, False])
def test_an_error_of_the_sink_ends_the_run(bundle, overlap):
    ready = PyRuntime(bundle, sleep_s=0.002)

    def sink(batch):
        if batch.number == 2:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run(ready, source(bundle, 4000, 4), sink, overlap=overlap)
    assert ready.calls < 20


def test_an_error_in_the_labels_comes_out_of_the_noise_thread(bundle):
    def bad(indices):
        if indices[0] >= 8:
            raise ValueError("no such label")
        return np.zeros(len(indices), np.int32)

    kept = []
    with pytest.raises(ValueError, match="no such label"):
        run(PyRuntime(bundle), Source(0, bundle.noise_shape, 4, bad, split(0, 40, 4)), lambda b: kept.append(b.number))
    assert kept == [0, 1]


def test_watch_ends_the_run_between_batches(bundle):
    seen, kept = [], []

    def watch(images):
        seen.append(images)
        return images >= 12

    assert run(PyRuntime(bundle), source(bundle, 100, 4), lambda b: kept.append(b.number), watch=watch) is False
    assert seen == [0, 4, 8, 12] and kept == [0, 1, 2]


def test_a_keyboard_interrupt_leaves_no_thread(bundle):
    def interrupt(call):
        if call == 3:
            raise KeyboardInterrupt

    kept = []
    with pytest.raises(KeyboardInterrupt):
        run(PyRuntime(bundle, on_call=interrupt), source(bundle, 100, 4), lambda b: kept.append(b.number))
    assert kept == [0, 1] and not [t for t in threading.enumerate() if t.name.startswith("edgedit-")]


@pytest.mark.parametrize("result", [np.zeros((4, 8, 8, 3), np.float32), np.zeros((3, 8, 8, 3), np.uint8),
                                    np.zeros((4, 8), np.uint8)])
def test_a_result_of_another_kind_is_refused(bundle, result):
    class Odd(PyRuntime):
        def infer(self, noise, labels):
            return result

    with pytest.raises(EdgeditError, match="something other than uint8 images"):
        run(Odd(bundle), source(bundle, 8, 4), lambda b: None)


def test_channel_hands_out_what_is_left_and_then_the_error():
    channel: Channel[int] = Channel(2)
    assert channel.put(1) and channel.put(2)
    channel.close(ValueError("late"))
    assert channel.put(3) is False and channel.get() == 1 and channel.get() == 2
    with pytest.raises(ValueError, match="late"):
        channel.get()


def test_channel_wakes_a_waiting_producer_when_closed():
    channel: Channel[int] = Channel(1)
    channel.put(0)
    results = []
    thread = threading.Thread(target=lambda: results.append(channel.put(1)))
    thread.start()
    channel.close()
    thread.join(5)
    assert results == [False]


@given(first=st.integers(0, 99), count=st.integers(1, 99), batch=st.integers(1, 99))
def test_split_covers_everything_once(first, count, batch):
    parts = list(split(first, count, batch))
    assert list(itertools.chain.from_iterable(p.tolist() for p in parts)) == list(range(first, first + count))
    assert all(len(p) == batch for p in parts[:-1]) and 1 <= len(parts[-1]) <= batch
