#!/bin/sh
# The linter's rules on everything, and strict types on the package and its typed examples.
set -eu
cd "$(dirname "$0")"
scripts/environment dev
.venv/bin/ruff check .
.venv/bin/pyright
