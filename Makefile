# make demo   train a small CCDN on synthetic faces and look at what it learned (3 minutes on two cores)
# make check  formatting, types and a test of every part (2 minutes)
# make test   formatting, types, the site and every quick test
#
# Each makes a virtual environment in .venv first. PYTHON chooses the interpreter, PIP_CONSTRAINT the versions
# (constraints.txt holds those that continuous integration uses):
#     PIP_CONSTRAINT=$PWD/constraints.txt make test

PYTHON ?= python3
VENV ?= .venv
SWAP_VENV ?= .venv-swap
BIN := $(VENV)/bin
DEMO ?= runs/demo
# Processes that run tests. Each has one thread: two threads of two processes would wait for each other.
WORKERS ?= auto
SOURCES := $(wildcard csrc/*.cpp csrc/*/*.h csrc/cpu/*/*.h csrc/cpu/*/*.cpp csrc/torch/*.cpp csrc/*/*.cu csrc/*/*.cuh)
CONSTRAINT := $(if $(PIP_CONSTRAINT),$(abspath $(PIP_CONSTRAINT)))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(CONSTRAINT),)
export PIP_CONSTRAINT := $(CONSTRAINT)
endif

.DEFAULT_GOAL := help
.PHONY: help demo check test test-all test-swap test-torch coverage mutation sanitize gpu-check gpu-static gpu-train kernel-hub lint format docs bench wheel clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo 'make lint | format | docs | test-all | test-swap | test-torch | coverage | mutation | sanitize | gpu-check | gpu-static | gpu-train | kernel-hub | bench | wheel | clean   see CONTRIBUTING.md'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The native module is built into the tree, so that a change of a source file is one `make` away.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py csrc/bindings.py $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml setup.py csrc/bindings.py $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable '.[test,bench,dev,docs]'
	CCDN_TORCH=only $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(BIN)/ccdn ops
	$(BIN)/python -m ccdn.train --config tiny --data synthetic --out $(DEMO) --overwrite
	$(BIN)/ccdn evaluate --weights $(DEMO)/last.pt --out $(DEMO)
	@echo
	@echo 'Open in a browser: scores, curves, faces (green: predicted, white: truth), activation maps, settings:'
	@$(BIN)/ccdn report $(DEMO) --title 'CCDN on generated faces'

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile

check: lint
	$(PYTEST) -m check

test: lint docs
	$(PYTEST) -m 'not slow and not gpu'

test-all: lint docs
	$(PYTEST) -m 'not gpu'
	$(MAKE) sanitize
	$(MAKE) test-swap
	$(MAKE) test-torch

# Lines that the quick tests run, in a table; docs/testing.md says what does not count.
coverage: $(VENV)/.installed-dev
	rm -rf build/coverage
	$(BIN)/coverage run -m pytest tests -m 'not slow and not gpu'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Changes of metrics, readers and references that their tests do not notice: a sample of each, about half an hour of one core.
mutation: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[mutation]'
	for group in metrics readers references; do $(BIN)/python tests/mutation.py $$group --sample 300 || exit 1; done

# timm and torchvision with the torch that pip finds for them: the full CUDA build, about 6 GB; no device is
# needed. Never in $(VENV), where torchvision would replace torch or fail with it.
$(SWAP_VENV)/.installed: pyproject.toml setup.py csrc/bindings.py $(SOURCES)
	test -x $(SWAP_VENV)/bin/python || $(PYTHON) -m venv $(SWAP_VENV)
	PIP_CONSTRAINT= $(SWAP_VENV)/bin/python -m pip install --quiet 'torch>=2.10' torchvision timm numpy pytest
	PIP_CONSTRAINT= $(SWAP_VENV)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

test-swap: $(SWAP_VENV)/.installed
	$(SWAP_VENV)/bin/python -m pytest tests/swap tests/docs tests/ops/test_nn.py tests/ops/test_swap.py tests/ops/test_swap_left_alone.py tests/ops/test_swap_second_order.py

# The oldest torch that the package accepts and the newest that pip finds, each the full CUDA build in an environment of
# its own, about 6 GB; no device is needed. The tests are those of registration, autograd, compile and export.
TORCHES := 2.10 newest

.venv-torch-%/.installed: pyproject.toml setup.py csrc/bindings.py $(SOURCES)
	test -x .venv-torch-$*/bin/python || $(PYTHON) -m venv .venv-torch-$*
	PIP_CONSTRAINT= .venv-torch-$*/bin/python -m pip install --quiet $(if $(filter newest,$*),torch,'torch==$*.*') \
	  numpy pytest hypothesis ninja pybind11 'setuptools>=77'
	PIP_CONSTRAINT= .venv-torch-$*/bin/python -m pip install --quiet --no-deps --editable .
	CCDN_TORCH=only .venv-torch-$*/bin/python setup.py --quiet build_ext --inplace
	@touch $@

test-torch: $(TORCHES:%=.venv-torch-%/.installed)
	for torch in $(TORCHES); do \
	  .venv-torch-$$torch/bin/python -m pytest tests/ops/test_operators.py tests/ops/test_operator_derivatives.py \
	    tests/ops/test_operator_kernels.py tests/ops/test_decompositions.py tests/ops/test_flops.py \
	    tests/ops/test_direct.py tests/ops/test_direct_backward.py tests/ops/test_compiled.py \
	    -m 'not slow and not gpu' -k 'not triton' || exit 1; \
	done

# The operators' quick tests on a native module with AddressSanitizer and UndefinedBehaviorSanitizer (GCC), once for
# each instruction set that this machine has. The module is in $(SANITIZE) with a copy of the packages. The tests start
# there, so no process imports the tree's module. A fault ends the run with the sanitizer's message.
SANITIZE := build/sanitize
CPU_FLAGS := $(shell sed -n '/^flags/{s/.*://p;q;}' /proc/cpuinfo 2>/dev/null)
CPU_ISAS := base $(if $(filter avx2,$(CPU_FLAGS)),x86-64-v3) $(if $(filter avx512vl,$(CPU_FLAGS)),\
  $(if $(filter avx512_bf16,$(CPU_FLAGS)),avx512-bf16,x86-64-v4))

sanitize: $(VENV)/.installed-dev
	rm -rf $(SANITIZE)/ccdn $(SANITIZE)/ccdn_ops
	CXX='$(CXX)' CCDN_CUDA=off CCDN_TORCH=on LDFLAGS=-fsanitize=address,undefined \
	CXXFLAGS='-O1 -g1 -D_GLIBCXX_ASSERTIONS -fsanitize=address,undefined -fno-sanitize-recover=all' \
	  $(BIN)/python setup.py --quiet build --build-lib $(SANITIZE) --build-temp $(SANITIZE)/objects
	cd $(SANITIZE); for isa in $(CPU_ISAS); do \
	  CCDN_SANITIZE=1 CCDN_CPU_ISA=$$isa PYTHONPATH=.:$(CURDIR) \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1 \
	    $(abspath $(BIN))/python -m pytest $(CURDIR)/tests/ops -m 'not slow and not gpu' --capture=sys \
	    --ignore-glob='$(CURDIR)/tests/ops/test_cuda*' --ignore-glob='$(CURDIR)/tests/ops/test_triton*' || exit 1; \
	done

# These need a CUDA device. Neither command installs anything, because the device's machine may have no network: they
# use the Python of .venv if there is one, else $(PYTHON). CHECK and TRAIN hold their options:
#     make gpu-check CHECK='--minutes 9 --out runs/gpu'
GPU_PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

gpu-check:
	$(GPU_PYTHON) benchmarks/gpu_check.py $(CHECK)

# Needs no device: what the compiled kernels say about their speed. STATIC are the options of gpu_static.py:
#     make gpu-static STATIC='--check'
gpu-static: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/gpu_static.py $(STATIC)

gpu-train:
	$(GPU_PYTHON) benchmarks/gpu_train.py $(TRAIN)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

# The Triton kernels as a project for Hugging Face's kernel-builder, in HUB; docs/operators.md says what it is for.
HUB ?= build/kernel-hub

kernel-hub: $(VENV)/.installed
	$(BIN)/python tools/kernel_hub.py $(HUB)

# The site, with the reference from docstrings; a warning is an error.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/doctrees docs build/docs
	@echo 'Open in a browser: build/docs/index.html'

bench: $(VENV)/.installed-dev
	CCDN_BENCH_RESULTS=$${CCDN_BENCH_RESULTS-benchmarks/results} $(BIN)/python -m pytest benchmarks --benchmark-only

# dist/*.tar.gz, and dist/*.whl built from it with the torch-free tools of $(VENV). The audit fails if the wheel needs a
# library that some Linux systems lack.
AUDIT := import json, sys; found = json.load(sys.stdin); foreign = found.get("external_libs"); \
  print(found["wheel"], found.get("overall_tag", "pure"), foreign or "no foreign library"); sys.exit(bool(foreign))

wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m auditwheel show --json --allow-pure-python-wheel dist/*.whl | $(BIN)/python -c '$(AUDIT)'

clean:
	rm -rf build dist *.egg-info ccdn_ops/_*.so ccdn_ops/_*.so.partial .ninja_*
