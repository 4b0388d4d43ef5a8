# make demo   train a small CCDN on synthetic faces and look at what it learned (6 to 8 minutes on two cores)
# make test   formatting, types and every quick test
#
# Both make a virtual environment in .venv first. PYTHON chooses the interpreter, PIP_CONSTRAINT the versions
# (constraints.txt holds those that continuous integration uses):
#     PIP_CONSTRAINT=$PWD/constraints.txt make test

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
SOURCES := $(wildcard csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)
CONSTRAINT := $(if $(PIP_CONSTRAINT),$(abspath $(PIP_CONSTRAINT)))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(CONSTRAINT),)
export PIP_CONSTRAINT := $(CONSTRAINT)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo 'make lint | format | test-all | bench | clean   see CONTRIBUTING.md'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The native module is built into the tree, so that a change of a source file is one `make` away.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml setup.py $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable '.[test,bench,dev]'
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(BIN)/python -m ccdn_ops
	$(BIN)/python -m ccdn.train --config tiny --data synthetic --out $(DEMO) --overwrite
	$(BIN)/python -m ccdn.evaluate --weights $(DEMO)/last.pt --out $(DEMO)
	@echo
	@echo 'Look at $(DEMO)/faces.png (green: predicted, white: truth), $(DEMO)/ced.png and $(DEMO)/curves.png'

test: lint
	$(BIN)/python -m pytest tests -m 'not slow and not gpu'

test-all: lint
	$(BIN)/python -m pytest tests -m 'not gpu'

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

bench: $(VENV)/.installed-dev
	CCDN_BENCH_RESULTS=$${CCDN_BENCH_RESULTS-benchmarks/results} $(BIN)/python -m pytest benchmarks --benchmark-only

clean:
	rm -rf build dist *.egg-info ccdn_ops/_C*.so .ninja_*
