# Each target sets up what it needs: a virtual environment in .venv, with plain torch from the package registry.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= runs/quickstart
BIN    := $(VENV)/bin

.PHONY: quickstart test test-slow lint bench clean

quickstart: $(VENV)/.installed-host   ## teacher → student → ONNX → images → profile → report, on a CPU, in minutes
	$(BIN)/edgedit quickstart --out $(OUT)

test: $(VENV)/.installed-dev          ## what CI runs
	$(BIN)/ruff check edgedit tests benchmarks
	$(BIN)/python -m pytest -n auto

test-slow: $(VENV)/.installed-dev     ## everything that needs no GPU
	$(BIN)/python -m pytest -n auto -m "not gpu"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check edgedit tests benchmarks
	$(BIN)/mypy

# Those that need data or weights of yours (lpips_ranking, setups) are run by name.
BENCHMARKS = noise pairs folds predicted predict host_overhead power_overhead profile_memory cpu_generate digits_accuracy loader train teacher small_heads kept_memory noise_cuda

bench: $(VENV)/.installed-dev         ## every benchmark that needs nothing, in turn (after make quickstart, whose bundle two of them take)
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

clean:                                ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
