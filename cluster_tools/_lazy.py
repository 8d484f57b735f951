"""Imports modules and public names only when somebody asks for them, as attributes (PEP 562).

Knows nothing of the package that it serves.
"""

import sys
from types import ModuleType

TYPE_CHECKING = False  # as in cluster_tools/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def import_submodule(package: str, name: str) -> ModuleType:
    """Imports `<package>.<name>`. For the package's `__getattr__`.

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
        if name.startswith("__"):  # inspect and doctest ask for such names
            raise ModuleNotFoundError(name=full_name)
        return import_module(full_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{full_name}.".startswith(f"{error.name}."):
            raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}") from None


def old_import_path(
    module: str, names: "Sequence[str]"
) -> "tuple[Callable[[str], object], Callable[[], list[str]]]":
    """`__getattr__` and `__dir__` of a module from which public names could be imported earlier.

    Arguments:
        module: Its `__name__`.
        names: Public names of the top-level package. Other names are sub-modules of `module`.
    """

    def get_name(name: str) -> object:
        if name in names:
            return getattr(sys.modules[module.partition(".")[0]], name)
        return import_submodule(module, name)

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[module]), *names})

    return get_name, list_names
