#!/bin/bash
# Makes an environment, installs the package and shows it at work on this machine, in
# under a minute. Everything it makes is in .venv and .cfut here; run it as often as you like.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n=== %s\n' "$*"; }

say "environment: .venv with the package (a few seconds the first time)"
scripts/environment

say "examples/square.py: three calls, each a job of its own on this machine"
.venv/bin/python examples/square.py local

say "examples/standard_library.py: parses Python's own library, in batches of modules"
.venv/bin/python examples/standard_library.py --strategy local

cat <<'END'

=== what to try next
  .venv/bin/python examples/standard_library.py --strategy multiprocessing   # or sequential
  ls .cfut                  # the log of each of those jobs
  ./test.sh                 # the tests of this machine; it says how to run those on real clusters
  less README.md            # from here to your own cluster

On a cluster, from a directory that its nodes share:
  .venv/bin/python examples/square.py slurm
END
