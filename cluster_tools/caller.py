"""Warns with the user's line, however many functions of ours lie between. Knows nothing else."""

from __future__ import annotations

import os
import sys
import warnings

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns with the file and line of the nearest caller outside of this package."""
    level = 2
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


def _is_ours(file_name: str) -> bool:
    return os.path.abspath(file_name).startswith(_PACKAGE)
