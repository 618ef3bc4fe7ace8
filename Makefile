# `make up` and `make test` need Python >= 3.11, make and git; everything else they set up themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin
UV := uv==0.13.9
# One process a core, each test to whichever is free: the dear ones come first, thousands of cheap ones fill the end.
PARALLEL := --numprocesses logical --maxschedchunk 1
# What is imported is compiled once, not again by each process of the house and of the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: up test test-cluster install install-bench lint format types lock bench ledger faults mutate clean

up: install
	$(BIN)/croupier up

# What measures time runs alone, before the rest.
test: install lint types
	$(BIN)/pytest -m timed
	$(BIN)/pytest -m "not timed" $(PARALLEL)

# The integration tests again, on three servers that share the keys; a quarter of an hour.
test-cluster: install
	CROUPIER_TEST_STORE=cluster $(BIN)/pytest tests/integration

install: .venv/installed

# uv installs in seconds what takes pip minutes; pip does it all the same where uv cannot.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Croupier needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# The peers of `croupier bench decide`, in an environment of their own; without them it measures the others.
install-bench: .venv-bench/installed

.venv-bench/installed: requirements-bench.lock | install
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	$(BIN)/uv pip sync --quiet --python .venv-bench/bin/python --require-hashes requirements-bench.lock || \
		.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	touch $@

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: install install-bench
	$(BIN)/croupier bench decide
	$(BIN)/croupier bench rules

# Everything callers may do to the ledger at once, a thousand stories of fifty steps; some minutes.
ledger: install
	CROUPIER_EXAMPLES=1000 $(BIN)/pytest tests/property/test_ledger.py

# Kills every process at every step and every call to the store, fails the store in every way; tells the times seen.
faults: install
	CROUPIER_FAULTS=all $(BIN)/pytest tests/faults -rP

# Changes the rules' code in every way a library can think of, and sees that a test notices; an hour or so.
mutate: install
	CROUPIER_BOOKS=15 $(BIN)/mutmut run
	$(BIN)/mutmut results

# Resolves the locks anew; their headers hold the command and no index address. What both hold is of one version.
lock: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra bench --constraint requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --quiet --output-file requirements-bench.lock

clean:
	rm -rf .venv .venv-bench mutants var .mypy_cache .pytest_cache .ruff_cache .hypothesis
