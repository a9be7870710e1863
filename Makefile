# Every target makes its own .venv and installs what it needs; nothing but python3 (3.11 or later) and make is assumed.
PYTHON ?= python3
VENV := .venv
# Flower's packages need versions of their own, and it is started as programs, so it has an environment of its own.
FLOWER := .venv-flower
NVFLARE := .venv-nvflare
# The fuzzer instruments what it imports, and comes as a wheel for some versions of Python only.
FUZZ := .venv-fuzz
BIN := $(VENV)/bin
# Tests run in as many processes as there are processors.
JOBS ?= auto
# Seconds of fuzzing, for all targets together.
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help demo test check e2e bench fuzz clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Three hospitals train one model over post-quantum transport (under two minutes)
	$(BIN)/pqfl demo --out demo-out

test: $(VENV)/.test $(FLOWER)/.ready ## Run the tests, end-to-end ones included
	$(BIN)/pytest -n $(JOBS) -m "not slow"

check: $(VENV)/.test ## Lint, format, types, import contracts, a test file for every module
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -p no:cacheprovider tests/test_layout.py

e2e: $(VENV)/.test $(FLOWER)/.ready $(NVFLARE)/.ready ## Run the end-to-end tests alone, the slow ones too (minutes)
	$(BIN)/pytest tests/end_to_end

bench: $(VENV)/.test ## Measure relay, envelope, authority and rules beside their peers; see benchmarks/README.md
	$(BIN)/python benchmarks/content.py
	$(BIN)/python benchmarks/envelopes.py
	$(BIN)/python benchmarks/relay.py
	$(BIN)/python benchmarks/connections.py
	$(BIN)/python benchmarks/pki.py
	$(BIN)/python benchmarks/robust.py
	$(BIN)/python benchmarks/secagg.py

fuzz: $(FUZZ)/.ready ## Fuzz every parser of untrusted bytes for FUZZ_SECONDS in all (60); see tests/fuzz/README.md
	$(FUZZ)/bin/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS) $(TARGETS)

clean: ## Remove the virtual environment, caches and work folders
	rm -rf $(VENV) $(FLOWER) $(NVFLARE) $(FUZZ) .fuzz build dist *.egg-info demo-out bench-out
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "pqfl needs Python 3.11 or later; call make PYTHON=/path/to/python3.11 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(FLOWER)/.ready: $(VENV)/.python
	$(PYTHON) -m venv $(FLOWER)
	$(FLOWER)/bin/python -m pip install --quiet 'flwr>=1.40,<2' 'scikit-learn>=1.6'
	@touch $@

$(NVFLARE)/.ready: $(VENV)/.python
	$(PYTHON) -m venv $(NVFLARE)
	$(NVFLARE)/bin/python -m pip install --quiet 'nvflare>=2.9,<2.10' 'scikit-learn>=1.6'
	@touch $@

$(FUZZ)/.ready: $(VENV)/.python pyproject.toml
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --editable '.[fuzz]'
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo,test]'
	@touch $@ $(VENV)/.demo
