"""Futures in, futures out: what all schedulers share. Imported one by one, when asked for."""


def __getattr__(name: str) -> object:
    from cluster_tools._lazy import import_submodule

    return import_submodule(__name__, name)
