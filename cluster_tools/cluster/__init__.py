"""Futures in, futures out: what all schedulers share. Imported one by one, when asked for."""

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from cluster_tools.cluster import executor as executor
    from cluster_tools.cluster import future as future
    from cluster_tools.cluster import session as session
else:

    def __getattr__(name: str) -> object:
        from cluster_tools._lazy import import_submodule

        return import_submodule(__name__, name)
