PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: run install test soak lint compat

run: install
	$(VENV)/bin/fedmetanas run digits

install: $(INSTALLED)

# The stamp is written last: an install that was cut short is done again.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Types are read over the wheel, unpacked: tools that read cannot follow a package whose folders lie
# beside it.
lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf build/wheel
	$(VENV)/bin/python -m hatchling build --target wheel --directory build/wheel >/dev/null
	cd build/wheel && unzip -q *.whl && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml

test: lint
	$(VENV)/bin/python -m pytest

# The tests with the lowest versions that the ranges in pyproject.toml allow, and with the highest:
# each in a fresh environment of some gigabytes. Not part of CI.
compat:
	set -e; for limits in tests/lowest.txt /dev/null; do \
		$(PYTHON) -m venv --clear build/compat; \
		build/compat/bin/python -m pip install --quiet --constraint $$limits --editable '.[dev]'; \
		build/compat/bin/python -m pytest; \
	done

# The long versions of the tests: less than 20 minutes.
soak: install
	timeout 1200 $(VENV)/bin/python -m pytest -m soak
