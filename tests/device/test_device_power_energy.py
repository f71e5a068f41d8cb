"""Energy out of samples, against integrals that are known exactly."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.device.energy import Idle, difference, integrate, power_over_window, rail_integral
from edgedit.device.power_source import PowerSample, Total, jetson_total

S = 1_000_000_000
series = st.lists(st.tuples(st.integers(1, 2 * S), st.floats(-1e4, 1e5)), min_size=2, max_size=30).map(
    lambda steps: [(sum(dt for dt, _ in steps[:i + 1]), mw) for i, (_, mw) in enumerate(steps)])


def exact(points: list[tuple[int, float]], t0: int, t1: int) -> float:
    """Integral of the curve through `points` by its antiderivative, piece by piece (mJ)."""
    total = 0.0
    for (a, pa), (b, pb) in pairwise(points):
        low, high = max(a, t0), min(b, t1)
        if low < high:
            slope = (pb - pa) / (b - a)
            total += (pa * (high - low) + slope * ((high - a) ** 2 - (low - a) ** 2) / 2) / S
    return total


@given(series, st.data())
def test_integrate_is_exact_for_a_piecewise_linear_curve(points: list[tuple[int, float]], data: st.DataObject) -> None:
    first, last = points[0][0], points[-1][0]
    t0 = data.draw(st.integers(first, last - 1))
    t1 = data.draw(st.integers(t0 + 1, last))
    found = integrate(points, t0, t1)
    assert found is not None and found.covered_s == pytest.approx((t1 - t0) / S)
    assert found.energy_mj == pytest.approx(exact(points, t0, t1), rel=1e-6, abs=1e-2)
    assert min(p for _, p in points) - 1e-6 <= found.mean_mw <= found.max_mw + 1e-6


@given(series, st.data())
def test_windows_add_up(points: list[tuple[int, float]], data: st.DataObject) -> None:
    first, last = points[0][0], points[-1][0]
    if last - first < 2:
        return
    middle = data.draw(st.integers(first + 1, last - 1))
    whole, left, right = (integrate(points, a, b) for a, b in ((first, last), (first, middle), (middle, last)))
    assert whole and left and right
    assert left.energy_mj + right.energy_mj == pytest.approx(whole.energy_mj, rel=1e-6, abs=1e-2)


def test_nothing_is_extrapolated() -> None:
    points = [(2 * S, 1000.0), (4 * S, 1000.0)]
    half = integrate(points, 0, 4 * S)
    assert half is not None and half.covered_s == 2 and half.energy_mj == 2000 and half.largest_gap_s == 2
    assert integrate(points, 5 * S, 6 * S) is None and integrate(points[:1], 0, S) is None and integrate([], 0, S) is None


def test_density() -> None:
    points = [(t * S // 10, 5.0) for t in (*range(11), *range(15, 31))]  # 10 Hz with a hole from 1.0 to 1.5 s
    found = integrate(points, S // 20, 3 * S - S // 20)
    assert found is not None and found.samples == 25 and found.largest_gap_s == 0.5
    assert found.rate_hz == pytest.approx(24 / 2.8)


def test_a_counter_is_read_at_the_edges() -> None:
    counter = [(0, 100.0), (S, 1100.0), (2 * S, 4100.0)]
    found = difference(counter, [(S, 1000.0), (2 * S, 3000.0)], S // 2, 2 * S)
    assert found is not None and found.energy_mj == 500 + 3000 and found.max_mw == 3000


@given(st.lists(st.floats(0, 1e5), min_size=2, max_size=20))
def test_a_sum_of_rails_integrates_like_its_parts(values: list[float]) -> None:
    samples = [PowerSample(i * S, {"A": v, "B": 2 * v}) for i, v in enumerate(values)]
    end = (len(values) - 1) * S
    a, both = rail_integral(samples, ("A",), 0, end), rail_integral(samples, ("A", "B"), 0, end)
    assert a and both and both.energy_mj == pytest.approx(3 * a.energy_mj)


def test_total_rules() -> None:
    def name(*rails: str) -> str:
        total = jetson_total(rails)
        return total.name if total else ""

    assert name("VDD_SOC", "VDD_IN", "VDD_CPU_GPU_CV") == "VDD_IN"
    assert name("POM_5V_GPU", "POM_5V_IN") == "POM_5V_IN"
    assert name("VDD_GPU", "VIN_SYS_5V0", "VIN") == "VIN"
    assert name("VIN_SYS_5V0", "VDD_CPU_CV", "VDD_GPU_SOC") == "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
    assert name("VIN_SYS_5V0", "VDD_CPU_CV", "VDD_GPU_SOC", "VDDQ_VDD2_1V8AO").endswith("VIN_SYS_5V0+VDDQ_VDD2_1V8AO")
    assert name("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V") == "GPU+CPU+SOC+CV+VDDRQ+SYS5V"
    odd = jetson_total(["B", "A"])
    assert odd is not None and odd.parts == ("A", "B") and not odd.known
    assert jetson_total([]) is None


class Source:
    """A source that only has a name, an interval and the Jetson rule."""

    name, interval_s = "ina3221", 0.1

    def total(self, rails: Collection[str]) -> Total | None:
        return jetson_total(rails)

    def start(self, sink: object) -> None: ...
    def stop(self) -> None: ...
    def alive(self) -> bool:
        return False

    def verdicts(self) -> list:  # type: ignore[type-arg]
        return []


def samples(start: int, end: int, mw: float = 8000.0, **more: float) -> list[PowerSample]:
    return [PowerSample(t * S // 10, {"VDD_IN": mw, "VDD_SOC": mw / 4, **more}) for t in range(start * 10, end * 10 + 1)]


def test_figures_of_a_window_total_and_net() -> None:
    power, verdicts = power_over_window(Source(), samples(0, 100), 10 * S, 90 * S, 1000, Idle(3000, 10, 1))
    assert power is not None and not verdicts
    assert (power.total_rail, power.window_s, power.samples) == ("VDD_IN", 80, 801) and power.rate_hz == pytest.approx(10)
    assert power.energy_total_mj == pytest.approx(640_000) and power.energy_net_mj == pytest.approx(400_000)
    assert power.mj_per_image == pytest.approx(640) and power.net_mj_per_image == pytest.approx(400)
    assert {r.name: r.energy_mj for r in power.rails}["VDD_SOC"] == pytest.approx(160_000)
    assert "carrier board" in power.boundary


def test_without_idle_there_is_no_net() -> None:
    power, _ = power_over_window(Source(), samples(0, 100), 10 * S, 90 * S, 1000, None)
    assert power is not None and power.energy_net_mj is None and power.net_mj_per_image is None and power.idle_mw is None


def test_a_source_that_died_half_way_keeps_its_part_and_says_so() -> None:
    power, verdicts = power_over_window(Source(), samples(0, 50), 10 * S, 90 * S, 1000, None)
    assert power is not None and power.window_s == 40 and power.energy_total_mj == pytest.approx(320_000)
    assert power.mj_per_image == pytest.approx(640)  # by mean power, not 320
    assert [v.code for v in verdicts] == ["ina3221-partial"] and "50 %" in verdicts[0].text


@pytest.mark.parametrize(("made", "window", "idle", "code"), [
    (samples(0, 40) + samples(50, 100), (10, 90), None, "ina3221-gap"),
    (samples(0, 100)[::4], (10, 90), None, "ina3221-slow"),
    (samples(0, 100), (10, 20), None, "power-short-window"),
    (samples(0, 100), (10, 90), Idle(9000, 10, 0), "ina3221-below-idle"),
    ([PowerSample(t * S // 10, {"X": 1.0}) for t in range(1001)], (10, 90), None, "ina3221-unknown-rails"),
    ([], (10, 90), None, "ina3221-no-energy"),
    (samples(0, 5), (10, 90), None, "ina3221-no-energy")])
def test_verdicts(made: list[PowerSample], window: tuple[int, int], idle: Idle | None, code: str) -> None:
    _, verdicts = power_over_window(Source(), made, window[0] * S, window[1] * S, 10, idle)
    assert [v.code for v in verdicts] == [code]


def test_summed_total_is_listed_among_the_rails() -> None:
    made = [PowerSample(t * S // 10, {"VDD_GPU_SOC": 1.0, "VDD_CPU_CV": 2.0, "VIN_SYS_5V0": 4.0}) for t in range(1001)]
    power, _ = power_over_window(Source(), made, 10 * S, 90 * S, 1, None)
    assert power is not None and power.energy_total_mj == pytest.approx(7 * 80)
    assert next(r for r in power.rails if r.name == power.total_rail).mean_mw == pytest.approx(7)
