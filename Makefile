# Needs Python >= 3.11 and make; everything else is installed into .venv by the first target that needs it.

PYTHON  ?= python3
WORKERS ?= 2
THREADS ?= 1
ARGS    ?=
OUT     ?= results/first

BIN     := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
READY   := .venv/.ready
DOCS    := .venv/.ready-docs

# workers x threads <= cores: every library keeps to THREADS threads in each test worker
TEST_ENV := OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) OPENBLAS_NUM_THREADS=$(THREADS) NUMBA_NUM_THREADS=$(THREADS)

.DELETE_ON_ERROR:
.PHONY: help setup run test lint format notebooks docs clean distclean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY)  ## make .venv and install evoprune into it, editable, under the constraints

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evoprune needs Python >= 3.11: make PYTHON=python3.11 ...")'
	@echo "Setting up .venv (once; a few minutes) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(INSTALL) --editable '.[dev]'
	@touch $@

$(DOCS): $(READY)
	@$(INSTALL) --editable '.[docs]'
	@touch $@

run: $(READY)  ## a first comparison of methods on digits: table and picture in OUT
	@$(BIN)/evoprune compare random dropout kstarts dissipating combined dense \
		--data digits --sparsity 0.9,0.95 --seeds 5 --out $(OUT)
	@echo "Table, picture and report:" && find $(OUT) -maxdepth 1 -type f | sort | sed 's/^/  /'

test: $(READY)  ## the tests; WORKERS=2 THREADS=1 ARGS='-k mask -x'
	@$(TEST_ENV) $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

lint: $(READY)  ## style, types and the order of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(READY)  ## mend what lint can mend
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

notebooks: $(READY)  ## execute copies of all notebooks under build/
	@rm -rf build/notebooks && mkdir -p build && cp -R notebooks build/notebooks
	@for notebook in build/notebooks/*.ipynb; do \
		test -e "$$notebook" || continue; echo "$$notebook"; $(BIN)/jupyter-execute --inplace "$$notebook" || exit 1; done

docs: $(DOCS)  ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(TEST_ENV) $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

clean:  ## remove what tools left behind
	@rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find evoprune tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	@rm -rf .venv
