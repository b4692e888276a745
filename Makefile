# Every target makes what it needs, and only what is missing or out of date.

PYTHON ?= python3
FILE ?= README.md
ARGS ?=
MINUTES ?= 30
# Tests wait for processes more than they compute. More than eight at a time would want more connections than Postgres has.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(8, 2 * (os.cpu_count() or 1)))')
SEED := $(or $(SEED),$(shell date +%s))
CHAOS := $(CURDIR)/.services/chaos.jsonl

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Stamps live in the virtual environment, so that they go with it.
DEMO := .venv/.installed-for-demo
FULL := .venv/.installed-in-full

.DEFAULT_GOAL := help
.PHONY: help venv demo test coverage soak chaos check bench services services-stop clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(FULL) ## Install everything for development into .venv

demo: $(if $(wildcard $(FULL)),$(FULL),$(DEMO)) ## Run the demo workflow in one process, without any server: FILE=README.md
	@$(BIN)/nightfleet run config/demo.yaml --embedded --text "@$(FILE)"

test: check services ## Check the code and run all tests: JOBS=4 ARGS="-x"
	@# Where Python is told to write no bytecode, each of thousands of processes would compile all of this again.
	@$(BIN)/python -m compileall -q orchestrator worker
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: $(FULL) services ## Run all tests and measure what they reach, in the processes of workers too; twice as slow
	$(BIN)/python -m pytest --cov -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

soak: $(FULL) services ## Half an hour of steady load on each broker while workers come and go: MINUTES=30
	NIGHTFLEET_TEST_SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/chaos/test_soak.py

chaos: $(FULL) services ## The long form of the chaos suite, about an hour; writes docs/reliability.md: SEED=7
	@echo "SEED=$(SEED)"; rm -f $(CHAOS)
	NIGHTFLEET_TEST_CHAOS=long NIGHTFLEET_TEST_SEED=$(SEED) NIGHTFLEET_TEST_CHAOS_REPORT=$(CHAOS) \
		$(BIN)/python -m pytest tests/chaos -m scenario -s $(ARGS)
	$(BIN)/python docs/generate_reliability.py $(CHAOS)

check: $(FULL) ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(FULL) services ## Run the benchmarks: ARGS="name"
	$(BIN)/python benchmarks/run.py $(ARGS)

services: ## Start Postgres, RabbitMQ, Redis and PgBouncer for the tests; they stay until services-stop
	@$(PYTHON) tests/services.py start

services-stop: ## Stop them
	@$(PYTHON) tests/services.py stop

clean: ## Stop the servers and remove all that was made here, .venv too
	@test ! -e .services || $(PYTHON) tests/services.py stop
	rm -rf .venv .venv-bench .services .nightfleet .pytest_cache .ruff_cache .coverage .coverage.* htmlcov build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# pip is the last that `venv` makes: an environment that was left half-made is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Nightfleet needs Python 3.11 or newer, and $(PYTHON) is none. Name one: make PYTHON=/path/to/python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. Debian, Ubuntu: sudo apt-get install python3-venv" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv

$(DEMO): pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) --editable .
	@touch $@

$(FULL): pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) --editable '.[all,dev]'
	@touch $@
