#!/bin/sh
# The linter's rules and strict types on everything; pyproject.toml says which rules tests are spared.
set -eu
cd "$(dirname "$0")"
scripts/environment dev
.venv/bin/ruff check .
.venv/bin/pyright
