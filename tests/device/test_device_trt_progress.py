"""Progress of nested phases, and the message of every way in which a build can fail."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.core.errors import ArtifactError, EdgeditError, MissingError, OutputError
from edgedit.device.bundle import Bundle
from edgedit.device.trt.failures import Attempt, Outcome, explain
from edgedit.device.trt.memory import Memory
from edgedit.device.trt.progress import Phases
from tests.device.bundle_kit import make_bundle


def test_inner_phases_fill_the_step_they_belong_to():
    phases = Phases()
    assert phases.fraction == 0 and phases.last == ""
    phases.start("Building Engine", None, 4)
    phases.step("Building Engine", 0)
    assert phases.fraction == 0.25
    phases.start("Timing graph nodes", "Building Engine", 10)
    phases.step("Timing graph nodes", 4)
    assert phases.fraction == pytest.approx(0.25 + 0.5 / 4) and phases.last == "Timing graph nodes"
    phases.finish("Timing graph nodes")
    phases.step("Building Engine", 1)
    assert phases.fraction == 0.5 and phases.last == "Building Engine"
    phases.finish("Building Engine")
    assert phases.fraction == 0.5 and phases.last == "Building Engine"


NAMES = st.sampled_from(["a", "b", "c", ""])
STEPS = st.integers(-3, 12)


@given(st.lists(st.one_of(st.tuples(st.just("start"), NAMES, st.none() | NAMES, STEPS), st.tuples(st.just("step"), NAMES, STEPS),
                          st.tuples(st.just("finish"), NAMES)), max_size=30))
def test_progress_never_falls_or_leaves_its_range(events):
    phases, before = Phases(), 0.0
    for name, *values in events:
        getattr(phases, name)(*values)
        assert before <= phases.fraction <= 1
        before = phases.fraction


@pytest.fixture(scope="module")
def attempt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    return Attempt(Bundle.open(make_bundle(folder / "b")), "10.3.0", Memory(900, 1200, 0, None), 388, folder / "x.failed.log", folder / "e")


@pytest.mark.parametrize("failed, kind, what, fix", [
    ({"kind": "builder", "problems": ["error: CUDA initialization failure"]}, MissingError, "no usable GPU", "--runtime nvidia"),
    ({"kind": "plan", "problems": ["error: magic"]}, EdgeditError, "does not load the engine that it has just built", "x.failed.log"),
    ({"kind": "attention", "problems": ["no pattern"]}, EdgeditError, "as IAttention", "--attention pattern"),
    ({"kind": "disk", "errno": errno.ENOSPC, "text": "No space left on device"}, OutputError, "could not be written", "free some space"),
    ({"kind": "changed", "text": "sha256 1 and 2"}, ArtifactError, "changed while", "run the same command again"),
    ({"kind": "error", "what": "w", "saw": "s", "fix": "f"}, EdgeditError, "w", "f"),
    ({"kind": "parse", "nodes": [], "problems": ["error: no model"]}, EdgeditError, "cannot read the graph", "opset 20"),
    ({"kind": "null", "problems": ["error: no implementation"]}, EdgeditError, "built no engine", "optimization_level=2"),
    ({"kind": "null", "problems": ["error: Error Code 2: OutOfMemory ()"]}, EdgeditError, "memory was not enough", "swap"),
    ({"kind": "null", "problems": ["NvMapMemAllocInternalTagged: 1075072515 error 12"]}, EdgeditError, "memory was not enough", "256"),
])
def test_every_failure_has_its_own_words(attempt, failed, kind, what, fix):
    error = explain(attempt, Outcome(1, failed=failed, phase="Timing graph nodes"))
    assert type(error) is kind and what in error.what and fix in (error.fix or "")
    assert all(str(problem) in (error.saw or "") for problem in failed.get("problems", []))


def test_a_crash_shows_the_end_of_the_log(attempt):
    Path(attempt.log).write_text("\n".join(f"line {i}" for i in range(50)))
    error = explain(attempt, Outcome(-6, phase="Selecting tactics"))
    assert "SIGABRT" in error.what and "line 49" in (error.saw or "") and "line 10" not in (error.saw or "")
