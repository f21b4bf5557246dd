# make help says what there is. Everything is installed in this folder: .venv to use, .venv-test to test.

.DEFAULT_GOAL := help
.PHONY: help train bench test lint lock clean

# The first Python from 3.11 to 3.13 that works (a command may exist and still fail); make PYTHON=... overrides.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	>/dev/null 2>&1 && { command -v $$python; break; }; done)
INSTALL = -m pip install --quiet --no-compile --disable-pip-version-check --constraint requirements.lock --editable
FAST ?=
ARGS ?=

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

train: .venv/installed ## train; settings in ARGS, e.g. make train ARGS="env=smax env.map=3m"
	@.venv/bin/qmix-jax train $(ARGS)

bench: .venv/installed ## measure throughput, a few minutes; settings in ARGS, e.g. make bench ARGS="--quick env.map=3m"
	@.venv/bin/qmix-jax bench $(ARGS)

test: .venv-test/installed ## every test; FAST=1 leaves out the slow ones; some: make test ARGS="tests/test_cli.py -k help"
	@.venv-test/bin/python -m pytest --numprocesses logical --dist loadfile --no-loadscope-reorder $(if $(filter-out 0,$(FAST)),-m "not slow") $(ARGS)

lint: .venv-test/installed ## check style and types
	@.venv-test/bin/ruff check
	@.venv-test/bin/ruff format --check
	@.venv-test/bin/pyright --pythonpath .venv-test/bin/python

.venv/installed: EXTRA =
.venv-test/installed: EXTRA = [dev]

.venv/installed .venv-test/installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "No working Python 3.11, 3.12 or 3.13 found; say make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into $(@D) with $(PYTHON); this takes about half a minute, once ..."
	@rm -rf $(@D)
	@"$(PYTHON)" -m venv $(@D)
	@$(@D)/bin/python $(INSTALL) ".$(EXTRA)"
	@touch $@

lock: ## pin the newest releases in requirements.lock again
	@"$(PYTHON)" -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
		--extra dev --no-header --no-annotate --no-emit-index-url pyproject.toml --output-file requirements.lock
	@rm -rf .venv-lock
	@echo "requirements.lock is new; run make test"

clean: ## remove the environments and caches; runs stay
	rm -rf .venv .venv-test .venv-lock .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
