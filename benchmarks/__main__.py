"""`python -m benchmarks NAME [OPTIONS]`: runs a benchmark. README.md says what each is for.

Jobs of a benchmark import this module, as they import any script: it imports next to nothing.
"""

import sys

NAMES = (
    "round_trip",
    "worker_start",
    "many_tasks",
    "blocking_callback",
    "signals",
    "kubernetes_map",
    "pilots",
    "growth",
    "waiting",
    "pool_map",
    "efficiency",
)


def main() -> None:
    from importlib import import_module

    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [--help]")
    name = sys.argv[1]
    sys.argv[0:2] = [f"{sys.argv[0]} {name}"]
    import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
