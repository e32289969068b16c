# Needs Python 3.11 or newer and make. Everything is installed into .venv, once; `make clean` removes it.

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/ready
# The first Python here that is new enough; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

.PHONY: help demo test check slow clean

help:
	@echo 'make demo    train a small network, compress it, show what was won (about a minute after installation)'
	@echo 'make test    style, types, import rules and the tests, but for the slow ones'
	@echo 'make check   style, types and import rules alone'
	@echo 'make slow    the slow tests too'
	@echo 'make clean   remove the virtual environment'

# One thread: images of 8x8 gain nothing from a second one, and lose much where another program wants it.
demo: $(READY)
	$(BIN)/decoct run recipes/book/digits.yaml --threads 1

# One process a core, up to four; a file's tests stay together, since many share what is made once a file.
test: check
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow and not gpu"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(READY)
	$(BIN)/python -m pytest -m "not gpu"

clean:
	rm -rf $(VENV)

# uv installs in seconds what pip installs in minutes; where it cannot (another kind of package index, say), pip does.
$(READY): pyproject.toml tests/constraints.txt
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint tests/constraints.txt uv || true
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint tests/constraints.txt --editable '.[test]' \
		|| $(BIN)/python -m pip install --constraint tests/constraints.txt --editable '.[test]'
	@touch $@
