#!/bin/sh
# Formats everything in place; `./format.sh check` only says what it would change.
set -eu
cd "$(dirname "$0")"
scripts/environment dev
case "${1-}" in
    "") .venv/bin/ruff format . ;;
    check) .venv/bin/ruff format --diff . ;;
    *) echo "usage: $0 [check]" >&2; exit 2 ;;
esac
