"""The schedulers, and the old import paths. Imported one by one, when asked for."""


def __getattr__(name: str) -> object:
    from cluster_tools._lazy import import_submodule

    return import_submodule(__name__, name)
