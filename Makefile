# `make demo` and `make test` do all the set-up: Python >= 3.10, make and a C++ compiler suffice.

PYTHON ?= python3
VENV ?= .venv
TEST_PROCESSES ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*/*)

.PHONY: help demo test check clients bench oldest-triton clean

help:
	@echo "make demo    the main job on data it makes itself (a few minutes)"
	@echo "make test    checks (lint, format, types), then all tests"
	@echo "make check   the checks alone"
	@echo "make clients tests with software of others, each at a version of its own (2 minutes)"
	@echo "make bench   our kernels and their peers side by side"
	@echo "make oldest-triton  the Triton kernels compiled by the oldest Triton that they allow"
	@echo "make clean   remove $(VENV) and everything built"

demo: $(VENV)/.installed
	$(BIN)/clipgap demo

test: check
	$(BIN)/python -m pytest -m "not alone and not clients" -n $(TEST_PROCESSES) --dist loadfile
	$(BIN)/python -m pytest -m alone

clients: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m clients

check: $(VENV)/.installed-dev
	VENV=$(VENV) scripts/check

bench: $(VENV)/.installed-dev
	$(BIN)/clipgap bench --quick

oldest-triton: $(VENV)/.installed-dev
	VENV=$(VENV) scripts/oldest_triton

clean:
	rm -rf $(VENV) build dist *.egg-info clipgap/kernels/_c*

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Two stamps, so that the demo need not wait for the tools of the tests.
$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	$(PIP) -e '.[train,report]'
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed
