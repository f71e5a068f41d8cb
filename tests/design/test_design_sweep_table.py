"""Tables of sweeps: the presets say what the paper and `edgedit train`'s own presets say; tables of a user's are checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedit.core import paper
from edgedit.core.errors import UsageError
from edgedit.design.sweep.table import PAPER_PAIRS, find_table, merged, presets, read_table
from edgedit.distill.settings import presets as train_presets


def test_every_table_and_figure_has_its_preset() -> None:
    assert presets() == ["fig3", "fig4", "table1", "table2", "table3", "table4", "table5", "table6"]


@pytest.mark.parametrize("name", ["table6", "table2", "fig4"])
def test_designs_are_those_of_the_paper(name: str) -> None:
    rows = find_table(name).rows
    printed = {"table6": paper.TABLE_6, "table2": paper.TABLE_2, "fig4": paper.TABLE_6[:12]}[name]
    assert [row.design for row in rows] == [(p.depth, p.width, p.heads) for p in printed]
    for row, p in zip(rows, printed, strict=True):
        values = {"fid": p.fid, "latency_s": p.latency_s} | ({} if name == "table2" else {"is": p.inception})
        assert row.published == values and (row.epochs or 100) == p.epochs


def test_setups_and_losses_are_those_of_the_paper() -> None:
    table1, table3, table4 = (find_table(name).rows for name in ("table1", "table3", "table4"))
    assert [(r.published or {})["fid"] for r in table1] == [s.fid for s in paper.TABLE_1]
    assert [r.settings["train"]["loss"]["name"].upper() for r in table1] == [s.loss for s in paper.TABLE_1]
    assert all(r.settings["evaluate"] == {"guidance": 1.0} for r in table1), "Table 1 is without guidance"
    for row, printed in zip([r for r in table3 if not r.helper], paper.TABLE_3, strict=True):
        setup = row.settings["train"]["setup"]
        assert [bool(setup[f"lambda{k}"]) for k in range(3)] == [printed.teacher, printed.assistant_image, printed.assistant_features]
        assert (row.published or {})["fid"] == printed.fid
        assert bool(row.students) == (printed.assistant_image or printed.assistant_features)
    for row, mapped in zip(table4[1:], paper.TABLE_4[1:], strict=True):
        setup = row.settings["train"]["setup"]
        assert (tuple(setup["layers"]), tuple(setup["times"])) == (mapped.layers, mapped.times)
    assert [(r.published or {})["latency_s"] for r in find_table("table5").rows] == [c.latency_s for c in
                                                                                   (paper.TABLE_5[2], paper.TABLE_5[0], paper.TABLE_5[1])]


def test_settings_are_those_of_the_presets_of_train() -> None:
    known = train_presets()
    for table, row, preset in [("table1", "dmd-lpips", "dmd"), ("table3", "ta-assistant", "ta-assistant"), ("table3", "ta-row4", "ta-row4"),
                               ("table4", "mi1-3", "mi1-3")]:
        mine = next(r for r in find_table(table).rows if r.name == row)
        theirs = {k: v for k, v in known[preset].items() if k not in ("about", "model")}
        assert mine.design == tuple(known[preset]["model"][k] for k in ("depth", "width", "heads"))
        got = {k: v for k, v in mine.settings["train"].items() if k in theirs}
        assert got == theirs


def test_fig3_sweeps_one_size_at_a_time() -> None:
    for row in find_table("fig3").rows:
        which = ["depth", "width", "heads"].index(row.name.split("-")[0])
        kept = [(mine, centre) for k, (mine, centre) in enumerate(zip(row.design or (), (6, 128, 4), strict=True)) if k != which]
        assert all(mine == centre for mine, centre in kept)
    assert PAPER_PAIRS == 1_000_000


@pytest.mark.parametrize(("text", "said"), [
    ("", "has no rows"),
    ("row = 3", "has no rows"),
    ("[[row]]\ndesign = [5, 64]\nheads = 8", "unknown key 'heads'"),
    ("[[row]]\ndesign = [5]", "needs a design"),
    ("[[row]]\ndesign = [5, true, 8]", "needs a design"),
    ("[[row]]\nname = 'a/b'\ndesign = [5, 64, 8]", "cannot name a folder"),
    ("[[row]]\ndesign = [5, 64, 8]\n[[row]]\ndesign = [5, 64, 8]", "two rows of the name"),
    ("[[row]]\ndesign = [5, 64, 8]\nstudents = { x = 'y' }", "takes the student of 'y'"),
    ("train = 3\n[[row]]\ndesign = [5, 64, 8]", "is not a table of settings"),
    ("[[row", "cannot be read as TOML"),
    ("trian = {}\n[[row]]\ndesign = [5, 64, 8]", "unknown key 'trian'"),
])
def test_tables_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        find_table(str(tmp_path / "my.toml"))


def test_a_name_that_is_no_table_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'table6'"):
        find_table("tabel6")


def test_heads_follow_the_rule_where_none_are_given() -> None:
    pytest.importorskip("edgedit.design.rules")
    assert read_table({"row": [{"design": [5, 64]}]}, "x").rows[0].design == (5, 64, 8)


def test_settings_merge_by_name() -> None:
    under = {"loss": {"name": "lpips", "lpips": {"net": "alex"}}, "setup": {"name": "ta", "lambda0": 1}, "batch": 4}
    assert merged(under, {"loss": "l1"})["loss"] == {"name": "l1", "lpips": {"net": "alex"}}
    assert merged(under, {"setup": "mi1"})["setup"] == {"name": "mi1"}
    assert merged(under, {"setup": {"lambda1": 2}})["setup"] == {"name": "ta", "lambda0": 1, "lambda1": 2}
    assert under["batch"] == 4 and merged(under, {"batch": 8})["batch"] == 8
