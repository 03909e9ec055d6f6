# Minicloud: `make` lists the commands. Each sets up what it needs itself.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
N ?= 100
TIER ?= fast
ONCE ?=

.PHONY: help run test check lint bench fleet cluster cluster-down docs lock clean

help:  ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run examples  ## everything up, one deployment from request to page; ONCE=1 ends after it
	@$(PY) -m minicloud tour $(if $(ONCE),--once,)

test: $(VENV)/test  ## all tests, with lint; obtains the real parts that they need
	@$(MAKE) --no-print-directory lint
	@$(PY) -m pytest

check: $(VENV)/test  ## the fast tests
	@$(PY) -m pytest -q -m "not slow"

lint: $(VENV)/test  ## ruff, mypy --strict, import-linter
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check -q .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache | tail -n 4

bench: $(VENV)/test  ## every benchmark, each beside its peer; figures as in bench/README.md
	@$(PY) -m bench

fleet: $(VENV)/run  ## a stack with N=100 simulated nodes, until Ctrl-C
	@$(PY) -m minicloud up --fleet $(N)

cluster: $(VENV)/test  ## a real Kubernetes on this machine; TIER=full with a real node and 500 simulated ones
	@$(PY) -m tests.cluster up $(TIER)

cluster-down:  ## end it; nothing of it is left
	@[ ! -x $(PY) ] || $(PY) -m tests.cluster down

docs: $(VENV)/test  ## regenerate docs/reference from schemas/
	@$(PY) -m docs.generate

lock: $(VENV)/test  ## resolve the dependencies anew
	@$(PY) -m pip install -q uv
	@for extra in run test; do \
	  $(PY) -m uv pip compile -q pyproject.toml $$([ $$extra = test ] && echo --extra test || true) --upgrade --universal \
	    --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url \
	    --no-emit-find-links -o requirements/$$extra.lock; done

clean:  ## remove what the commands made here: the environment, caches, data
	rm -rf $(VENV) .data .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	@$(MAKE) --no-print-directory -C examples clean

.PHONY: examples
examples:
	@$(MAKE) --no-print-directory -C examples

$(VENV)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing; Python 3.11 or newer is needed"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed, $(PYTHON) is older; say PYTHON=python3.12"; exit 1; }
	@echo "making the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run: $(VENV)/python requirements/run.lock pyproject.toml
	@echo "installing what Minicloud needs (locked, by hash)"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/run.lock
	@$(PY) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . 2>/dev/null || \
	  $(PY) -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/test: $(VENV)/run requirements/test.lock
	@echo "installing what the tests need (locked, by hash)"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/test.lock
	@touch $@
