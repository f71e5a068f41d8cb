from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import ArtifactError, EdgeditError, NumericsError
from edgedit.core.spec import DiTSpec
from edgedit.model.checkpoint import load_weights, save_weights
from edgedit.model.dit import DiT

SPEC = DiTSpec(1, 16, 2, image=4, classes=2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_weights(tmp_path / "w.safetensors", SPEC, DiT(SPEC).state_dict(), {"step": 7})
    return tmp_path / "w.safetensors"


def test_round_trip(file: Path) -> None:
    spec, weights, info = load_weights(file)
    assert spec == SPEC and info == {"step": 7}
    expected = DiT(SPEC).state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in expected)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_truncated_or_altered_headers_are_refused_or_read_equal(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    file = tmp_path_factory.mktemp("c") / "w.safetensors"
    save_weights(file, SPEC, DiT(SPEC).state_dict())
    raw = file.read_bytes()
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(ArtifactError):
        load_weights(file)


def test_a_pickle_in_disguise_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ArtifactError):
        load_weights(tmp_path / "w.safetensors")
    assert not (tmp_path / "ran").exists()


def test_nan_names_the_tensor(tmp_path: Path) -> None:
    weights = DiT(SPEC).state_dict()
    weights["blocks.0.up.weight"][0, 0] = float("nan")
    save_weights(tmp_path / "w.safetensors", SPEC, weights)
    with pytest.raises(NumericsError, match=r"blocks\.0\.up\.weight"):
        load_weights(tmp_path / "w.safetensors")


def test_tensors_of_another_design_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", SPEC, DiT(DiTSpec(1, 32, 2, image=4, classes=2)).state_dict())
    with pytest.raises(ArtifactError, match="do not fit"):
        load_weights(tmp_path / "w.safetensors")


def test_other_safetensors_and_missing_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match="no DiT-Nano weights"):
        load_weights(tmp_path / "other.safetensors")
    with pytest.raises(EdgeditError, match="not there"):
        load_weights(tmp_path / "no.safetensors")
