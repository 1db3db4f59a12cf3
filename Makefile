# Two commands: `make demo` and `make test`. Both set up .venv first, from exact pins.
#
#   PYTHON       the interpreter to start from: make demo PYTHON=python3.12
#   TORCH_FLAGS  further pip options for torch alone. On Linux the default index serves torch with
#                CUDA libraries (several GB); PyTorch's own index of CPU wheels has it without:
#                make demo TORCH_FLAGS='--index-url URL'
PYTHON ?= python3
TORCH_FLAGS ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q -c constraints.txt
PINS := $(shell cat pyproject.toml constraints.txt | cksum | tr -d ' ')
BASE := $(VENV)/.base-$(PINS)
DEV := $(VENV)/.dev-$(PINS)
NATIVE := bge_m3_integrations/encoders/torch/native
KERNELS := $(NATIVE)/kernels.so
KERNEL_SOURCES := $(NATIVE)/build.py $(wildcard $(NATIVE)/kernels/*)
MILVUS := .venv-llama-milvus
MILVUS_PIP := $(MILVUS)/bin/python -m pip install -q -c constraints-llama-milvus.txt
MILVUS_PINS := $(shell cat pyproject.toml constraints-llama-milvus.txt | cksum | tr -d ' ')
MILVUS_READY := $(MILVUS)/.ready-$(MILVUS_PINS)

.PHONY: setup demo test conformance test-llama-milvus test-extras test-versions soak check wheel-test clean
.DEFAULT_GOAL := setup

setup: $(DEV)

# torch first, by itself, so that its flags touch nothing else
$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
	  "This is Python %d.%d; bge_m3_integrations needs 3.11, 3.12 or 3.13. Try: make PYTHON=python3.12" \
	  % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_FLAGS) torch
	$(PIP) -e '.[langchain,llama-index]'
	@rm -f $(VENV)/.base-* $(VENV)/.dev-*
	@touch $@

$(DEV): $(BASE) | $(KERNELS)
	$(PIP) -e '.[dev]'
	@touch $@

# installing builds them; this does it again where sources have changed
$(KERNELS): $(KERNEL_SOURCES) | $(BASE)
	$(BIN)/python -m bge_m3_integrations.encoders.torch.native.build

demo: $(BASE) | $(KERNELS)
	$(BIN)/bge-m3 demo
	@echo
	@echo "To use the commands and the package yourself: . $(BIN)/activate"

# Two processes, each of one thread: what the tests need on two cores. WORKERS=8 on a larger machine.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# The suites of the frameworks and our own, one line for each; `make test` runs them too.
conformance: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/conformance.py

# LlamaIndex's Milvus store needs an older pymilvus than LangChain's: an environment of its own,
# which git and the linters do not look into.
$(MILVUS_READY):
	@$(PYTHON) -m venv $(MILVUS)
	@echo '*' > $(MILVUS)/.gitignore
	$(MILVUS_PIP) $(TORCH_FLAGS) torch
	$(MILVUS_PIP) -e '.[llama-index-milvus]' milvus-lite hypothesis pytest pytest-asyncio
	@rm -f $(MILVUS)/.ready-*
	@touch $@

test-llama-milvus: $(MILVUS_READY)
	OMP_NUM_THREADS=1 $(MILVUS)/bin/python -m pytest tests/llama_milvus

# What takes minutes: an index killed at a hundred random moments, and compacted under load.
soak: $(DEV)
	$(BIN)/python -m pytest -m soak tests/soak

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pydoclint --config=pyproject.toml -q bge_m3_integrations

# The wheel, in two empty environments: one framework each.
wheel-test: $(DEV)
	TORCH_FLAGS='$(TORCH_FLAGS)' $(BIN)/python scripts/wheel_test.py

# Each extra without the pins, with the newest that its bounds allow: minutes, and the network.
# TORCH names the torch to install: make test-extras TORCH=torch==2.13.0 EXTRAS='flag eval'
test-extras: $(DEV)
	TORCH_FLAGS='$(TORCH_FLAGS)' TORCH='$(or $(TORCH),torch)' $(BIN)/python scripts/extras_test.py $(EXTRAS)

# The least and the newest supported versions of transformers and tokenizers, likewise.
test-versions: $(DEV)
	TORCH_FLAGS='$(TORCH_FLAGS)' TORCH='$(or $(TORCH),torch)' \
	  $(BIN)/python scripts/versions_test.py $(VERSIONS)

clean:
	rm -rf $(KERNELS) $(VENV) $(MILVUS) build dist .pytest_cache .mypy_cache .ruff_cache
