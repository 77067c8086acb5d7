# Thin: every target installs the pinned packages it needs into .venv, then runs one command that you could type yourself.
#
#   PYTHON     the interpreter to build .venv with (3.11 to 3.13)
#   SET        what to install: cpu or gpu, and additions after it: SET="cpu jax", SET="cpu ray". Remembered in .venv
#   MIRROR     where to fetch datasets from first:   make repro MIRROR=file:///mnt/mnist/
#   WORKSPACE  whose runs `make ui` shows:           make ui WORKSPACE=runs/demo
#   WORKERS    processes that run tests:             make test WORKERS=1; one per core, at most 6, where it is not given

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SET ?= $(shell cat $(VENV)/.set 2>/dev/null || echo cpu)
WORKSPACE ?= .
HERE := $(or $(CURDIR),$(shell pwd))
PORT ?= 5000
WORKERS ?= logical
# A file's tests stay in one process, so that they share what the file prepares; tests/conftest.py lists which come first.
PYTEST := $(BIN)/pytest -n $(WORKERS) --maxprocesses 6 --dist loadfile --no-loadscope-reorder

REQUIREMENTS := $(SET:%=requirements/%.txt)
PINS := $(shell echo "$(SET)" | cat - $(REQUIREMENTS) requirements/uv.txt pyproject.toml 2>/dev/null | \
	{ sha256sum 2>/dev/null || shasum -a 256; } | cut -c 1-16)
INSTALLED := $(VENV)/.installed-$(PINS)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.PHONY: help install demo demo-color repro ui test test-all test-slow test-faults test-changed test-durations test-backends test-engines lint format typecheck bench doctor lock clean-venv

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## the whole pipeline on real digits, offline, in runs/demo
	@$(BIN)/pipeline run --workspace runs/demo -S 'datasets=[digits]'

demo-color: $(INSTALLED) ## the same on drawn colour pictures, offline, in runs/demo-color
	@$(BIN)/pipeline run --workspace runs/demo-color -S 'datasets=[shapes]'

repro: $(INSTALLED) ## check the settings, ingest incoming data, then run every stage that is out of date [MIRROR=…]
	@$(BIN)/pipeline ingest && $(BIN)/dvc repro

