# `make demo` and `make test` do all the set-up: Python >= 3.10 with venv, make and a C++ compiler
# suffice.

PYTHON ?= python3
VENV ?= .venv
# On two cores: a process of tests waits for those that it starts a quarter of its time.
TEST_PROCESSES ?= 3

BIN := $(VENV)/bin
# What is imported gets compiled then; to compile all of PyTorch first takes most of a minute. It is
# kept: where an environment forbids that, as images of containers do, each process compiles it anew.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*/*)

.PHONY: help demo demo-domains demo-compositional test crash thorough protections audit sanitize check clients bench oldest-triton clean

help:
	@echo "make demo    the main job on data it makes itself (some minutes)"
	@echo "make demo-domains, make demo-compositional  two more papers in miniature"
	@echo "make test    all tests, and the checks (lint, format, types) beside them"
	@echo "make crash   kills every command, and breaks its disk, over and over (five minutes)"
	@echo "make thorough  the tests at every write and with many more examples, crash, sanitize (1.5 hours)"
	@echo "make check   the checks alone"
	@echo "make protections  takes each protection out and sees its tests fail (half an hour)"
	@echo "make audit   the licences of all that is installed beside it, and holes that are known in that"
	@echo "make sanitize  the kernels' tests, with memory, arithmetic and threads watched (20 minutes)"
	@echo "make clients tests with software of others, each at a version of its own (gigabytes, 20 minutes)"
	@echo "make bench   our kernels and their peers side by side"
	@echo "make oldest-triton  the Triton kernels compiled by the oldest Triton that they allow"
	@echo "make clean   remove $(VENV) and everything built"

demo: $(VENV)/.installed
	$(BIN)/clipgap demo

demo-domains demo-compositional: $(VENV)/.installed
	$(BIN)/clipgap run $@

# Types are checked meanwhile: that takes one core.
test: $(VENV)/.installed-dev
	VENV=$(VENV) scripts/check & checks=$$!; failed=0; \
	  $(PYTEST) -m "not alone and not clients" || failed=1; \
	  wait $$checks || failed=1; exit $$failed
	$(BIN)/python -m pytest -m alone $$(grep -l mark.alone tests/*.py)

crash: $(VENV)/.installed-dev
	$(BIN)/python -m scripts.crash --minutes 5

thorough: $(VENV)/.installed-dev
	CLIPGAP_THOROUGH=1 $(PYTEST) $$(grep -lE "thorough|run_driver|hypothesis" tests/test_*.py)
	$(MAKE) crash sanitize

protections: $(VENV)/.installed-dev
	$(BIN)/python scripts/protections.py

audit: $(VENV)/.installed-dev
	$(BIN)/python -m scripts.dependencies --audit

sanitize: $(VENV)/.installed-dev
	VENV=$(VENV) scripts/sanitize

clients: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/clients --durations=0

check: $(VENV)/.installed-dev
	VENV=$(VENV) scripts/check

bench: $(VENV)/.installed-dev
	$(BIN)/clipgap bench --quick

oldest-triton: $(VENV)/.installed-dev
	VENV=$(VENV) scripts/oldest_triton

clean:
	rm -rf $(VENV) build dist *.egg-info clipgap/kernels/_c*

# What the system lacks is said before anything is made; a half-made environment is made again.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON); on Debian or Ubuntu: apt install python3-venv python3-dev g++"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "clipgap needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv"; \
	  exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
	  echo "There is no C++ compiler; on Debian or Ubuntu: apt install g++ python3-dev."; \
	  echo "Without one clipgap still works, with a slower kernel. Going on in 5 s."; sleep 5; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } || { rm -rf $(VENV); exit 1; }
	@touch $@

# Two stamps, so that the demo need not wait for the tools of the tests.
$(VENV)/.installed: $(SOURCES) | $(VENV)/.made
	@echo "Installing clipgap with PyTorch and open_clip into $(VENV): up to 6 GB, some minutes."
	$(PIP) -e '.[train,report]'
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(VENV)/.made
	@echo "Installing clipgap with all that its tests need into $(VENV): up to 7 GB, some minutes."
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed
