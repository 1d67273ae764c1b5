# What one does with this project. Each target says what it is for: `make help`.
# Works without root, from any path, and offline once everything is installed. PYTHON=… chooses the interpreter.

.DEFAULT_GOAL := help
SHELL := /bin/sh
EXERCISE ?= invariant_breach
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
COVERAGE := $(BIN)/python -m coverage

.PHONY: help run test check live load bench soak-kill docs setup lock clean venv venv-dev

help: ## show what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: setup ## install, fetch the real tools, and run one exercise (EXERCISE=name)
	$(BIN)/sim run $(EXERCISE)

test: venv-dev ## everything that must hold: lint, types, fast tests with coverage gates, bounded live tests
	$(BIN)/sim setup
	$(MAKE) --no-print-directory check
	scripts/engine.sh run -- $(PYTEST) tests/live -m "not slow and not alone" -n 3 --dist loadfile
	scripts/engine.sh run -- $(PYTEST) tests/live -m "not slow and alone"

check: venv-dev ## lint, types and the fast tests with their coverage gates; needs no real tool
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	rm -f .coverage
	$(PYTEST) -n auto -q -m "not live" --cov=mbp --cov-context=test --cov-report=
	$(BIN)/python scripts/coverage_gates.py

live: venv-dev ## every live test, also those that take minutes; with Go also on Prometheus 3; as root it brings Docker
	$(BIN)/sim setup
	-scripts/tools3.sh
	-scripts/toxiproxy.sh
	-scripts/node_client.sh
	scripts/engine.sh run --install -- $(PYTEST) tests/live -m "not alone" -n 3 --dist loadfile
	scripts/engine.sh run -- $(PYTEST) tests/live -m alone

load: venv-dev ## 120 requests a second on the local stack for ten minutes (LOAD_SECONDS=60: one minute)
	$(BIN)/sim setup
	$(BIN)/python -m tests.live.load

bench: venv ## measure, side by side, as ratios
	$(BIN)/python -m bench

soak-kill: venv-dev ## kill 500 random runs at random times, and write the leak rate to docs/leak-rate.md
	$(BIN)/python -m tests.live.matrix.soak --seeds 500 --write

docs: venv-dev ## write the pages of docs/injectors anew, from what the injectors declare
	$(BIN)/python -m scripts.docs_injectors

setup: venv ## install, and fetch the real tools that the bundled stack needs (without root)
	$(BIN)/sim setup

lock: ## renew the lock files from pyproject.toml (needs uv)
	scripts/lock.sh

clean: ## remove what building and testing leave; keeps runs/, .sim/ and .venv/
	rm -rf dist build .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -path ./runs -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@scripts/venv.sh run

venv-dev:
	@scripts/venv.sh dev
