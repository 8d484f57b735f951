"""What the benchmarks have called in jobs: a module of its own, so that jobs import nothing else."""


def nothing() -> None:
    pass


def identity(value: object) -> object:
    return value
