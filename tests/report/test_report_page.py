"""The whole page: what it says, what it must not contain, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgedit.core import artifact
from edgedit.core.errors import ArtifactError, EdgeditError, OutputError, UsageError
from edgedit.core.record import Power, Verdict, load_record
from edgedit.core.spec import DiTSpec
from edgedit.report import words
from edgedit.report.page import ReportResult, ReportSettings, write_report

Make = Callable[..., Path]
VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = '</style></title>"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'


class Page(HTMLParser):
    """Text, tags and attributes of a page; `unbalanced` lists tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.unbalanced: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        self.unbalanced += self.stack
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.unbalanced.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack[-1:]:
            self.texts.append(data.replace("\u00a0", " "))


def report(tmp_path: Path, *sources: Path) -> tuple[Page, ReportResult]:
    result = write_report(sources, tmp_path / "out" / "report.html")
    return Page(result.html.read_text(encoding="utf-8")), result


def check_self_contained(page: Page) -> None:
    """Nothing that loads or runs: no script, link, frame, handler, and only data: pictures."""
    assert page.unbalanced == []
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "use", "image", "foreignobject"}, tag
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "srcset", "href", "xlink:href", "action", "poster", "data"}:
                assert (value or "").startswith(("#", "data:image/png;base64,")), (tag, name, (value or "")[:60])
    assert [t for t, a in page.tags if t == "meta" and "default-src 'none'" in (a.get("content") or "")], "no content policy"


def test_numbers_of_the_record_appear(tmp_path: Path, record: Make, parity: Make, student: Make) -> None:
    folder = record(tmp_path / "fixture-run", images=5000)
    page, result = report(tmp_path, folder, parity(tmp_path / "parity"), student(tmp_path / "student"))
    check_self_contained(page)
    r = load_record(folder)
    d, p = r.batch_ms, r.power
    assert p is not None
    numbers = [words.number(x, 4) for x in (d.min, d.mean, d.median, d.p90, d.p95, d.p99, d.max, r.period_ms.p99)]
    numbers += [words.number(r.images_per_s), "421,068", "289,164", r.subject.bundle_digest, r.subject.onnx_sha256]
    numbers += [
        words.energy(x).replace("\u00a0", " ") for x in (p.energy_total_mj, p.energy_net_mj, p.mj_per_image, p.net_mj_per_image)
    ]
    numbers += [words.seconds(x).replace("\u00a0", " ") for x in r.phases_s.values()]
    numbers += [
        p.boundary,
        p.total_rail,
        f"{p.samples:,} at",
        "VDD_CPU_GPU_CV",
        r.environment.machine,
        "25W (id 1)",
        "fp16",
        "pattern",
    ]
    numbers += ["a batch of 256", "Not recorded: JetPack"]
    numbers += ["198.7 s", "29.14", "7.79", "61.7 dB", "5.31 %", "4,000 steps"]
    numbers += ["a1" * 32, "b2" * 32, artifact.open_artifact(folder).manifest.digest]
    for text in numbers:
        assert text in page.text, text
    assert "extrapolated from 5,000 images" in page.text and "Not comparable" in page.text
    assert "recomputed from the raw logs: median" in page.text.lower()
    assert result.records == 1 and result.warnings == 0 and words.number(r.images_per_s) in result.summary
    markdown = result.markdown.read_text(encoding="utf-8")
    for text in (words.number(d.median, 4), "421,068", "198.7 s", "extrapolated from 5,000 images", "c3" * 32, "5.31 %"):
        assert text in markdown, text
    assert markdown.count("<") == 0


