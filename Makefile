# The two commands that matter: `make demo` and `make test`. Both make what they need in .venv.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CONTRIB := contrib/nodekit-metrics
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: help demo demo-docker test packages drills api lint types format clean
.DEFAULT_GOAL := help

help: ## Show this.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Run a real node: jobs of three steps over HTTP, from start to success.
	@$(BIN)/nodekit demo

demo-docker: $(VENV)/.installed ## The same, each step in a Docker container. Needs an engine, or root on Debian.
	@$(BIN)/python tests/engine run -- $(BIN)/python tests/engine/hello.py

test: $(VENV)/.installed-test ## Run the tests; ARGS="-k word" chooses some.
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup $(ARGS)

packages: $(VENV)/.python ## Build the wheels, and try them and what `nodekit new` writes in a new environment.
	@$(BIN)/python tests/wheels

drills: $(VENV)/.installed-test ## Load a node, and kill it under load 200 times; DRILL_KILLS=n and DRILL_SEED=n choose others.
	@DRILL_KILLS=$${DRILL_KILLS:-200} $(BIN)/python -m pytest -q -s tests/faults/test_drills.py tests/faults/test_load.py $(ARGS)

api: $(VENV)/.installed-test ## Write the plugin API down as it is now, for a release; see CONTRIBUTING.md.
	@$(BIN)/python tests/api

lint: $(VENV)/.installed-dev ## Check style (ruff).
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## Check types (mypy and pyright, both strict).
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev ## Put the code into shape (ruff).
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

clean: ## Remove the environment and everything generated.
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that what it names is installed as pyproject.toml has it.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("nodekit needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make $(MAKECMDGOALS) PYTHON=python3.11" % v[:2])'
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.python
	@echo "installing nodekit"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(CONTRIB:%=%/pyproject.toml) $(VENV)/.python
	@echo "installing nodekit and what its tests need"
	@$(PIP) --editable '.[test]' $(CONTRIB:%=--editable %)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml $(CONTRIB:%=%/pyproject.toml) $(VENV)/.python
	@echo "installing nodekit and what working on it needs"
	@$(PIP) --editable '.[dev]' $(CONTRIB:%=--editable %)
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test
