# Every target sets itself up: it makes .venv, installs into it, and does so again only when pyproject.toml changes.

PYTHON ?= python3
VENV   ?= .venv
BUILD  ?= build
JOBS   ?= 2

# Installed before everything else, so that pip takes the build without gigabytes of CUDA where one is offered.
TORCH := torch==2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
DEMO := examples/digits
# The tests run in $(JOBS) processes; one thread each keeps them from getting in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test slow long lint format docs clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## quantize the digits network of examples/ to 4 bits and print the report
	@mkdir -p $(BUILD)
	$(BIN)/ptq quantize $(DEMO)/model.pt --method multipoint --bits 4.1 \
		--data $(DEMO)/calib.npz --eval $(DEMO)/eval.npz -o $(BUILD)/digits.int4.onnx --overwrite

test: $(VENV)/.installed-dev  ## run the tests (under 5 minutes on 2 cores)
	$(PYTEST)

slow: $(VENV)/.installed-dev  ## run the tests that are marked slow
	$(PYTEST) -m slow

long: $(VENV)/.installed-dev  ## run the tests of large models, killed runs and hostile input
	$(PYTEST) -m long

lint: $(VENV)/.installed-dev  ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## rewrite the sources as ruff likes them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-dev  ## write the tables of the README and the reference anew, and build the site
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/figures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f docs/mkdocs.yml -d "$(abspath $(BUILD))/site"

clean:  ## remove what make made
	rm -rf $(VENV) $(BUILD) dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo '$(PYTHON) is missing or older than 3.11; name another one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo '$(PYTHON) has no venv module; install it, for example: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo 'installing into $(VENV); the first time this downloads about 300 MB'
	$(PIP) '$(TORCH)'
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	@touch $@
