# Two commands: `make demo` and `make test`. Both set up .venv first, from exact pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | tr -d ' ')

.PHONY: setup demo test check wheel-test clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

# torch comes first and pinned: an unpinned one may bring gigabytes that a CPU never uses.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
	  "This is Python %d.%d; bge_m3_integrations needs 3.11, 3.12 or 3.13. Try: make PYTHON=python3.12" \
	  % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup
	$(BIN)/bge-m3 demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pydoclint --config=pyproject.toml -q bge_m3_integrations

# The wheel, in two empty environments: one framework each.
wheel-test: setup
	$(BIN)/python scripts/wheel_test.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