ui: $(INSTALLED) ## MLflow's pages for the runs and models, on port 5000 [WORKSPACE=runs/demo] [PORT=…]
	@case "$${MLFLOW_TRACKING_URI:-}" in \
	  http*) echo "the runs are on the server that MLFLOW_TRACKING_URI names: open that in a browser"; exit 0;; \
	esac; \
	case "$(WORKSPACE)" in .) folder="$(HERE)";; /*) folder="$(WORKSPACE)";; *) folder="$(HERE)/$(WORKSPACE)";; esac; \
	store="$${MLFLOW_TRACKING_URI:-sqlite:///$$folder/mlflow.db}"; \
	case "$$store" in \
	  sqlite*:////*|file:/*|/*) ;; \
	  sqlite*:///*) store="$${store%%:///*}:///$(HERE)/$${store#*:///}";; \
	  file:*) store="file:$(HERE)/$${store#file:}";; \
	  ./*|../*) store="$(HERE)/$$store";; \
	esac; \
	file="$${store#sqlite*:///}"; file="$${file%%\?*}"; \
	if [ "$$file" != "$$store" ] && [ ! -f "$$file" ]; then \
	  next="make demo, make ui WORKSPACE=runs/demo"; \
	  test -z "$${MLFLOW_TRACKING_URI:-}" || next="correct or unset MLFLOW_TRACKING_URI"; \
	  echo "error: no runs: expected $$file; next: $$next" >&2; \
	  exit 1; \
	fi; \
	echo "MLflow starts on http://127.0.0.1:$(PORT) (10 s); Ctrl-C stops it"; \
	cd "$(WORKSPACE)" && MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_BACKEND_STORE_URI="$$store" \
	  exec "$(CURDIR)/$(BIN)/mlflow" server --host 127.0.0.1 --port $(PORT) --workers 1

test: $(INSTALLED) ## the tests, in parallel: 5 minutes on 2 cores [WORKERS=…]
	@$(PYTEST)

test-all: $(INSTALLED) ## the tests, and those of test-slow and test-faults
	@$(PYTEST) -m "slow or not slow"

test-slow: $(INSTALLED) ## the tests that kill processes or train for minutes [TESTS="tests/test_retrain.py"]
	@$(PYTEST) -m slow $(TESTS)

test-faults: $(INSTALLED) ## kills every command before each of its writes, and compares: prints sites and counts, in 20 minutes
	@$(BIN)/pytest -m "faults or not slow" -rP tests/test_faults.py

test-changed: $(INSTALLED) ## the tests whose imports reach what differs from the branch main
	@tests=$$($(BIN)/python -m tests.changed_tests) && $(PYTEST) $$tests

test-durations: $(INSTALLED) ## the tests, and which 20 of them take longest
	@$(PYTEST) -q --durations=20

test-backends: ## the tests of Keras on every backend: installs jax and torch, in .venv-backends
	@$(MAKE) --no-print-directory install VENV=.venv-backends SET="cpu jax"
	@.venv-backends/bin/python -m pip install -qq --disable-pip-version-check "torch==2.13.0"
	@BACKENDS="tensorflow jax torch" .venv-backends/bin/python -m pytest -m "slow or not slow" tests/test_backends.py

test-engines: ## the tests of the Ray engine, which add Ray to .venv
	@$(MAKE) --no-print-directory install SET="$(firstword $(SET)) ray"
	@PIPELINE_REQUIRE=ray $(BIN)/pytest -m slow tests/test_ray.py

lint: $(INSTALLED) ## rules, format, types, and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(INSTALLED) ## format the code and apply automatic fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

typecheck: $(INSTALLED) ## types only
	@$(BIN)/mypy

bench: ## what we claim about speed, measured here: 45 minutes on prepared MNIST, nothing else running
	@$(MAKE) --no-print-directory install SET="$(firstword $(SET)) bench"
	@for name in throughput overhead search; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

doctor: $(INSTALLED) ## what this machine has and lacks
	@$(BIN)/pipeline doctor

install: $(INSTALLED) ## what the other targets do first: the pinned packages [SET=gpu] [PYTHON=python3.12]
	@:

# The stamp's name holds a hash of the pins: changed pins are another stamp, so they are installed.
$(INSTALLED):
	@for file in $(REQUIREMENTS); do \
	  test -f "$$file" || { echo "error: SET=$(SET): no $$file; expected cpu or gpu, then jax or ray" >&2; exit 1; }; \
	done
	@test -x $(BIN)/python || { \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13 ($$($(PYTHON) --version 2>&1)); next: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }; \
	  echo "making $(VENV) (5 s)"; $(PYTHON) -m venv $(VENV); }
	@rm -f $(VENV)/.installed-*
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@echo "installing uv (3 s)"
	@# Settings that would install elsewhere are overridden, those of indexes are kept. For pip, an empty prefix or root
	@# is the working directory, so they are named.
	@env -u PIP_USER -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT -u PIP_PYTHON $(BIN)/python -m pip install -qq \
	  --disable-pip-version-check --no-user --target= --prefix="$$(cd $(VENV) && pwd)" --root=/ \
	  --require-hashes -r requirements/uv.txt
	@test -x $(BIN)/uv || { \
	  echo "error: pip did not install uv: expected $(BIN)/uv; next: $(BIN)/python -m pip config list" >&2; exit 1; }
	@# The builds of TensorFlow own the same files: one goes before another comes.
	@test ! -f $(VENV)/.set || test "$$(cut -d ' ' -f 1 $(VENV)/.set)" = "$(firstword $(SET))" || \
	  $(BIN)/uv pip uninstall --quiet --python $(BIN)/python tensorflow tensorflow-cpu
	@echo "installing the pinned packages, set: $(SET) (25 s when cached, else 0.6 GB to fetch; gpu: 4 GB)"
	@# Compiled at once, on all cores: importing TensorFlow takes 3.4 s then, and 11 s for every process that has to
	@# compile it first, which is each of them where PYTHONDONTWRITEBYTECODE is set, as in many containers.
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -b requirements/cpu.txt $(REQUIREMENTS:%=-r %)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@echo "$(SET)" > $(VENV)/.set
	@touch $@

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
EXTRA = $(BIN)/python -c 'import sys, tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")'

lock: $(INSTALLED) ## write the pins in requirements/ anew from pyproject.toml [UPGRADE=1: newest versions]
	@echo "resolving (5 s when cached)"
	@$(COMPILE) pyproject.toml --extra cpu --group dev -o requirements/cpu.txt
	@$(COMPILE) pyproject.toml --extra gpu --group dev -c requirements/cpu.txt -o requirements/gpu.txt
	@$(EXTRA) jax | $(COMPILE) - -c requirements/cpu.txt -o requirements/jax.txt
	@$(EXTRA) ray | $(COMPILE) - -c requirements/cpu.txt -o requirements/ray.txt
	@$(EXTRA) bench | $(COMPILE) - -c requirements/cpu.txt -o requirements/bench.txt
	@echo uv | $(COMPILE) - -o requirements/uv.txt

clean-venv: ## remove .venv
	rm -rf $(VENV)
