"""Choosing a runtime, registering another, and the pipeline that feeds it."""

from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bundle_kit import PyRuntime, expected, make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import EdgeditError, UsageError
from edgedit.core.noise import labels as balanced
from edgedit.device import runtime as room
from edgedit.device.bundle import Bundle
from edgedit.device.channel import Channel
from edgedit.device.pipeline import Source, run, split
from edgedit.device.runtime import (
    Phases,
    RuntimeChoice,
    check_inputs,
    describe,
    open_runtime,
    opened,
    register,
    runtime_names,
    settle,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("runtime") / "b", dynamic=True))


def tmp(name):
    return Path("somewhere", name)


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


def test_auto_is_described_as_what_runs(bundle):
    assert describe(settle(bundle, "auto")) == describe(RuntimeChoice(name="ort")) != describe(RuntimeChoice(provider="cuda"))
    mine = PyRuntime(bundle)
    assert settle(bundle, mine) is mine
    assert settle(bundle, RuntimeChoice(name="auto", engine=tmp("e"))).name == "trt"


def test_a_description_is_plain_json():
    assert json.loads(json.dumps(describe(RuntimeChoice(engine=tmp("e")))))["engine"] == str(tmp("e"))


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


# --- lanes ------------------------------------------------------------------------------------------------------------------


class Beside:
    """A device that works beside the host: a batch is computed when it is collected; lanes check the order of their calls."""

    name, provider, version, threads, options = "beside", "host", "0", None, {}

    def __init__(self, bundle, batch=None, fail_launch=0, fail_collect=0):
        self.bundle, self.batch, self.made, self.order = bundle, batch, [], []
        self.fail_launch, self.fail_collect, self.launched, self.collected = fail_launch, fail_collect, 0, 0

    def lanes(self, batch, count):
        self.made += [BesideLane(self, batch) for _ in range(count - len(self.made))]
        return self.made

    def close(self):
        pass


class BesideLane:
    def __init__(self, runtime, rows):
        self.runtime, self.rows, self.state, self.phases = runtime, rows, "free", Phases(compute_s=1e-3, noise_s=2e-3)

    def step(self, before, after):
        assert self.state == before, f"{after} after {self.state}"
        self.state = after

    def fill(self, seed, indices, labels):
        self.step("free", "full")
        assert len(labels) == self.rows
        self.held = seed, indices, labels

    def launch(self):
        self.step("full", "flying")
        self.runtime.launched += 1
        if self.runtime.launched == self.runtime.fail_launch:
            raise EdgeditError("device lost")
        self.runtime.order.append(("launch", int(self.held[1][0])))

    def collect(self):
        self.step("flying", "free")
        self.runtime.collected += 1
        if self.runtime.collected == self.runtime.fail_collect:
            raise EdgeditError("device lost")
        self.runtime.order.append(("collect", int(self.held[1][0])))
        seed, indices, labels = self.held
        images = np.zeros((self.rows, 8, 8, 3), np.uint8)
        images[: len(indices)] = expected(self.runtime.bundle, seed, indices, labels[: len(indices)])
        return images


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 40), batch=st.integers(1, 9), overlap=st.booleans(), wider=st.integers(0, 3))
def test_lanes_give_every_image_once_in_order(bundle, count, batch, overlap, wider):
    ready, got = Beside(bundle, batch + wider if wider else None), []
    assert run(ready, source(bundle, count, batch), got.append, overlap=overlap)
    np.testing.assert_array_equal(np.concatenate([b.images for b in got]), expected(bundle, 7, range(count), balanced(0, range(count), 4)))
    assert [b.number for b in got] == list(range(len(got))) and all(b.noise_s == 2e-3 and b.start_ns <= b.end_ns for b in got)


def test_the_next_batch_is_launched_before_the_last_is_collected_and_no_further(bundle):
    ready = Beside(bundle)
    run(ready, source(bundle, 80, 4), lambda b: time.sleep(0.001))
    flying = list(itertools.accumulate(1 if what == "launch" else -1 for what, _ in ready.order))
    assert max(flying) == 2 and flying[-1] == 0
    assert [i for what, i in ready.order if what == "collect"] == list(range(0, 80, 4))


@pytest.mark.parametrize("failing, kept", [({"fail_launch": 6}, 5), ({"fail_collect": 6}, 5)])
def test_an_error_on_the_device_keeps_what_was_launched_before(bundle, failing, kept):
    got = []
    with pytest.raises(EdgeditError, match="device lost"):
        run(Beside(bundle, **failing), source(bundle, 400, 4), got.append)
    assert [b.number for b in got] in ([*range(kept)], [*range(kept + 1)][: kept + 1]) and len(got) >= kept


def test_watch_saves_what_was_launched_and_hears_of_it(bundle):
    seen, got = [], []

    def watch(images):
        seen.append(images)
        return images >= 12

    assert run(Beside(bundle), source(bundle, 400, 4), got.append, watch=watch) is False
    assert len(got) * 4 == seen[-1] and seen[-1] in (12, 16)


def test_batches_larger_than_the_runtimes_are_refused_and_smaller_padded(bundle):
    with pytest.raises(UsageError, match="batches of 4"):
        run(Beside(bundle, batch=4), source(bundle, 8, 5), lambda b: None)
    shapes = []

    class Fixed(PyRuntime):
        def infer(self, noise, labels):
            shapes.append((noise.shape[0], float(np.abs(noise[3:]).max())))
            return super().infer(noise, labels)

    fixed, kept = Fixed(bundle), []
    fixed.batch = 4
    run(fixed, source(bundle, 7, 3), lambda b: kept.append(len(b.images)))
    assert shapes == [(4, 0.0)] * 3 and kept == [3, 3, 1]


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
