"""Engines: what their key holds, which one is found, and that a plan is checked before anybody gets its bytes."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.core.artifact import create
from edgedit.core.cache import cache_folder
from edgedit.core.errors import ArtifactError, EdgeditError, MissingError
from edgedit.device.bundle import Bundle
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.trt.engine import (
    KIND,
    PLAN_FILE,
    Engine,
    EngineKey,
    cached_engines,
    engine_folder,
    find_engine,
    fusion_of,
    make_key,
    open_engine,
    wanted_key,
)
from tests.device.bundle_kit import graph, make_bundle, small_spec

ORIN = GpuFacts("Orin", (8, 7), 8, 7620, 5000, True, "12.6")
FLAGS: dict[str, Any] = {"attention": "auto", "optimization_level": None, "workspace_mb": None}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path):
    return Bundle.open(make_bundle(tmp_path / "bundle"))


def put(key: EngineKey, folder: Path | None = None, bundle: Bundle | None = None, plan: bytes = b"plan") -> Path:
    folder = folder or engine_folder(key, "(1,8,2)")
    with create(folder, KIND) as draft:
        draft.write(PLAN_FILE, plan)
        draft.info = {"key": key.to_dict(), "bundle": {"path": str(bundle.path.resolve())} if bundle else {}}
    return folder


def here(bundle: Bundle, gpu: GpuFacts = ORIN, tensorrt: str = "10.3.0", **flags: Any) -> EngineKey:
    return make_key(bundle, tensorrt, gpu, bundle.batch, **{**FLAGS, **flags})


def test_the_cache_has_one_place_for_a_key(bundle, cache):
    key = here(bundle)
    assert engine_folder(key, "(5,64,8)") == cache / "engines" / f"5-64-8-{key.digest[:12]}"
    assert cache_folder() == cache


@pytest.mark.parametrize("change", [
    {"onnx_sha256": "0" * 64}, {"tensorrt": "10.16.2"}, {"gpu": "Thor"}, {"compute_capability": (11, 0)}, {"sm_count": 4}, {"batch": 8},
    {"flags": (("precision", "fp32"),)}])
def test_every_part_of_a_key_makes_another_engine(bundle, change):
    key = here(bundle)
    other = replace(key, **change)
    assert key.digest != other.digest and key.differences(other) and not key.differences(key)


def test_a_key_survives_the_manifest(bundle):
    key = here(bundle, optimization_level=2)
    assert EngineKey.from_dict(key.to_dict()) == key


def test_the_engine_of_this_board_is_found(bundle):
    folder = put(here(bundle))
    engine = find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN))
    assert engine.path == folder and engine.read() == b"plan" and engine.key.sm_count == 8


def test_how_it_was_built_is_open_but_the_precision_is_not(bundle):
    put(here(bundle, attention="iattention", optimization_level=2))
    assert find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN)).key.flags
    put(replace(here(bundle), flags=(("precision", "fp16"),)), cache_folder() / "elsewhere")
    with pytest.raises(ArtifactError, match="precision"):
        find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN), folder=cache_folder() / "elsewhere")


def test_the_newest_of_several_is_taken(bundle, monkeypatch):
    put(here(bundle, optimization_level=2))
    monkeypatch.setattr("edgedit.core.artifact.datetime", _Later)
    newest = put(here(bundle, optimization_level=4))
    assert find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN)).path == newest


class _Later:
    @staticmethod
    def now(zone: Any) -> Any:
        import datetime

        return datetime.datetime(2199, 1, 1, tzinfo=zone)


@pytest.mark.parametrize("gpu, tensorrt, line", [
    (replace(ORIN, sm_count=4), "10.3.0", r"SM count +4 +8"), (ORIN, "10.16.2", r"TensorRT +10\.16\.2 +10\.3\.0"),
    (replace(ORIN, name="NVIDIA Thor", compute_capability=(11, 0)), "10.3.0", r"compute capability +11\.0 +8\.7")])
def test_another_board_or_tensorrt_is_refused_with_both_sides(bundle, gpu, tensorrt, line):
    folder = put(here(bundle), bundle=bundle)
    with pytest.raises(ArtifactError) as refused:
        find_engine(bundle, wanted_key(bundle, tensorrt, gpu))
    assert refused.value.fix == f"edgedit build {bundle.path}" and str(folder) in refused.value.what
    assert re.search(line, refused.value.saw or ""), refused.value.saw


def test_another_batch_is_refused_and_an_open_one_is_not(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "d", dynamic=True))
    put(here(bundle))
    assert find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN)).key.batch == 4
    with pytest.raises(ArtifactError, match=r"batch +16 +4"):
        find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN, batch=16))


def test_a_changed_bundle_is_refused_and_shown(bundle, tmp_path):
    put(here(bundle), bundle=bundle)
    changed = Bundle.open(make_bundle(tmp_path / "bundle", model=graph(small_spec(), 4) + b"\x72\x00"))
    with pytest.raises(ArtifactError, match=r"model\.onnx +[0-9a-f]{12}… +[0-9a-f]{12}…"):
        find_engine(changed, wanted_key(changed, "10.3.0", ORIN))


def test_nothing_built_yet(bundle):
    with pytest.raises(MissingError, match="no engine was built") as nothing:
        find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN))
    assert nothing.value.fix == f"edgedit build {bundle.path}"


def test_a_folder_that_is_given_is_the_only_one_looked_at(bundle, tmp_path):
    put(here(bundle))
    with pytest.raises(ArtifactError, match="not an engine for") as refused:
        find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN), folder=put(here(bundle, tensorrt="11.4.0.106"), tmp_path / "mine"))
    assert f"--out {tmp_path / 'mine'}" in (refused.value.fix or "")
    with pytest.raises(ArtifactError, match="is of kind 'bundle'"):
        find_engine(bundle, wanted_key(bundle, "10.3.0", ORIN), folder=bundle.path)


@pytest.mark.parametrize("damage", [lambda d: d[:-1] + b"\0", lambda d: b""])
def test_a_plan_that_changed_is_not_given_out(bundle, damage):
    engine = open_engine(put(here(bundle)))
    engine.plan.write_bytes(damage(engine.plan.read_bytes()))
    with pytest.raises(ArtifactError, match="altered after it was built"):
        engine.read()


def test_a_plan_that_went_away(bundle):
    engine = open_engine(put(here(bundle)))
    engine.plan.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        engine.read()


def test_rubbish_in_the_cache_is_passed_over(bundle, cache):
    folder = put(here(bundle))
    (cache / "engines" / "notes").mkdir()
    (cache / "engines" / "x.failed.log").write_text("log")
    (cache / "engines" / "broken").mkdir()
    (cache / "engines" / "broken" / "manifest.json").write_text("{")
    (cache / "engines" / "keyless").mkdir()
    with create(cache / "engines" / "keyless", KIND) as draft:
        draft.info = {"key": {"gpu": 3}}
    assert [path for _, path, _, _ in cached_engines()] == [folder]


def test_an_engine_without_a_verdict_says_so(bundle):
    with pytest.raises(ArtifactError, match=r"fusion\.json"):
        fusion_of(open_engine(put(here(bundle))))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.text() | st.sampled_from(["onnx_sha256", "compute_capability", "flags", "batch", "sm_count"]), inner), max_leaves=12))
def test_a_key_that_is_none_is_told(body):
    try:
        key = EngineKey.from_dict(body)
    except (KeyError, TypeError, ValueError, AttributeError):
        return
    assert key.digest


def test_an_engine_is_frozen(bundle):
    engine: Engine = open_engine(put(here(bundle)))
    with pytest.raises(AttributeError):
        engine.key = here(bundle)  # type: ignore[misc]
    assert os.access(engine.plan, os.R_OK) and isinstance(engine.info, dict) and not issubclass(EngineKey, EdgeditError)
