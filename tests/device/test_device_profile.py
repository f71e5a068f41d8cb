"""profile: the record and its raw files, runs cut short in every way, power wiring, and re-runs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from bundle_kit import PyRuntime, expected, make_bundle, small_spec
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgedit.core.artifact import create, open_artifact
from edgedit.core.errors import EdgeditError, Interrupted, MissingError, OutputError, UsageError
from edgedit.core.record import Power, PowerRail, Verdict, load_record
from edgedit.core.settings import resolve
from edgedit.device import timing
from edgedit.device.bundle import Bundle
from edgedit.device.measure import ProfileSettings
from edgedit.device.profile import profile
from edgedit.device.runtime import RuntimeChoice

ROOT = Path(__file__).resolve().parents[2]
ORT = RuntimeChoice(threads=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("profile") / "b")


@pytest.fixture(scope="module")
def bundle(path):
    return Bundle.open(path)


def settings(**values):
    return resolve(ProfileSettings, options={"images": 50, "power": "none", "idle_s": 0.0, "warmup_batches": 1, **values})


def lines(folder):
    return [json.loads(line) for line in (folder / "batches.jsonl").read_text().splitlines()]


def codes(record):
    return [v.code for v in record.verdicts]


# --- a whole run ------------------------------------------------------------------------------------------------------------


def test_the_record_says_what_ran_and_how(path, bundle, tmp_path):
    heard = []
    record = profile(path, ORT, tmp_path / "r", settings(), say=heard.append)
    assert record == load_record(tmp_path / "r") and record.complete
    p = record.protocol
    assert (p.images, p.batch, p.batches, p.last_batch, p.warmup_batches, p.runtime, p.threads) == (50, 4, 13, 2, 1, "ort", 1)
    assert p.provider == "CPUExecutionProvider" and p.options["passes"] == 1 and p.options["images_measured"] == 50
    assert record.subject == bundle.subject(4) and record.subject.forward_batch == 8
    assert record.batch_ms.count == 13 and record.period_ms.count == 12
    assert record.images_per_s == pytest.approx(50 / record.wall_s)
    assert set(record.phases_s) == {"noise", "upload", "compute", "download", "save"}
    assert record.peak_memory_mb > 10 and record.environment.cpu_count >= 1
    assert heard[-1].done == 50 or any(e.text == "profile" and e.done == e.total == 50 for e in heard)


def test_it_is_an_artifact_that_names_the_bundle(path, bundle, tmp_path):
    profile(path, ORT, tmp_path / "r", settings())
    manifest = open_artifact(tmp_path / "r", "record").manifest
    assert [(parent.role, parent.digest) for parent in manifest.parents] == [("bundle", bundle.digest)]
    assert set(manifest.files) >= {"record.json", "batches.jsonl", "samples.png"} and manifest.spec == bundle.spec.to_dict()


def test_raw_times_add_up_to_the_record(path, tmp_path):
    record = profile(path, ORT, tmp_path / "r", settings())
    rows = lines(tmp_path / "r")
    assert [r["batch"] for r in rows] == list(range(13)) and [r["images"] for r in rows] == [4] * 12 + [2]
    for phase, total in record.phases_s.items():
        assert total == pytest.approx(sum(r[f"{phase}_ms"] for r in rows) / 1e3, rel=1e-3, abs=1e-7)
    assert record.batch_ms.median == pytest.approx(statistics.median(r["compute_ms"] for r in rows), rel=1e-4)
    ends = [r["end_ns"] for r in rows]
    assert record.period_ms.mean == pytest.approx((ends[-1] - ends[0]) / 12 / 1e6, rel=1e-6)
    assert all(r["start_ns"] < r["end_ns"] for r in rows) and ends == sorted(ends)


def test_a_time_that_is_known_is_measured(path, bundle, tmp_path):
    record = profile(path, PyRuntime(bundle, sleep_s=0.01), tmp_path / "r", settings(images=40))
    assert record.batch_ms.min >= 10 and record.phases_s["compute"] >= 0.1 and record.wall_s >= 0.1
    assert record.protocol.runtime == "py"


def test_samples_are_the_first_images_by_class(path, bundle, tmp_path):
    profile(path, ORT, tmp_path / "r", settings(samples_per_class=3))
    picture = np.asarray(Image.open(tmp_path / "r" / "samples.png"))
    first = expected(bundle, 0, [0], [0])[0]
    scale = 64 // 8
    left = picture.shape[1] - 3 * (8 * scale + 1)
    np.testing.assert_array_equal(picture[1 : 1 + 64 : scale, left : left + 64 : scale], first)


def test_in_turn_gives_the_same_images_as_overlapped(path, tmp_path):
    for name, overlap in (("a", True), ("b", False)):
        record = profile(path, ORT, tmp_path / name, settings(save=True, overlap=overlap))
        assert record.protocol.overlap is overlap
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "images.npy"), np.load(tmp_path / "b" / "images.npy"))


def test_saved_images_are_the_first_pass(path, bundle, tmp_path):
    record = profile(path, ORT, tmp_path / "r", settings(images=10, save=True, min_seconds=0.05))
    images, labels = np.load(tmp_path / "r" / "images.npy"), np.load(tmp_path / "r" / "labels.npy")
    assert record.protocol.options["passes"] > 1 and record.phases_s["save"] > 0
    np.testing.assert_array_equal(images, expected(bundle, 0, range(10), labels))


def test_min_seconds_repeats_whole_passes(path, tmp_path):
    record = profile(path, ORT, tmp_path / "r", settings(images=10, min_seconds=0.2))
    rows = lines(tmp_path / "r")
    assert record.wall_s >= 0.2 and len(rows) % 3 == 0 and [r["images"] for r in rows[:3]] == [4, 4, 2]
    assert record.protocol.images == 10 * len(rows) // 3 == sum(r["images"] for r in rows)


def test_one_batch_is_a_record(path, tmp_path):
    record = profile(path, ORT, tmp_path / "r", settings(images=3, warmup_batches=0))
    assert record.batch_ms.count == record.period_ms.count == 1 and record.batch_ms.cov_percent == 0
    assert "few-batches" in codes(record)


def test_a_bundle_with_many_classes_shows_some(tmp_path):
    path = make_bundle(tmp_path / "b", batch=64, spec=small_spec(classes=50))
    profile(path, ORT, tmp_path / "r", settings(images=500, samples_per_class=2))
    assert Image.open(BytesIO((tmp_path / "r" / "samples.png").read_bytes())).size[1] > 0


# --- again ------------------------------------------------------------------------------------------------------------------


def test_the_same_measurement_is_not_repeated_unless_asked(path, tmp_path):
    first = profile(path, ORT, tmp_path / "r", settings())
    heard = []
    assert profile(path, ORT, tmp_path / "r", settings(), say=heard.append) == first and "already" in heard[0].text
    assert profile(path, ORT, tmp_path / "r", settings(), again=True).started_utc >= first.started_utc


def test_another_measurement_is_not_lost(path, tmp_path):
    first = profile(path, ORT, tmp_path / "r", settings())
    with pytest.raises(OutputError, match="another measurement") as error:
        profile(path, ORT, tmp_path / "r", settings(seed=1), again=True)
    assert "--replace" in error.value.fix and load_record(tmp_path / "r") == first
    assert profile(path, ORT, tmp_path / "r", settings(seed=1), replace=True).protocol.seed == 1


def test_an_altered_record_is_measured_again(path, tmp_path):
    profile(path, ORT, tmp_path / "r", settings())
    (tmp_path / "r" / "record.json").write_text("{}")
    assert profile(path, ORT, tmp_path / "r", settings()).complete
    assert load_record(tmp_path / "r").complete


def test_only_a_record_is_replaced(path, tmp_path):
    with create(tmp_path / "student", "student") as draft:
        draft.write("weights", "precious")
    with pytest.raises(OutputError, match="kind 'student'"):
        profile(path, ORT, tmp_path / "student", settings())
    with pytest.raises(OutputError, match="kind 'bundle'"):
        profile(path, ORT, path, settings())
    assert (tmp_path / "student" / "weights").read_text() == "precious"


# --- cut short --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
@pytest.mark.parametrize("overlap", [True, False])
def test_a_signal_keeps_what_was_measured(path, bundle, tmp_path, number, name, overlap):
    def interrupt(call):
        if call == 8:  # one warm-up call, then the seventh batch
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    record = profile(path, PyRuntime(bundle, sleep_s=0.002, on_call=interrupt), tmp_path / "r",
                     settings(images=4000, overlap=overlap))
    assert not record.complete and record == load_record(tmp_path / "r")
    assert record.verdicts[0].code == "interrupted" and name in record.verdicts[0].text and "4,000" in record.verdicts[0].text
    assert record.batch_ms.count == len(lines(tmp_path / "r")) == 7 and record.protocol.options["images_measured"] == 28
    assert signal.getsignal(number) is before
    again = profile(path, PyRuntime(bundle), tmp_path / "r", settings(images=40))
    assert again.complete


def test_an_error_of_the_runtime_keeps_what_was_measured(path, bundle, tmp_path):
    def fail(call):
        if call == 6:
            raise EdgeditError("the device is gone", saw="error 719", fix="reboot")

    record = profile(path, PyRuntime(bundle, on_call=fail), tmp_path / "r", settings())
    assert not record.complete and record.batch_ms.count == 4 and record.protocol.last_batch == 4  # and one warm-up call
    assert (record.verdicts[0].level, record.verdicts[0].code, record.verdicts[0].fix) == ("error", "runtime-failed", "reboot")
    assert "error 719" in record.verdicts[0].text and (tmp_path / "r" / "samples.png").is_file()


def test_an_error_that_is_not_ours_keeps_it_too(path, bundle, tmp_path):
    def fail(call):
        if call == 6:
            raise MemoryError("out of device memory")

    record = profile(path, PyRuntime(bundle, on_call=fail), tmp_path / "r", settings())
    assert not record.complete and "MemoryError: out of device memory" in record.verdicts[0].text


@pytest.mark.parametrize("call", [1, 2])
def test_an_error_before_the_first_batch_is_raised_and_leaves_nothing(path, bundle, tmp_path, call):
    def fail(now):
        if now == call:
            raise EdgeditError("the device is gone")

    with pytest.raises(EdgeditError, match="the device is gone"):
        profile(path, PyRuntime(bundle, on_call=fail), tmp_path / "r", settings())
    assert not list(tmp_path.iterdir())


def test_a_signal_in_the_warm_up_says_that_nothing_was_measured(path, bundle, tmp_path):
    with pytest.raises(Interrupted, match="before the first batch"):
        profile(path, PyRuntime(bundle, on_call=lambda call: os.kill(os.getpid(), signal.SIGTERM)), tmp_path / "r",
                settings(warmup_batches=3))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_gives_the_images_up_and_keeps_the_times(path, tmp_path):
    """A real refusal by the kernel (files of at most 256 KB), in a process of its own."""
    code = ("import resource, sys\nfrom edgedit.device.measure import ProfileSettings\n"
            "from edgedit.device.profile import profile\n"
            "from edgedit.device.runtime import RuntimeChoice\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))\n"
            "profile(sys.argv[1], RuntimeChoice(threads=1), sys.argv[2],\n"
            "        ProfileSettings(images=3000, save=True, power='none', idle_s=0, warmup_batches=0))\n")
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "r")], check=True, timeout=60,
                   env=os.environ | {"PYTHONPATH": str(ROOT)})
    record = load_record(tmp_path / "r")
    assert not record.complete and record.verdicts[0].code == "output-failed" and "File too large" in record.verdicts[0].text
    assert 1000 < record.protocol.options["images_measured"] < 1365 and not (tmp_path / "r" / "images.npy").exists()
    assert len(lines(tmp_path / "r")) == record.batch_ms.count
    open_artifact(tmp_path / "r", "record")


def test_killed_outright_leaves_no_record_but_the_raw_times(path, tmp_path):
    code = ("import os, sys\nsys.path[:0] = sys.argv[3:]\nfrom bundle_kit import PyRuntime\n"
            "from edgedit.device.bundle import Bundle\n"
            "from edgedit.device.measure import ProfileSettings\nfrom edgedit.device.profile import profile\n"
            "kill = lambda call: os.kill(os.getpid(), 9) if call == 20 else None\n"
            "profile(sys.argv[1], PyRuntime(Bundle.open(sys.argv[1]), sleep_s=0.003, on_call=kill), sys.argv[2],\n"
            "        ProfileSettings(images=400, power='none', idle_s=0, warmup_batches=0))\n")
    places = [path, tmp_path / "r", ROOT, ROOT / "tests" / "device"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, places)], timeout=60)
    assert done.returncode == -9 and not (tmp_path / "r").exists()
    (part,) = tmp_path.glob(".r.*.part")
    assert 15 <= len(lines(part)) <= 19


def test_bad_settings_and_outputs(path, tmp_path):
    for options, says in (({"images": 0}, "images"), ({"batch": 0}, "batch"), ({"power_interval_s": 0}, "power_interval_s")):
        with pytest.raises(UsageError, match=says):
            settings(**options)
    with pytest.raises(UsageError, match="batch 4 only"):
        profile(path, ORT, tmp_path / "r", settings(batch=128))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        profile(path, ORT, tmp_path / "file", settings())
    with pytest.raises(MissingError):
        profile(path, ORT, tmp_path / "r", settings(power="ina3221"), root=tmp_path)
    assert not (tmp_path / "r").exists()


# --- power ------------------------------------------------------------------------------------------------------------------


class Meter:
    """5 W at all times, told through the interface that `profile` uses."""

    def __init__(self, **options):
        self.options, self.calls = options, []

    def idle(self, seconds, *, say=None):
        self.calls.append(("idle", seconds))

    def window(self, t0_ns, t1_ns, images):
        self.calls.append(("window", t0_ns, t1_ns, images))
        seconds = (t1_ns - t0_ns) / 1e9
        rail = PowerRail(name="VDD_IN", mean_mw=5000, max_mw=5000, energy_mj=5000 * seconds)
        return Power(source="fake", boundary="all", rails=[rail], total_rail="VDD_IN", window_s=seconds, samples=9, rate_hz=10,
                     largest_gap_s=0.1, idle_mw=None, idle_window_s=None, energy_total_mj=5000 * seconds, energy_net_mj=None,
                     mj_per_image=5000 * seconds / images, net_mj_per_image=None)

    def others(self, t0_ns, t1_ns, images):
        return []

    def gpu_mhz(self, t0_ns, t1_ns):
        return 612.0

    def verdicts(self):
        return [Verdict(level="note", code="fake-power", text="made up")]


def test_power_is_taken_over_the_run_window_after_idle(path, bundle, tmp_path):
    meter = Meter()

    @contextlib.contextmanager
    def power(choice, **options):
        meter.options = {"choice": choice, **options}
        yield meter

    runtime = PyRuntime(bundle, sleep_s=0.002, on_call=lambda call: meter.calls.append(("infer", time.monotonic_ns())))
    record = profile(path, runtime, tmp_path / "r", settings(power="auto", idle_s=3.0, power_interval_s=0.05), power=power,
                     root=tmp_path)
    kinds = [call[0] for call in meter.calls]
    assert kinds[0] == "idle" and meter.calls[0][1] == 3.0 and kinds.count("infer") == 14 and kinds[-1] == "window"
    _, t0, t1, images = meter.calls[-1]
    warmed, *timed = [call[1] for call in meter.calls if call[0] == "infer"]
    assert warmed < t0 < min(timed) and max(timed) < t1 and images == 50
    assert record.wall_s == pytest.approx((t1 - t0) / 1e9)
    assert record.power.mj_per_image == pytest.approx(5000 * record.wall_s / 50)
    assert (meter.options["interval_s"], meter.options["root"], meter.options["compute"]) == (0.05, tmp_path, "cpu")
    assert "fake-power" in codes(record) and record.protocol.options["gpu_mhz_mean"] == 612.0


# --- statistics -------------------------------------------------------------------------------------------------------------


def test_percentiles_leave_out_the_slowest_share():
    found = timing.distribution([float(v) for v in range(100, 0, -1)])
    assert (found.min, found.max, found.mean, found.median, found.p90, found.p95, found.p99) == (1, 100, 50.5, 50.5, 90, 95, 99)
    assert timing.distribution([1.0, 2.0, 3.0, 4.0]).median == 2.5


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=300))
def test_statistics_against_numpy(values):
    found = timing.distribution(values)
    assert found.count == len(values) and found.mean == pytest.approx(np.mean(values))
    assert found.median == pytest.approx(np.median(values))
    assert found.cov_percent == pytest.approx(100 * np.std(values) / np.mean(values), abs=1e-6)
    for p, value in ((90, found.p90), (95, found.p95), (99, found.p99)):
        assert value in values and sum(v > value for v in values) <= math.floor((100 - p) / 100 * len(values) + 1e-6)
    assert found.min <= found.median <= found.p90 <= found.p95 <= found.p99 <= found.max


def verdict_codes(times, jetson=False):
    return {v.code: v for v in timing.steadiness(times, jetson)}


def test_steadiness_verdicts():
    steady = [10.0, 10.1] * 20
    assert set(verdict_codes(steady)) == {"stable"}
    shaky = [10.0, 11.0] * 20
    found = verdict_codes(shaky, jetson=True)["unstable"]
    assert found.text == "unstable: CoV 4.8 % > 2.5 %" and found.fix == "run `sudo jetson_clocks`"
    assert "jetson" not in verdict_codes(shaky)["unstable"].fix
    slowing = [10.0] * 30 + [10.6] * 10
    assert "+6.0 %" in verdict_codes(slowing)["slowed"].text and "slowed" not in verdict_codes(slowing[::-1])
    assert set(verdict_codes([10.0] * 3)) == {"few-batches"}


def test_bottleneck_verdicts():
    phases = {"noise": 1.0, "upload": 0.1, "compute": 5.0, "download": 0.1, "save": 0.2}
    assert timing.bottleneck(phases, 0.1, 5.5) == []
    assert [v.code for v in timing.bottleneck(phases, 1.0, 5.5)] == ["input-bound"]
    both = timing.bottleneck({**phases, "upload": 5.0, "save": 6.0}, 0.0, 9.0)
    assert [v.code for v in both] == ["upload-bound", "save-bound"]


def test_peak_memory_starts_afresh():
    if not timing.reset_peak_memory():
        pytest.skip("this kernel does not let a process reset its peak")
    before = timing.peak_memory_mb()
    block = np.ones(40_000_000, np.uint8)
    grown = timing.peak_memory_mb()
    del block
    assert grown - before > 30
    timing.reset_peak_memory()
    assert timing.peak_memory_mb() < grown - 20
