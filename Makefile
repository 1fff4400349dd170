PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: run install wheel lint docs test compat soak reference

run: install
	$(VENV)/bin/fedmetanas run digits

install: $(INSTALLED)

# The stamp is written last: an install that was cut short is done again.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

lint: wheel
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	cd build/wheel && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml

# Types and docstrings are read over the wheel, unpacked: tools that read cannot follow a package
# whose folders lie beside it.
wheel: install
	rm -rf build/wheel
	$(VENV)/bin/python -m hatchling build --target wheel --directory build/wheel >/dev/null
	cd build/wheel && ../../$(VENV)/bin/python -m zipfile --extract *.whl .

# The site, in build/site.
docs: wheel
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# Two at a time: some tests wait for other processes for most of their time.
test: lint
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

# The tests with the lowest versions that the ranges in pyproject.toml allow, and with the highest:
# each in a fresh environment of some gigabytes. Not part of CI.
compat:
	set -e; for limits in tests/lowest.txt /dev/null; do \
		$(PYTHON) -m venv --clear build/compat; \
		build/compat/bin/python -m pip install --quiet --constraint $$limits --editable '.[dev]'; \
		build/compat/bin/python -m pytest; \
	done

# The long versions of the tests, which mostly wait: less than 40 minutes.
soak: install
	timeout 2400 $(VENV)/bin/python -m pytest -n 3 -m soak

# The pages of the docs that are made from the code.
reference: install
	$(VENV)/bin/python -m fedmetanas.experiments.commands.reference
