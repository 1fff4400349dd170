PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: run install test soak lint docs

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

# The long versions of the tests: less than 20 minutes.
soak: install
	timeout 1200 $(VENV)/bin/python -m pytest -m soak

# The site, in build/site, out of docs/ and of the docstrings in the wheel, unpacked as for `lint`.
docs: install
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	rm -rf build/wheel
	$(VENV)/bin/python -m hatchling build --target wheel --directory build/wheel >/dev/null
	cd build/wheel && unzip -q *.whl
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
