# Freshet from a clean checkout: `make demo` to see it, `make test` to trust it.
#
# Every target first makes .venv and installs Freshet into it, editable: `make demo` and `make kernels` only what
# Freshet runs on, the others with torch and the development tools. A stamp file inside .venv remembers each of the
# two; an install runs again only when pyproject.toml changes.
#
#   make demo ARGS="--seconds 30"                what follows goes to `freshet demo`
#   make test-fast ARGS="tests/stream -x"        what follows goes to pytest
#   make demo PYTHON=python3.12                  another interpreter (3.11 or newer), for a new .venv
#   make demo PIP_ARGS="--extra-index-url URL"   what follows goes to pip, e.g. for a torch without CUDA (make test)

PYTHON ?= python3
PIP_ARGS ?=
SEEDS ?= 0:2000
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# A file's tests stay in one process, so what they share is made once; tests/conftest.py puts the longest first.
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder --maxprocesses 6 --numprocesses
# Tests wait for two thirds of their time, for processes, for servers that stop and for clocks: three for each core.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 2 ? 3 : 6)))
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

# Where this is set, each of some hundred processes compiles all of Freshet's Python again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo kafka test suite test-fast test-deep test-kafka kernels simulate mutants lint format clean

help:
	@echo "make demo       watch a model learn from a live stream (two minutes, ends by itself)"
	@echo "make kafka      a Kafka broker at 127.0.0.1:9092 until Ctrl-C (needs a JDK and Maven)"
	@echo "make test       everything that must pass: lint, types and the whole test suite"
	@echo "make test-fast  while coding: leaves out tests that start processes, and those marked slow"
	@echo "make test-deep  the tests that start no processes, with twenty times as many generated examples"
	@echo "make test-kafka the tests of the log and of the roles on Kafka 2.8, 3.6 and 3.9 (minutes)"
	@echo "make mutants    change the code at random and see which changes no test notices (half an hour)"
	@echo "make simulate   2,000 schedules of crashes and faults, all roles in one process (SEEDS=FROM:TO)"
	@echo "make lint       ruff (rules and format) and mypy"
	@echo "make format     put the code into ruff's format"
	@echo "make clean      remove .venv, caches and build outputs"

demo: $(STAMP)
	$(BIN)/freshet demo $(ARGS)

kafka:
	@$(PYTHON) deploy/kafka/broker.py $(ARGS)

# The kernels are compiled while pip fetches the development tools. Lint runs beside the suite: tests of processes
# often wait, and so does a core.
test: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=2 lint suite

suite: $(DEV_STAMP) kernels
	$(PYTEST) $(WORKERS) -m "not long" $(ARGS)

test-fast: $(DEV_STAMP) kernels
	$(PYTEST) $(WORKERS) --durations=3 --durations-min=1 -m "not long and not process and not slow" $(ARGS)

test-deep: $(DEV_STAMP) kernels
	FRESHET_EXAMPLES=20 $(PYTEST) auto -m "not long and not process" $(ARGS)

# The tests of the log and of the roles, on an older broker: what `make test` does on the newest.
test-kafka: $(DEV_STAMP) kernels
	for version in 2.8.2 3.6.2 3.9.1; do \
	  FRESHET_KAFKA_VERSION=$$version $(BIN)/python -m pytest --quiet -m "process and not long" \
	    tests/stream/log tests/stream/run tests/stream/produce tests/freshet/roles $(ARGS) || exit 1; \
	done

# Compiled once before the tests' processes begin: each of them would compile the same ones again.
kernels: $(STAMP)
	@$(BIN)/python -c 'from freshet.warmup import warm_up; warm_up(everything=True)'

mutants: $(DEV_STAMP)
	$(BIN)/python tests/mutants/mutants.py $(ARGS)

simulate: $(DEV_STAMP) kernels
	PYTHONHASHSEED=0 $(BIN)/python tests/simulate/simulate.py --seeds $(SEEDS)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is made last, so an install that was interrupted runs again. Python compiles what it imports of 10,000
# files; compiling all of them would take pip 40 s.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Freshet needs Python 3.11 or newer; choose one with PYTHON=, e.g. make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile $(PIP_ARGS) --editable .
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile $(PIP_ARGS) --editable '.[dev]'
	@touch $@
