"""The README's example: each call is a job. `python examples/square.py slurm`; default: local."""

import sys

import cluster_tools


def square(n: int) -> int:
    return n * n


if __name__ == "__main__":
    strategy = sys.argv[1] if len(sys.argv) > 1 else "local"
    numbers = [2, 3, 4]
    with cluster_tools.get_executor(strategy) as executor:
        for n, result in zip(numbers, executor.map(square, numbers)):
            print(f"square({n}) = {result}", flush=True)
