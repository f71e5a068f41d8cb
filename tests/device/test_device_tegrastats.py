"""The tegrastats parser against the documented grammar, release by release, and against anything at all."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.device.tegrastats import Load, Memory, Rail, parse_line
from tests.fake_jetson import SHARES, STYLES, line, rail_names

JP4 = ("RAM 1234/3964MB (lfb 210x4MB) SWAP 17/1982MB (cached 3MB) IRAM 0/252kB(lfb 252kB) CPU [31%@921,28%@921,off,off] "
       "EMC_FREQ 12%@1600 GR3D_FREQ 55%@614 APE 25 PLL@41.5C CPU@43C PMIC@100C GPU@43.75C AO@52C thermal@42.75C "
       "POM_5V_IN 4321/3987 POM_5V_GPU 1010/862 POM_5V_CPU 905/777")
JP5 = ("02-03-2031 04:05:06 RAM 2222/7400MB (lfb 12x4MB) SWAP 11/3700MB (cached 2MB) CPU [21%@1113,19%@1113,5%@1113,off] "
       "EMC_FREQ 7%@2133 GR3D_FREQ 44%@510 GR3D2_FREQ 0%@0 VIC_FREQ 115 APE 174 CV0@-256C CPU@47.25C SOC2@45.5C tj@47.25C "
       "VDD_IN 6123mW/5901mW VDD_CPU_GPU_CV 1504mW/1310mW VDD_SOC 1711mW/1666mW")
JP6 = ("02-03-2031 04:05:07 RAM 2345/7600MB (lfb 20x2MB) CPU [3%@1510,0%@1510,off,1%@1510] EMC_FREQ 21%@3199 "
       "GR3D_FREQ 87%@[918] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@51.5C gpu@53.125C tj@53.125C "
       "VDD_IN 11234mW/9876mW VDD_CPU_GPU_CV 4567mW/3456mW VDD_SOC 3210mW/2987mW")
JP7 = ("02-03-2031 04:05:08 RAM 3456/7550MB (lfb 3x2MB) SWAP 100/2048MB (cached 7MB) CPU [11%@1344,9%@1344,off,off] "
       "GR3D_FREQ 61% cpu@48.75C/49.25C gpu@49.5C/50.125C VDD_IN 8123mW/7654mW/9321mW VDD_CPU_GPU_CV 3011mW/2744mW/3502mW "
       "VDD_SOC 1900mW/1822mW/2013mW")


def test_jetpack4_line() -> None:
    s = parse_line(JP4)
    assert s is not None and s.skipped == () and s.stamp is None
    assert s.ram == Memory(1234, 3964, 210, 4) and s.swap == Memory(17, 1982, cached_mb=3)
    assert s.iram == Memory(0, 252 / 1024, 1, 252 / 1024)
    assert s.cpu == (Load(31, (921,)), Load(28, (921,)), None, None)
    assert s.emc == Load(12, (1600,)) and s.gpu == {"GR3D": Load(55, (614,))} and s.engines == {"APE": Load(None, (25,))}
    assert s.temperature_c["thermal"] == 42.75 and s.temperature_c["PMIC"] is None  # a dummy
    assert s.rails == {"POM_5V_IN": Rail(4321, 3987), "POM_5V_GPU": Rail(1010, 862), "POM_5V_CPU": Rail(905, 777)}


def test_jetpack5_line_with_a_sensor_that_is_off() -> None:
    s = parse_line(JP5)
    assert s is not None and s.skipped == () and s.stamp == "02-03-2031 04:05:06"
    assert s.temperature_c == {"CV0": None, "CPU": 47.25, "SOC2": 45.5, "tj": 47.25}
    assert s.gpu == {"GR3D": Load(44, (510,)), "GR3D2": Load(0, (0,))} and s.engines["VIC"] == Load(None, (115,))
    assert s.rails["VDD_IN"] == Rail(6123, 5901) and set(s.rails) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}


def test_jetpack6_line_with_clocks_in_brackets_and_without_swap() -> None:
    s = parse_line(JP6)
    assert s is not None and s.skipped == () and s.swap is None
    assert s.gpu == {"GR3D": Load(87, (918,))} and s.emc == Load(21, (3199,))
    assert s.engines["NVDEC"] is None and s.engines["APE"] == Load(None, (200,)) and len(s.engines) == 6
    assert s.rails["VDD_SOC"] == Rail(3210, 2987)


def test_jetpack72_line_with_three_numbers() -> None:
    s = parse_line(JP7)
    assert s is not None and s.skipped == () and s.emc is None and s.gpu == {"GR3D": Load(61, ())}
    assert s.rails["VDD_IN"] == Rail(8123, 7654, 9321)
    assert s.temperature_c["gpu"] == 49.5 and s.temperature_max_c["gpu"] == 50.125


@pytest.mark.parametrize(("text", "rails"), [
    ("VIN -12mW/34mW VDD_GPU 0mW/0mW", {"VIN": Rail(-12, 34), "VDD_GPU": Rail(0, 0)}),
    ("GPU 100mW/90mW CPU 200mW/180mW SOC 1mW/1mW CV 0mW/0mW VDDRQ 5mW/5mW SYS5V 9mW/8mW",
     {"GPU": Rail(100, 90), "CPU": Rail(200, 180), "SOC": Rail(1, 1), "CV": Rail(0, 0), "VDDRQ": Rail(5, 5),
      "SYS5V": Rail(9, 8)}),
    ("VDD_IN 1/2 NC 0mW/0mW NC 3/4", {"VDD_IN": Rail(1, 2)}),
    ("RAM 1/2MB RAM 3mW/4mW SWAP 5/6 IRAM 1/2 VDD_IN 7mW/8", {}),       # units must agree; memory is never a rail
    ("RAM 1/2MB FUTURE_THING 12/34 VDD_IN 7mW/8mW/9", {}),              # half of a three-number rail is no rail
    ("RAM 1/2MB NEW_RAIL 12mW/34mW", {"NEW_RAIL": Rail(12, 34)}),
])
def test_rails(text: str, rails: dict[str, Rail]) -> None:
    s = parse_line(text)
    assert s is not None and s.rails == rails


@pytest.mark.parametrize(("text", "load"), [
    ("12%", Load(12)), ("12%@99", Load(12, (99,))), ("12%@[99]", Load(12, (99,))), ("12%@[99,98]", Load(12, (99, 98))),
    ("@[1,2,3]", Load(None, (1, 2, 3))), ("@99", Load(None, (99,)))])
def test_gpu_load_forms(text: str, load: Load) -> None:
    s = parse_line(f"GR3D_FREQ {text} EMC_FREQ {text}")
    assert s is not None and s.gpu == {"GR3D": load} and s.emc == load


@pytest.mark.parametrize("text", ["", "   ", "\n", "tegrastats: command not found", "02-03-2031 04:05:06", "RAM", "VDD_IN 61",
                                  "VDD_IN 6123mW/", "CPU [", "GR3D_FREQ", "NVRM \x00\x1b[0m", "@C", "٣@٤C"])
def test_rubbish_is_none(text: str) -> None:
    assert parse_line(text) is None


def test_missing_fields_are_unknown_and_unknown_ones_are_kept_aside() -> None:
    s = parse_line("RAM 10/20MB HELLO 7 (x) cpu@40C")
    assert s is not None and s.skipped == ("HELLO", "7", "(x)")
    assert (s.swap, s.iram, s.cpu, s.emc, s.gpu, s.engines, s.rails) == (None, None, None, None, {}, {}, {})


damaged = st.tuples(st.sampled_from([JP4, JP5, JP6, JP7]), st.integers(0, 400)).map(lambda d: d[0][:d[1]] + d[0][d[1] + 1:])


@given(st.one_of(st.text(), st.text(alphabet="RAMCPUVDIN_SOGk 0123456789@%/[](),-.mWBC"), damaged))
def test_no_text_raises_and_memory_is_never_a_rail(text: str) -> None:
    s = parse_line(text)
    if s is not None:
        assert not {"RAM", "SWAP", "IRAM", "NC"} & s.rails.keys()
        assert all(-10**9 < r.now_mw < 10**9 for r in s.rails.values())


@given(st.sampled_from([JP4, JP5, JP6, JP7]), st.integers(0, 400))
def test_a_line_cut_short_gives_only_what_it_still_says(text: str, cut: int) -> None:
    """No first number of a rail of the cut line differs from the whole line's."""
    whole, part = parse_line(text), parse_line(text[:cut])
    assert whole is not None
    for name, rail in (part.rails if part else {}).items():
        assert rail.now_mw == whole.rails[name].now_mw