def test_csv_keeps_full_precision(tmp_path: Path, record: Make) -> None:
    folders = [record(tmp_path / "a", images=1000), record(tmp_path / "b", images=1000, power=False, median_ms=77.7)]
    _, result = report(tmp_path, *folders)
    with result.csv.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for folder, row in zip(folders, rows, strict=True):
        r = load_record(folder)
        assert float(row["batch_ms_p99"]) == r.batch_ms.p99 and float(row["images_per_s"]) == r.images_per_s
        assert int(row["forward_batch"]) == 256 and row["design"] == "(5,64,8)"
        assert row["seconds_for_50000_images_how"] == "extrapolated from 1,000 images".replace(" images", "\u00a0images")
        assert row["power_energy_total_mj"] == ("" if r.power is None else repr(r.power.energy_total_mj))


def test_same_input_same_bytes(tmp_path: Path, record: Make) -> None:
    folder = record(tmp_path / "a", images=1000)
    first = write_report([folder], tmp_path / "r.html")
    before = [f.read_bytes() for f in (first.html, first.markdown, first.csv, first.json)]
    again = write_report([folder], tmp_path / "r.html")
    assert [f.read_bytes() for f in (again.html, again.markdown, again.csv, again.json)] == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "r.csv", "r.html", "r.json", "r.md"], "no temporary file stays"


def test_full_run_is_measured_not_extrapolated(tmp_path: Path, record: Make) -> None:
    page, _ = report(tmp_path, record(tmp_path / "a", images=50_000))
    assert "161.1 s, measured" in page.text and "extrapolated from" not in page.text


def test_longer_run_is_not_called_extrapolated(tmp_path: Path, record: Make) -> None:
    page, _ = report(tmp_path, record(tmp_path / "a", images=100_000, median_ms=100))
    assert "at the mean rate of 100,000 images" in page.text and "extrapolated from" not in page.text


def test_same_board_is_told_apart_from_other_boards(tmp_path: Path, record: Make) -> None:
    page, _ = report(tmp_path, record(tmp_path / "a", board="NVIDIA Jetson Orin Nano fixture", images=1000))
    assert (
        "Same board by name" in page.text
        and "does not state runtime, precision" in page.text
        and "Not comparable" not in page.text
    )


def test_another_image_size_is_another_network(tmp_path: Path, record: Make) -> None:
    small = DiTSpec(5, 64, 8, image=16, channels=1)
    page, _ = report(tmp_path, record(tmp_path / "a", spec=small, images=1000))
    assert "another network: image 16 (paper 32), channels 1 (paper 3)" in page.text
    assert "Open diamonds" not in page.text, "another task has no place on the map of the paper's designs"


def test_design_that_the_paper_has_not(tmp_path: Path, record: Make) -> None:
    page, _ = report(tmp_path, record(tmp_path / "a", design=(4, 96, 6), images=1000))
    assert "The paper has no design (4,96,6)" in page.text and "in the paper and here" not in page.text
    assert "Open diamonds" in page.text


def test_guidance_says_whether_the_doubled_batch_is_counted(tmp_path: Path, record: Make) -> None:
    on, _ = report(tmp_path, record(tmp_path / "a", images=1000))
    off, _ = report(tmp_path, record(tmp_path / "b", images=1000, guidance=1.0))
    assert "counted: 128 images pass the network as a batch of 256" in on.text
    assert "off (scale 1): 128 images pass the network once" in off.text and "guidance 1.0 (paper 1.5)" in off.text


def test_no_power_says_why(tmp_path: Path, record: Make) -> None:
    page, _ = report(tmp_path, record(tmp_path / "a", images=1000, power=False))
    assert "not measured: no power source was found" in page.text and "J per image" not in page.text


def test_cut_short_is_shown(tmp_path: Path, record: Make) -> None:
    page, result = report(tmp_path, record(tmp_path / "a", complete=False, batches=10))
    assert "Cut short: the run was to make 50,000 images, the figures cover the 1,280" in page.text
    assert "extrapolated from 1,280 images" in page.text and result.warnings == 1 and "(cut short)" in result.summary


