#!/bin/sh
# Takes part in the federation until it is stopped.
set -eu
cd -- "$$(dirname -- "$$0")"
PATH="$$PWD/.venv/bin:$$PATH"
exec fedmetanas site start site.toml
