"""The double of TensorRT as a fixture, and a graph for it."""

from __future__ import annotations

import importlib

import pytest

from tests.contract.bindings import VERSIONS
from tests.contract.contract_kit import exported
from tests.fake_tensorrt import install


@pytest.fixture
def double(monkeypatch):
    """double(version="10.3.0", gpu=None, **knobs) → the module `tensorrt` as code under test would import it."""

    def make(version=VERSIONS[0], gpu=None, **knobs):
        install(monkeypatch, version, gpu, **knobs)
        return importlib.import_module("tensorrt")

    return make


@pytest.fixture(scope="session")
def graph():
    """A typed FP16 graph of two blocks as `edgedit export` writes it."""
    return exported()
