# make demo    see it work: draws a data set, trains on it, shows a table and pictures
# make test    the test suite
# make lint    ruff and mypy
#
# Each sets up what it needs first (a virtual environment in .venv, the package in it), once.
# PYTHON=/path/to/python3 picks the interpreter; it must be 3.11 or newer.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

# The first one that starts and is new enough; a name on the PATH may be a shim that only fails.
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python)
CHECK := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(READY)
	$(BIN)/sedet demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@for python in $(CANDIDATES); do \
		if "$$python" -c "$(CHECK)" >/dev/null 2>&1; then \
			echo "Creating $(VENV) with $$("$$python" --version)"; \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "sedet needs Python 3.11 or newer with its venv module; tried: $(CANDIDATES)." \
		"Install one, or run: make PYTHON=/path/to/python3 ..." >&2; \
	exit 1

# Installed again only when what it depends on has changed.
$(READY): pyproject.toml | $(BIN)/python
	@echo "Installing sedet, PyTorch and the test tools into $(VENV): a few GB, some minutes, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
