# `make nightly` and `make test` do all the set-up themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The run date of `make nightly`: by default the day after the last sample log.
DATE ?= 2026-07-01

.DEFAULT_GOAL := help
.PHONY: help install nightly test lint recbole bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP)  ## everything, development tools too, into .venv

nightly: install  ## the whole nightly job on the sample logs
	$(BIN)/fearec nightly --config sample_data/fearec.toml --date $(DATE)

test: install  ## the tests (under 5 minutes on 2 cores)
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: install  ## ruff, mypy, import-linter, and rules of our own
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.helpers.house

recbole: .recbole/bin/python  ## RecBole in an environment of its own, for the benchmarks

.recbole/bin/python:
	$(PYTHON) -m venv .recbole
	.recbole/bin/pip install --quiet --no-deps recbole==1.2.1 torch==2.13.0
	.recbole/bin/pip install --quiet -r tests/benchmarks/recbole-requirements.txt

bench: install recbole  ## every benchmark; each prints ratios
	$(BIN)/python -m tests.benchmarks

clean:  ## remove what `make nightly` left behind
	rm -rf warehouse work .prefect
