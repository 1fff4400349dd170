#!/bin/sh
# Serves the federation until it is stopped.
set -eu
exec $fedmetanas federation up "$$(dirname -- "$$0")/.."