@pytest.mark.parametrize("raw", ["", "\n\n", "not json\n[1]\n{\"batch\": 0}\n{\"compute_ms\": NaN}\n"])
def test_empty_or_broken_raw_batches(tmp_path: Path, record: Make, raw: str) -> None:
    page, _ = report(tmp_path, record(tmp_path / "a", images=1000, raw_batches=raw))
    assert "batches.jsonl holds no batch" in page.text and not any(
        t == "rect" and a.get("class") == "fill s1" and "ms:" in str(a) for t, a in page.tags
    )
    assert ("could not be read" in page.text) == ("json" in raw)


def test_no_batch_at_all(tmp_path: Path, record: Make) -> None:
    page, _ = report(tmp_path, record(tmp_path / "a", complete=False, batches=0, power=False))
    check_self_contained(page)
    assert "no batch finished" in page.text and "not measured" in page.text


def test_figures_that_do_not_follow_from_the_logs_are_flagged(tmp_path: Path, record: Make) -> None:
    raw = "".join(json.dumps({"compute_ms": 300.0}) + "\n" for _ in range(8))
    page, result = report(tmp_path, record(tmp_path / "a", images=1000, raw_batches=raw))
    told = words.number(load_record(tmp_path / "a").batch_ms.median, 4)
    assert f"median is {told} ms, its raw batch times give 300.0 ms" in page.text and result.warnings == 1
    page, _ = report(tmp_path, record(tmp_path / "b", images=1000, raw_batches='{"compute_ms": 410.0}\n'))
    assert "counts 8 batches, its raw log holds 1" in page.text


def test_energy_that_does_not_follow_from_the_samples_is_flagged(tmp_path: Path, record: Make) -> None:
    folder = record(tmp_path / "a", images=5000)
    r = load_record(folder)
    assert r.power is not None
    wrong = r.model_copy(update={"power": Power(**{**r.power.model_dump(), "energy_total_mj": 2 * r.power.energy_total_mj})})
    with artifact.create(tmp_path / "b", "record") as draft:
        draft.write("record.json", wrong.model_dump_json())
        for name in ("batches.jsonl", "power.jsonl"):
            draft.write(name, (folder / name).read_bytes())
    page, _ = report(tmp_path, tmp_path / "b")
    assert "The record's energy is" in page.text and "its raw samples give" in page.text


