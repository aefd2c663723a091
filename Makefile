# make run      from a fresh clone: .venv, then DiffuRec trained and tested on RecBole's embedded ml-100k
# make test     sets up and runs the tests
# make help     the rest

PYTHON ?= python3
VENV ?= .venv
# One exact torch by default, so that two machines get the same; any requirement that pip takes will do, also a wheel's path.
TORCH ?= torch==2.13.0
RECBOLE ?= recbole==1.2.1
# Exact versions of everything else where a set is proven for this Python; empty: the ranges of setup.cfg alone.
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS ?= $(wildcard requirements/python$(PYTHON_VERSION).txt)

MODEL ?= DiffuRec
DATASET ?= ml-100k
EPOCHS ?= 5
# Small, so that two CPU cores do it in minutes; RUN_ARGS= takes the model's own settings.
RUN_ARGS ?= --epochs=$(EPOCHS) --eval_step=1 --hidden_size=64 --n_layers=2 --num_steps=16 \
  --MAX_ITEM_LIST_LENGTH=20 --item_init_std=0.02

# What is checked and formatted.
SOURCES ?= recbole_diffusion tests benchmarks $(wildcard *.py)
PYTEST_ARGS ?=
# Tests are single-threaded; so many processes share them.
TEST_PROCESSES ?= 2
PYTEST := -m pytest -n $(TEST_PROCESSES) --dist loadscope

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The environment is made anew when these change, or what it was asked for (REQUEST).
DECLARED := setup.cfg pyproject.toml $(CONSTRAINTS)
REQUEST := $(PYTHON_VERSION) $(TORCH) $(RECBOLE) $(CONSTRAINTS)
READY := $(VENV)/.ready
DEVELOP := $(VENV)/.develop

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-gpu lint format wheel clean clean-venv venv venv-develop FORCE

help:
	@echo "make run        create $(VENV), train and test $(MODEL) on $(DATASET) (MODEL= DATASET= EPOCHS= RUN_ARGS=)"
	@echo "make test       the tests (PYTEST_ARGS= TEST_PROCESSES=2); test-slow and test-gpu run those that are marked so"
	@echo "make lint       ruff check, ruff format --check, mypy"
	@echo "make format     let ruff fix and format"
	@echo "make wheel      dist/*.whl"
	@echo "make venv       only create $(VENV) (PYTHON=$(PYTHON) VENV= TORCH=$(TORCH) CONSTRAINTS=)"
	@echo "make clean      remove build and cache folders; clean-venv removes $(VENV)"

run: venv
	$(BIN)/python run_recbole_diff.py --model=$(MODEL) --dataset=$(DATASET) $(RUN_ARGS)

test: venv-develop
	$(BIN)/python $(PYTEST) -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: venv-develop
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

test-gpu: venv-develop
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

lint: venv-develop
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: venv-develop
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

wheel: venv
	rm -rf build dist
	$(PIP) wheel --no-deps --wheel-dir dist .

venv: $(READY)
venv-develop: $(DEVELOP)

ifneq ($(shell cat $(READY) 2>/dev/null),$(REQUEST))
$(READY): FORCE
endif

$(READY): $(DECLARED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is Python $(PYTHON_VERSION), 3.10 or later is needed: make PYTHON=/path/to/python3.x"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install $(addprefix -c ,$(CONSTRAINTS)) "$(TORCH)" -e .
	$(PIP) install --no-deps "$(RECBOLE)"
	@echo "$(REQUEST)" > $@

$(DEVELOP): $(READY)
	$(PIP) install --no-warn-conflicts $(addprefix -c ,$(CONSTRAINTS)) "$(TORCH)" -e ".[dev]"
	@touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find recbole_diffusion tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv:
	rm -rf $(VENV)
