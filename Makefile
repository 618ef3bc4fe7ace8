# `make up` and `make test` need Python >= 3.11, make and git; everything else they set up themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin
UV := uv==0.13.9
# One process a core and one more, which works while others wait for a timer or a process; each test to whichever is
# free: the dear ones come first, thousands of cheap ones fill the end.
PARALLEL = --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxschedchunk 1
# What is imported is compiled once, not again by each process of the house and of the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: up test quick test-cluster test-builds install install-bench lint types contract format client bench ledger assess rules imports doors marks faults stops monitoring providers sends uplift mutate lock clean help map

up: install ## The whole house on this machine; Ctrl-C stops all
	$(BIN)/croupier up

test: install lint types ## Everything that must hold, some minutes; what measures time runs alone, before the rest
	$(BIN)/pytest -m timed
	$(BIN)/pytest -m "not timed" $(PARALLEL)

quick: install lint types ## Lint, types and unit tests, about a minute
	$(BIN)/pytest $(PARALLEL) tests/unit

test-cluster: install ## The integration tests on three servers that share the keys, a quarter of an hour
	CROUPIER_TEST_STORE=cluster $(BIN)/pytest tests/integration

test-builds: install ## The first build and this one over one house, one after the other, some minutes
	$(BIN)/pytest -rP tests/builds/builds_together.py

install: .venv/installed ## What `make up` and `make test` need into .venv: the extras all and dev, and the client

# uv installs in seconds what takes pip minutes; pip does it all the same where uv cannot.
.venv/installed: requirements.lock pyproject.toml clients/python/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Croupier needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . \
		--editable clients/python
	touch $@

install-bench: .venv-bench/installed ## The peers of the bench of decisions into .venv-bench; without them it measures the rest

.venv-bench/installed: requirements-bench.lock | install
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	$(BIN)/uv pip sync --quiet --python .venv-bench/bin/python --require-hashes requirements-bench.lock || \
		.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	touch $@

lint: install ## Lint, format, layers of imports, Dockerfile and compose.yaml
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

types: install ## Types
	$(BIN)/mypy --num-workers auto

map: install ## The maps of code and tests, docs/settings.md, the tables of docs/dataset.md and docs/events.md, and the features' schema as a file, from the code
	$(BIN)/python tests/support/architecture.py
	$(BIN)/python tests/support/schema_file.py
	$(BIN)/python tests/support/settings_page.py
	PYTHONPATH=tests:. $(BIN)/python tests/support/dataset_page.py
	PYTHONPATH=tests:. $(BIN)/python tests/support/events_page.py
	PYTHONPATH=tests:. $(BIN)/python tests/support/exclusions_page.py
	PYTHONPATH=tests:. $(BIN)/python tests/support/lake_page.py

contract: install ## The examples of the API, recorded anew in a small house, and docs/openapi.json
	PYTHONPATH=tests:. $(BIN)/python tests/support/examples.py

format: install ## Format the code, mend what lint can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

client: install ## The wheel of the Python client into dist/, and tried from there in an environment of its own
	rm -rf dist/client && $(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist clients/python
	$(PYTHON) -m venv dist/client
	dist/client/bin/python -m pip install --quiet --disable-pip-version-check dist/croupier_client-*.whl
	cd dist && client/bin/python -c 'from croupier_client import Croupier; print(Croupier("http://127.0.0.1:8000", "KEY"), "stands alone")'
	rm -rf dist/client

bench: install install-bench ## Decisions and rules beside peers
	$(BIN)/croupier bench decide
	$(BIN)/croupier bench rules

ledger: install ## Everything callers may do to the ledger at once, a thousand stories of fifty steps, some minutes
	CROUPIER_EXAMPLES=1000 $(BIN)/pytest tests/property/test_ledger.py

assess: install ## One assessment for all that ask, on ten thousand random players, a minute or two
	CROUPIER_EXAMPLES=2500 $(BIN)/pytest $(PARALLEL) tests/property/test_assess.py

rules: install ## The compiled rules against a plain reading of them, 400,000 random cases of each law, some minutes
	CROUPIER_BOOKS=1000 $(BIN)/pytest $(PARALLEL) tests/property/test_rulebook_laws.py

imports: install ## Two thousand generated files and the whole payments log imported, some minutes
	CROUPIER_IMPORTS=all $(BIN)/pytest $(PARALLEL) tests/integration/test_files.py tests/integration/test_imports.py

doors: install ## Thousands of malformed requests, slow and endless connections, planted marks sought in all that a house writes
	CROUPIER_FAULTS=all $(BIN)/pytest tests/faults/test_doors.py tests/faults/test_marks.py -rP

marks: install ## All tests, and none of their processes prints the id of a player or a secret; as long as `make test`
	PYTHONPATH=tests $(BIN)/pytest -p support.seeking $(PARALLEL)

faults: install ## Every process killed at every step and every call to the store, the store failed in every way
	CROUPIER_FAULTS=all $(BIN)/pytest tests/faults -rP

stops: install ## Ten thousand confirms against stops in four processes, one of them asleep; how long a stop takes
	CROUPIER_RACES=10000 $(BIN)/pytest tests/faults/test_stop_races.py -rP

providers: install tests/providers/node_modules/installed ## What the house sends over servers from npm that others wrote: a mail server, Twilio, SendGrid
	$(BIN)/pytest tests/providers/real_providers.py -rP

tests/providers/node_modules/installed: tests/providers/package.json
	cd $(@D)/.. && npm install --no-audit --no-fund --no-package-lock --ignore-scripts --loglevel error
	touch $@

sends: install ## Ten thousand messages while worker, store and provider fail; a thousand due while their players exclude themselves
	PYTHONPATH=tests:. $(BIN)/python tests/support/send_faults.py 10000

uplift: install ## How often reports err in thousands of worlds whose truth is known, some minutes
	PYTHONPATH=tests:. $(BIN)/python tests/support/uplift_worlds.py

monitoring: install ## Dashboard and alerts in a real Prometheus over a real house; it must be there: apt-get install prometheus
	$(BIN)/pytest tests/monitoring/real_prometheus.py

mutate: install ## The rules' code changed in every way a library can think of: does a test notice? An hour or so
	CROUPIER_BOOKS=30 $(BIN)/mutmut run
	$(BIN)/mutmut results

# The headers of the locks hold the command and no index address; what both hold is of one version.
lock: install ## Resolve the locks anew, of all and dev, of all and bench; pins stay where they can
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip compile pyproject.toml --extra all --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra all --extra bench --constraint requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --quiet --output-file requirements-bench.lock

clean: ## Remove what all of these made, the house in var/ too
	rm -rf .venv .venv-bench dist mutants var .mypy_cache .pytest_cache .ruff_cache .hypothesis

help: ## Each word of this file and what it does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