def test_hostile_strings_stay_text(tmp_path: Path, record: Make, parity: Make) -> None:
    verdict = Verdict(level="warning", code=HOSTILE, text=HOSTILE, fix=HOSTILE)
    rung = {"name": HOSTILE, "against": HOSTILE, "max_abs": 0.1, "mean_abs": 0.1, "psnr_db": 40, "changed_pixels_percent": 1,
            "max_levels": 1, "note": HOSTILE}
    parent = artifact.Parent(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    one = record(
        tmp_path / "a'<b>",
        images=1000,
        precision=HOSTILE,
        board=HOSTILE,
        label=HOSTILE,
        boundary=HOSTILE,
        verdicts=[verdict],
        extra={HOSTILE: HOSTILE, "list": [HOSTILE]},
        parents=(parent,),
    )
    two = record(tmp_path / "=cmd", images=1000)
    result = write_report([one, two, parity(tmp_path / "p", [rung])], tmp_path / "r.html", ReportSettings(title=HOSTILE))
    html = result.html.read_text(encoding="utf-8")
    page = Page(html)
    check_self_contained(page)
    assert "<script" not in html and "<img src=x" not in html and "alert(1)" in page.text and "{{ 7*7 }}" in page.text
    markdown = result.markdown.read_text(encoding="utf-8")
    assert "<script" not in markdown and re.search(r"<\w", markdown) is None
    with result.csv.open(newline="", encoding="utf-8") as stream:
        assert [row["record"] for row in csv.DictReader(stream)] == ["a'<b>", "'=cmd"]


def test_several_records_are_compared_and_differences_flagged(tmp_path: Path, record: Make) -> None:
    a = record(tmp_path / "a", images=1000)
    b = record(tmp_path / "b", images=2000, guidance=1.0, batch=64, precision="fp32")
    page, result = report(tmp_path, a, b)
    assert "The records differ in images, batch and guidance" in page.text and result.warnings == 1
    assert (
        "Records side by side" in page.text and "1.5 (forward batch 256)" in page.text and "1.0 (forward batch 64)" in page.text
    )
    same, result = report(tmp_path, a, record(tmp_path / "c", images=1000, precision="fp32", seed=5))
    assert "differ in" not in same.text and "same protocol" in same.text and result.warnings == 0


def test_different_energy_boundaries_are_flagged(tmp_path: Path, record: Make) -> None:
    a, b = record(tmp_path / "a", images=1000), record(tmp_path / "b", images=1000, boundary="processor package only")
    page, _ = report(tmp_path, a, b)
    assert "The records differ in energy boundary" in page.text and "different boundaries" in page.text


def test_equal_folder_names_get_told_apart(tmp_path: Path, record: Make) -> None:
    page, _ = report(tmp_path, record(tmp_path / "x" / "rec", images=1000), record(tmp_path / "y" / "rec", images=1000))
    assert "Measurement: x/rec" in page.text and "Measurement: y/rec" in page.text


def test_student_in_the_chain_is_recognised(tmp_path: Path, record: Make, student: Make) -> None:
    run = student(tmp_path / "student", steps=100)
    parents = (artifact.Parent("bundle", "bundle", "c3" * 32, "", "", (artifact.open_artifact(run).as_parent("student"),)),)
    page, _ = report(tmp_path, record(tmp_path / "a", images=1000, parents=parents), run)
    assert "A record of this report was made from this run." in page.text
    other, _ = report(tmp_path, record(tmp_path / "b", images=1000), run)
    assert "No record of this report names this run" in other.text


def test_chain_that_ends_early_says_so(tmp_path: Path, record: Make) -> None:
    page, _ = report(tmp_path, record(tmp_path / "a", images=1000, parents=()))
    assert "The chain ends before the teacher's pairs" in page.text


# --- what is refused ----------------------------------------------------------------------------------------------------------


def refused(error: type[EdgeditError], words_: str, sources: list[Path], out: Path) -> None:
    with pytest.raises(error, match=words_):
        write_report(sources, out)
    assert not out.exists() or out.is_dir()


def test_bad_sources_are_refused(tmp_path: Path, record: Make, parity: Make) -> None:
    out, good = tmp_path / "r.html", record(tmp_path / "good", images=1000)
    (tmp_path / "plain").mkdir()
    refused(ArtifactError, "has no manifest.json", [tmp_path / "plain"], out)
    refused(ArtifactError, "is not there", [tmp_path / "nothing"], out)
    with artifact.create(tmp_path / "pairs", "pairs"):
        pass
    refused(ArtifactError, "is of kind 'pairs'", [good, tmp_path / "pairs"], out)
    refused(UsageError, "at least one record", [parity(tmp_path / "parity")], out)
    refused(UsageError, "at least one record", [], out)
    refused(UsageError, "given twice", [good, tmp_path / "plain" / ".." / "good"], out)
    refused(ArtifactError, "parity ladder", [good, parity(tmp_path / "odd", [{"name": "only a name"}])], out)


def test_altered_record_is_refused(tmp_path: Path, record: Make) -> None:
    folder = record(tmp_path / "a", images=1000)
    text = (folder / "batches.jsonl").read_text()
    (folder / "batches.jsonl").write_text(text.replace("4", "3", 1))
    refused(ArtifactError, "altered", [folder], tmp_path / "r.html")


def test_bad_outputs_are_refused(tmp_path: Path, record: Make) -> None:
    folder = record(tmp_path / "a", images=1000)
    with pytest.raises(UsageError, match=r"\.html"):
        write_report([folder], tmp_path / "report.txt")
    (tmp_path / "d.html").mkdir()
    refused(OutputError, "is a folder", [folder], tmp_path / "d.html")
    refused(OutputError, "cannot be written", [folder], folder / "record.json" / "r.html")
