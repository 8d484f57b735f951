"""Sub-modules that are imported when they are first asked for as attributes.

Knows nothing of the package that it serves. A package uses it in its `__getattr__` (PEP 562).
"""

from types import ModuleType


def import_submodule(package: str, name: str) -> ModuleType:
    """Imports `<package>.<name>`.

    Arguments:
        package: The importing package's `__name__`.
        name: A sub-module's name, relative to the package; it may contain dots.

    Raises:
        AttributeError: There is no such module. One that exists and fails to import raises
            its own exception.
    """
    from importlib import import_module

    full_name = f"{package}.{name}"
    try:
        if name.startswith("__"):  # inspect and doctest probe for such names
            raise ModuleNotFoundError(name=full_name)
        return import_module(full_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{full_name}.".startswith(f"{error.name}."):
            raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
