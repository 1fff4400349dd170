PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: run install test soak lint

run: install
	$(VENV)/bin/fedmetanas run digits

install: $(INSTALLED)

# The stamp is written last: an install that was cut short is done again.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python -m pytest

# The long versions of the tests: less than 20 minutes.
soak: install
	timeout 1200 $(VENV)/bin/python -m pytest -m soak
