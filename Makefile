# make help says what there is. Everything is installed in this folder: .venv to use, .venv-test to test.

.DEFAULT_GOAL := help
.PHONY: help train bench test test-cluster lint lock clean

# The first Python from 3.11 to 3.13 that works (a command may exist and still fail); make PYTHON=... overrides.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && { command -v $$python; break; }; done)
# LATEST=1: in environments of their own, with the newest releases instead (Python 3.12 or 3.13).
LATEST ?=
NEWEST = $(if $(filter-out 0,$(LATEST)),-latest)
ENV = .venv$(NEWEST)
TEST_ENV = .venv-test$(NEWEST)
LOCK = requirements$(NEWEST).lock
PIP = -m pip install --quiet --no-compile --disable-pip-version-check
PACKAGE = --constraint $(LOCK) --editable
ARGS ?=

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

train: $(ENV)/installed ## train; settings in ARGS, e.g. make train ARGS="env=smax env.map=3m"
	@$(ENV)/bin/qmix-jax train $(ARGS)

bench: $(ENV)/installed ## measure throughput, a few minutes; settings in ARGS, e.g. make bench ARGS="--quick env.map=3m"
	@$(ENV)/bin/qmix-jax bench $(ARGS)

test test-cluster: export PYTHONDONTWRITEBYTECODE = # tests start many processes: with bytecode each imports in a third of the time

PYTEST = $(TEST_ENV)/bin/python -m pytest
PARALLEL = --numprocesses logical --dist loadfile --no-loadscope-reorder

test: $(TEST_ENV)/installed ## every test but the slow ones; some, slow ones too: make test ARGS="tests/test_cli.py -k help"; LATEST=1 takes the newest releases
	@$(PYTEST) $(PARALLEL) $(or $(ARGS),-m "not slow")

test-cluster: $(TEST_ENV)/installed ## the slow tests and those that start servers: Slurm (Debian's slurm-wlm and munge, as root; else skipped), Ray, several hosts; with ARGS those of servers alone
	@$(if $(ARGS),,$(PYTEST) $(PARALLEL) -m slow)
	@$(PYTEST) -rs tests/cluster $(ARGS)

lint: $(TEST_ENV)/installed ## check style, types and which module imports which
	@$(TEST_ENV)/bin/ruff check
	@$(TEST_ENV)/bin/ruff format --check
	@$(TEST_ENV)/bin/lint-imports --no-cache --no-logo
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(TEST_ENV)/bin/pyright --pythonpath $(TEST_ENV)/bin/python

.venv/installed .venv-latest/installed: EXTRA =
.venv-test/installed .venv-test-latest/installed: EXTRA = [dev]

$(ENV)/installed $(TEST_ENV)/installed: pyproject.toml $(LOCK)
	@test -n "$(PYTHON)" || { echo "No working Python 3.11, 3.12 or 3.13 found; say make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into $(@D) with $(PYTHON); this takes up to a minute, once ..."
	@rm -rf $(@D)
	@"$(PYTHON)" -m venv $(@D)
	@{ $(@D)/bin/python $(PIP) --constraint $(LOCK) uv && $(@D)/bin/uv pip install --quiet --python $(@D)/bin/python $(PACKAGE) ".$(EXTRA)"; } \
	2>/dev/null || $(@D)/bin/python $(PIP) $(PACKAGE) ".$(EXTRA)" # uv takes a fifth of the time, where it finds the registry
	@touch $@

lock: ## pin the newest releases again: requirements.lock from Python 3.11 on, requirements-latest.lock from 3.12 on
	@"$(PYTHON)" -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@for lock in requirements.lock:3.11 requirements-latest.lock:3.12; do \
		.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version $${lock#*:} --fork-strategy fewest \
		--extra dev --no-header --no-annotate --no-emit-index-url pyproject.toml --output-file $${lock%:*} || exit; done
	@rm -rf .venv-lock
	@echo "requirements.lock and requirements-latest.lock are new; run make test and make test LATEST=1"

clean: ## remove the environments and caches; runs stay
	rm -rf .venv .venv-latest .venv-test .venv-test-latest .venv-lock .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
