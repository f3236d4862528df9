# Everything a contributor runs. Each target does its own set-up in .venv, from a fresh clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup test check chaos versions demo bench clean

help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv and install the project into it, editable

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Conductor needs Python 3.11 or later; $(PYTHON) is older. Write: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

check: $(READY)  ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests start some hundred interpreters: let them find compiled modules, whatever the environment says.
test: check      ## everything that must pass before a merge
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n 4 --dist worksteal

# SEEDS=50 runs the first fifty lives only, SEED=123 one alone.
chaos: $(READY)  ## kill everything at every boundary; the whole matrix takes hours
	env -u PYTHONDONTWRITEBYTECODE CHAOS=1 $(BIN)/pytest tests/chaos -n 4 --dist worksteal

versions: $(READY) ## the tests that need PostgreSQL, with its older versions; needs npm
	$(BIN)/python -m testbed.versions

demo: $(READY)   ## the main job on real input, in about a minute
	$(BIN)/conductor-supervisor demo

# Fails nothing, as a machine may be slow or busy: what misses its target is marked.
bench: $(READY)  ## measure, in about a quarter of an hour; prints a table and writes bench.json
	$(BIN)/python -m benchmarks --json bench.json

clean:           ## remove what the targets above made
	rm -rf $(VENV) .postgres .mypy_cache .ruff_cache .pytest_cache .hypothesis dist bench.json
