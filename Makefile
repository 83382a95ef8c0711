# make demo | test | check | bench | venv      any Python 3.11 or 3.12: make PYTHON=/path/to/python3 test
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/demo
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Workers and threads would fight for the same cores.
tests: export OMP_NUM_THREADS := 1

.PHONY: help venv demo test check lint types tests bench
.DEFAULT_GOAL := help

help:
	@echo "make demo   a reward model, a policy that exploits it, and what helps, on the embedded world"
	@echo "make test   the tests"
	@echo "make check  format, lint, types and tests: what CI runs"
	@echo "make bench  the benchmarks (up to an hour)"
	@echo "make venv   only install, into $(VENV)"

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "holdtrue needs Python 3.11 or 3.12, found neither; say where: make PYTHON=/path/to/python3" >&2; exit 2; fi
	@echo "Installing into $(VENV) with $$($(PYTHON) --version) (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	@rm -rf $(DEMO)
	@$(BIN)/holdtrue train --output $(DEMO)
	@$(BIN)/holdtrue demo --output $(DEMO)

test: tests

check: lint types tests

lint: $(INSTALLED)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(INSTALLED)
	@$(BIN)/mypy

tests: $(INSTALLED)
	@$(BIN)/python -m pytest -n $(WORKERS)

bench: $(INSTALLED)
	@$(BIN)/pip install -qq -c constraints.txt -e '.[bench]'
	@$(BIN)/python benchmarks/run.py
