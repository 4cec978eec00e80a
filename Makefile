# Two commands: `make quickstart` and `make test`. Everything is installed into .venv, nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt
RUN ?= runs/quickstart

.PHONY: quickstart test lint clean help
help:
	@echo "make quickstart   set up, then collect labels, fit, check, run MD, write $(RUN)/report.html"
	@echo "make test         set up, then run the tests"
	@echo "make lint         set up, then ruff and mypy"

quickstart: $(VENV)/.ready
	$(BIN)/epot quickstart --out $(RUN)

test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 EPOT_PROGRESS=0 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "epot needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing epot and what it needs into $(VENV) (a few minutes, once) ..."
	@$(PIP) torch
	@$(PIP) -e '.[qm,io]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "Installing what the tests need into $(VENV) ..."
	@$(PIP) -e '.[qm,io,track,test,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
