#!/bin/sh
# The linter's rules on everything, and strict types on the package.
set -eu
cd "$(dirname "$0")"
.venv/bin/ruff check .
.venv/bin/pyright