@given(st.sampled_from(STYLES), st.floats(0, 60_000), st.floats(0, 60_000), st.floats(0, 60_000))
def test_the_double_speaks_the_grammar(style: str, now: float, mean: float, peak: float) -> None:
    s = parse_line(line(style, now, mean, peak))
    assert s is not None and s.skipped == ()
    assert [s.rails[n].now_mw for n in rail_names(style)] == [round(now * share) for share in SHARES]


# --- lines made from the grammar, read back -----------------------------------------------------------------------------------

mhz = st.integers(0, 4000)
percent = st.integers(0, 100)
eighths = st.integers(-400, 1000).map(lambda n: n / 8)
word = st.text(alphabet=string.ascii_uppercase, min_size=1, max_size=6)


@st.composite
def fields(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A line in random spelling, and what it must be read as."""
    parts: list[str] = []
    want: dict[str, object] = {"rails": {}, "temperature_c": {}, "gpu": {}, "engines": {}}
    if draw(st.booleans()):
        want["stamp"] = "11-21-2026 10:11:12"
        parts.append("11-21-2026 10:11:12")
    used, total, blocks, size = (draw(st.integers(0, 99999)) for _ in range(4))
    unit, scale = draw(st.sampled_from([("MB", 1), ("kB", 1024)]))
    want["ram"] = Memory(used / scale, total / scale, blocks, size)
    parts.append(f"RAM {used}/{total}{unit} (lfb {blocks}x{size}MB)")
    if draw(st.booleans()):
        cores = draw(st.lists(st.one_of(st.none(), st.tuples(percent, mhz)), min_size=1, max_size=12))
        want["cpu"] = tuple(None if c is None else Load(c[0], (c[1],)) for c in cores)
        parts.append("CPU [" + ",".join("off" if c is None else f"{c[0]}%@{c[1]}" for c in cores) + "]")
    if draw(st.booleans()):
        load, clocks = draw(percent), draw(st.lists(mhz, max_size=3))
        want["gpu"] = {"GR3D": Load(load, tuple(clocks))}
        parts.append(f"GR3D_FREQ {load}%" + (f"@[{','.join(map(str, clocks))}]" if clocks else ""))
    for name in draw(st.lists(st.sampled_from(["NVDEC", "NVJPG1", "VIC", "OFA", "NVENC0"]), unique=True)):
        f = draw(st.one_of(st.none(), mhz))
        want["engines"][name] = None if f is None else Load(None, (f,))                # type: ignore[index]
        spellings = [f"{name} {f}", f"{name}_FREQ {f}", f"{name}_FREQ @{f}"]
        parts.append(f"{name} off" if f is None else draw(st.sampled_from(spellings)))
    for name in draw(st.lists(st.sampled_from(["cpu", "GPU", "soc012", "tj", "Tboard"]), unique=True)):
        value = draw(st.one_of(st.none(), eighths))
        want["temperature_c"][name] = value                                           # type: ignore[index]
        highest = "" if value is None else draw(st.sampled_from(["", f"/{value + 1:g}C"]))
        parts.append(f"{name}@-256C" if value is None else f"{name}@{value:g}C{highest}")
    form = draw(st.sampled_from(["bare", "mW", "three"]))
    for name in draw(st.lists(word.map("VDD_".__add__), unique=True, max_size=5)):
        now, mean, peak = draw(st.tuples(*[st.integers(-9999, 99999)] * 3))
        want["rails"][name] = Rail(now, mean, peak if form == "three" else None)      # type: ignore[index]
        third = f"/{peak}mW" if form == "three" else ""
        parts.append(f"{name} {now}/{mean}" if form == "bare" else f"{name} {now}mW/{mean}mW{third}")
    if draw(st.booleans()):
        parts.insert(draw(st.integers(1, len(parts))), "XYZZY 1/2")                    # an unknown field, anywhere
    return " ".join(parts), want


@given(fields())
def test_generated_lines_are_read_back(made: tuple[str, dict[str, object]]) -> None:
    text, want = made
    s = parse_line(text)
    assert s is not None
    for key, value in want.items():
        assert getattr(s, key) == value, text
