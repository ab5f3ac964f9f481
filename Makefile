# Everything that one does with this repository. `make help` lists it.

SHELL := /bin/bash
VENV := .venv
PYTHON ?= python3
export PYTHON

# What the tests compare with and compile with; euxen itself needs none of it.
TEST_PACKAGES := gcc binutils libc6-dev libxen-dev cpio lzop lz4 zstd bzip2 xz-utils e2fsprogs passt tcpdump

.PHONY: help setup demo test check bench docs clean
.DEFAULT_GOAL := help

help: ## list what there is
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 10

setup: $(VENV)/.complete ## make .venv, with the command euxen in it

# The stamp is written last, so that an installation that broke off is done again.
$(VENV)/.complete: pyproject.toml
	@scripts/install-packages python3-venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is older than 3.11, which euxen needs; name a newer one: make PYTHON=python3.12 setup" >&2; exit 1; }
	@echo "Installing euxen into $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup ## boot Debian in a PV guest: a shell on a terminal, else a script
	@$(VENV)/bin/euxen fetch debian > /dev/null
	@$(VENV)/bin/python scripts/demo.py

test: setup ## run all tests
	@scripts/install-packages $(TEST_PACKAGES)
	@$(VENV)/bin/pytest --numprocesses auto --dist worksteal $(TESTS)

check: setup ## style, types, and which layer may import which
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: setup ## measure euxen against real Xen, and plain Linux, in QEMU
	@scripts/install-packages gcc libc6-dev
	@$(VENV)/bin/python -m bench $(BENCH)

docs: setup ## write the parts of docs/ that are made from the code
	@$(VENV)/bin/python -m scripts.generate_docs

clean: ## remove what setup and the tools made; not the cache in ~/.cache/euxen
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
