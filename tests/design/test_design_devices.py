"""Devices: known ones, files of the user's, and what is missing in them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from edgedit.core.errors import UsageError
from edgedit.core.spec import DiTSpec
from edgedit.design.devices import Device, find_device, known_devices
from edgedit.design.predict import predict

FIGURES = ("fp16_tflops", "int8_tops", "fp32_tflops", "dram_gb_s", "exponentials_g", "l2_mb", "sm_count", "gpu_mhz", "emc_mhz",
           "launch_us", "memory_mb")
CPU = 'kind = "cpu"\nfp32_tflops = 0.15\ndram_gb_s = 30\nexponentials_g = 4\n'


@pytest.mark.parametrize("name", ["orin-nano", "orin-nano-super", "h200"])
def test_every_figure_has_a_tagged_source(name):
    device = known_devices()[name]
    for figure in FIGURES:
        if getattr(device, figure) is not None:
            assert device.sources[figure].split(":")[0].split(";")[0] in ("documented", "reported", "recalled", "estimate"), figure
    assert all(mode.source for mode in device.modes)
    assert {f.name for f in fields(Device)} >= set(device.sources)


def test_the_boards_figures_are_nvidias():
    plain, fast = find_device("orin-nano"), find_device("orin-nano-super")
    assert (plain.fp16_tflops, plain.int8_tops, plain.dram_gb_s) == (10, 20, 68)
    assert (fast.fp16_tflops, fast.int8_tops, fast.dram_gb_s) == (17, 33, 102)


def test_a_mode_scales_what_its_clocks_scale():
    slow = find_device("orin-nano-super").at("15w")
    assert slow.mode == "15W" and slow.dram_gb_s == pytest.approx(68, abs=0.1) and slow.fp16_tflops == pytest.approx(10.2)
    assert find_device("orin-nano-super").at().mode == "MAXN_SUPER"


def test_a_mode_whose_clocks_nobody_knows_predicts_nothing():
    with pytest.raises(UsageError, match="orin-nano in mode 7W' has no dram_gb_s") as caught:
        predict(DiTSpec(5, 64, 8), "orin-nano", mode="7W")
    assert "--mode 15W; --device FILE.toml" in caught.value.fix and "add" not in caught.value.fix


def test_every_missing_figure_is_named_at_once(tmp_path):
    file = tmp_path / "box.toml"
    for text, names in (("", ("fp16_tflops", "dram_gb_s")), ('kind = "cpu"\n', ("fp32_tflops", "dram_gb_s", "exponentials_g"))):
        file.write_text(text)
        with pytest.raises(UsageError) as caught:
            find_device(file)
        assert all(f"no {name}" in str(caught.value) and f"`{name} = …`" in caught.value.fix for name in names)
        assert str(file) in caught.value.fix
    with pytest.raises(UsageError) as caught:
        predict(DiTSpec(5, 64, 8), Device("mine", fp32_tflops=1.0), precision="int8")
    assert all(f"no {name}" in str(caught.value) for name in ("int8_tops", "fp16_tflops", "dram_gb_s"))


def test_a_clock_that_a_mode_leaves_out_is_what_the_fix_asks_for(tmp_path):
    file = tmp_path / "box.toml"
    file.write_text('fp16_tflops = 5\ndram_gb_s = 50\nemc_mhz = 2133\n[[modes]]\nname = "slow"\n')
    with pytest.raises(UsageError, match="in mode slow' has no dram_gb_s") as caught:
        predict(DiTSpec(5, 64, 8), file, mode="slow")
    assert "`emc_mhz = …` of both the device and the mode" in caught.value.fix and "gpu_mhz" not in caught.value.fix
    with pytest.raises(UsageError) as caught:
        predict(DiTSpec(5, 64, 8), file, mode="slow", precision="fp32")
    assert "add `fp32_tflops = …` to" in caught.value.fix and "for dram_gb_s in mode 'slow'" in caught.value.fix


def test_the_only_mode_is_taken_and_several_ask_for_a_name(tmp_path):
    file, mode = tmp_path / "box.toml", '[[modes]]\nname = "{}"\nload_w = [1, 2]\n'
    file.write_text("fp16_tflops = 5\ndram_gb_s = 50\n" + mode.format("quiet"))
    p = predict(DiTSpec(5, 64, 8), file)
    assert p.mode == "quiet" and p.energy_j and "names no source" in p.power_source and not any("--mode" in note for note in p.notes)
    file.write_text("fp16_tflops = 5\ndram_gb_s = 50\n" + mode.format("quiet") + mode.format("loud"))
    p = predict(DiTSpec(5, 64, 8), file)
    assert p.mode == "" and not p.energy_j and any("(quiet, loud)" in n and "name a mode with --mode" in n for n in p.notes)
    file.write_text("fp16_tflops = 5\ndram_gb_s = 50\ngpu_mhz = 600\n" + mode.format("quiet"))  # its clock and so its rates are unknown
    p = predict(DiTSpec(5, 64, 8), file)
    assert p.mode == "" and p.seconds["floor"] > 0 and any("mode quiet leaves out gpu_mhz" in n for n in p.notes)


def test_no_such_mode_or_device():
    with pytest.raises(UsageError, match="did you mean '25W'"):
        find_device("orin-nano-super").at("25")
    with pytest.raises(UsageError, match="did you mean 'orin-nano'"):
        find_device("orin-nan")
    with pytest.raises(UsageError, match=r"box\.toml is not there"):
        find_device("box.toml")


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "box.toml"
    file.write_text(CPU)
    device = find_device(file)
    assert (device.name, device.kind, device.need("dram_gb_s")) == ("box", "cpu", 30.0)
    file.write_text('[named]\nfp16_tflops = 5\ndram_gb_s = 50\n[[named.modes]]\nname = "quiet"\nload_w = [1, 2]\n')
    assert find_device(file).name == "named" and find_device(file).modes[0].load_w == (1.0, 2.0)


def test_a_mode_of_a_file_without_clocks_is_about_power_alone(tmp_path):
    file = tmp_path / "box.toml"
    file.write_text('fp16_tflops = 5\ndram_gb_s = 50\n[[modes]]\nname = "quiet"\nload_w = [1, 2]\n')
    p = predict(DiTSpec(5, 64, 8), file, mode="quiet")
    assert p.seconds == predict(DiTSpec(5, 64, 8), file).seconds
    assert p.energy_j["floor"] == (p.seconds["floor"], 2 * p.seconds["floor"])


def test_the_example_of_the_docs_is_a_device(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "design.md").read_text()
    (tmp_path / "board.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    assert predict(DiTSpec(5, 64, 8), tmp_path / "board.toml").energy_j


@pytest.mark.parametrize(("text", "words"), [
    ("fp16_tflops = 5\n", "has no dram_gb_s, which is needed for predicting anything"),
    ("dram_gb_s = 5\n", "has no fp16_tflops, which is needed"), ('kind = "cpu"\ndram_gb_s = 5\n', "has no fp32_tflops"),
    ("dram_gb_s = -5\n", "dram_gb_s must be a positive number"), ('dram_gb_s = "fast"\n', "must be a positive number"),
    ("dram_gb_s = inf\n", "must be a positive number"), ("dram_gbs = 5\n", "did you mean 'dram_gb_s'"),
    ("dram_gb_s = \n", "cannot be read as TOML"), ('kind = "tpu"\ndram_gb_s = 5\n', "kind must be gpu or cpu"),
    ('fp16_tflops = 5\ndram_gb_s = 5\n[[modes]]\nname = "x"\nload_w = [5, 2]\n', "load_w of mode x"),
    ('fp16_tflops = 5\ndram_gb_s = 5\ndefault_mode = "x"\n', "no power mode 'x'"),
    ("fp16_tflops = 5\ndram_gb_s = 5\n[[modes]]\ngpu_mhz = 3\n", "needs a name"),
    ('fp16_tflops = 5\ndram_gb_s = 5\n[[modes]]\nname = "x"\nwatts = 3\n', "no figure 'watts'")])
def test_what_is_wrong_with_a_file_is_named(tmp_path, text, words):
    file = tmp_path / "box.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words.replace("[", r"\[")):
        find_device(file)


@pytest.mark.parametrize(("precision", "words"), [("fp32", "fp32_tflops"), ("int8", "int8_tops")])
def test_a_missing_rate_is_named_when_it_is_needed(tmp_path, precision, words):
    file = tmp_path / "box.toml"
    file.write_text("fp16_tflops = 5\ndram_gb_s = 50\n")
    assert predict(DiTSpec(5, 64, 8), file).seconds["floor"] > 0
    with pytest.raises(UsageError, match=f"has no {words}, which is needed for predicting {precision.upper()}"):
        predict(DiTSpec(5, 64, 8), file, precision=precision)


def test_a_cpu_needs_exponentials_and_runs_fp32(tmp_path):
    file = tmp_path / "box.toml"
    file.write_text(CPU.replace("exponentials_g = 4\n", ""))
    with pytest.raises(UsageError, match="has no exponentials_g"):
        predict(DiTSpec(5, 64, 8), file)
    file.write_text(CPU)
    with pytest.raises(UsageError, match="predicted in FP32"):
        predict(DiTSpec(5, 64, 8), file, precision="fp16")
