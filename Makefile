# Everything from a bare Python 3.11 (or 3.12, 3.13), git and make. Every target sets up what it needs; the second time
# nothing is downloaded.
#
#   PYTHON=python3.12           the interpreter that makes the environment
#   TORCH_INDEX=URL             package index for torch alone, e.g. one with CPU-only builds
#   ARGS="-k spec -x"           more words for pytest (in one process then), or for the demo and the benchmarks
#   WORKERS=1                   processes that share the tests; one more than cores by default, since some wait for robots

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The tests and the demo start hundreds of processes; without bytecode each would compile this tree again.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# Unless one is named: the interpreter of the environment that is there, else the first that is found.
ifndef PYTHON
PYTHON := $(shell for name in $(VENV)/bin/python python3.11 python3.12 python3.13 python3; do \
  $$name -c '$(SUPPORTED)' 2>/dev/null && command -v $$name && break; done)
endif
TORCH_INDEX ?=
ARGS ?=
WORKERS ?= $$($(BIN)/python -c 'import os; print(min((os.cpu_count() or 1) + 1, 5))')
EXTRAS := sim,suites,bullet,warp,train,video,convert,export,ros,teleop,ray,dev

, := ,
BIN := $(VENV)/bin
PINS := robopolicy/pins/constraints.txt
TORCH := $(shell grep '^torch==' $(PINS))
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint $(PINS)
# torch alone comes from its index, what it needs from the usual one.
TORCH_FROM_INDEX = $(PIP) --no-deps --index-url "$(TORCH_INDEX)" "$(TORCH)"; $(PIP) "$(TORCH)"; echo "$(TORCH_INDEX)" > $(VENV)/.torch-index
# The environment is complete for exactly these pins, this project file and this interpreter.
KEY := $(shell { $(or $(PYTHON),false) -V 2>&1 || true; cat pyproject.toml robopolicy/pins/*.txt; } | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.complete-$(KEY)

.PHONY: help setup demo test soak check bench clean

help: ## say what there is
	@echo "make setup   an environment in $(VENV) with pinned packages; quick when it is there"
	@echo "make demo    demonstrations, three policies, evaluation, a robot driven in closed loop, a report"
	@echo "make test    all tests that take seconds"
	@echo "make soak    the tests that take minutes"
	@echo "make check   ruff and pyright"
	@echo "make bench   the benchmarks, quick; figures in runs/bench"
	@echo "make clean   remove caches and build products; data/, runs/ and $(VENV) stay"

setup: $(STAMP)
	@if [ -n "$(TORCH_INDEX)" ] && [ "$$(cat $(VENV)/.torch-index 2>/dev/null)" != "$(TORCH_INDEX)" ]; then \
	  $(BIN)/python -m pip uninstall -q -y torch; \
	  $(TORCH_FROM_INDEX); \
	fi

$(STAMP):
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || \
	  { echo "make setup: needs Python 3.11 to 3.13$(if $(PYTHON),$(,) and $(PYTHON) is none): apt-get install python3.11 python3.11-venv, or PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make setup: $(PYTHON) cannot make environments (no ensurepip): apt-get install python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" >&2; exit 1; }
	@echo "setup 1/4: an environment in $(VENV) ($$($(PYTHON) -V))"
	@rm -f $(VENV)/.complete-*
	@[ "$$($(BIN)/python -V 2>/dev/null)" = "$$($(PYTHON) -V)" ] || $(PYTHON) -m venv --clear $(VENV)
	@echo "setup 2/4: $(TORCH)"
	@if [ -n "$(TORCH_INDEX)" ]; then $(TORCH_FROM_INDEX); else $(PIP) "$(TORCH)"; fi
	@echo "setup 3/4: robopolicy and its extras $(EXTRAS)"
	@$(PIP) hatchling
	@$(PIP) --no-build-isolation --editable ".[$(EXTRAS)]"
	@echo "setup 4/4: Meta-World, gym-aloha"
	@$(BIN)/robopolicy install metaworld gym-aloha
	@touch $(STAMP)

demo: setup ## collect, train, evaluate, serve, drive, report
	@$(BIN)/robopolicy demo $(ARGS)

# Tests are spread over the cores; those that ask whether several processes keep their time run alone after them.
# One that hangs for ten minutes ends its process, which says where; soaks may take longer.
HANGS = -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
test: setup ## the tests that take seconds
ifeq ($(strip $(ARGS)),)
	@status=0; $(BIN)/python -m pytest $(HANGS) -n $(WORKERS) --dist worksteal --ignore tests/faults || status=1; \
	$(BIN)/python -m pytest $(HANGS) tests/faults || status=1; exit $$status
else
	@$(BIN)/python -m pytest $(ARGS)
endif

soak: setup ## the tests that take minutes
	@$(BIN)/python -m pytest -m soak $(ARGS)

check: setup ## style and types
	@$(BIN)/ruff check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

bench: setup ## speed, side by side with peers
	@mkdir -p runs/bench
	@for name in $$($(BIN)/python -c 'from robopolicy.bench.harness import names; print(*names())'); do \
	  $(BIN)/robopolicy bench $$name --quick --json runs/bench/$$name.json $(ARGS); \
	done

clean:
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
