"""The one place that says which pip line installs a missing optional package."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from bge_m3_integrations.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Args:
        module: Dotted name of the module, for instance "langchain_core.embeddings".
        extra: This distribution's extra that brings it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The module's package is not installed. A module that is there and
            fails inside its own imports raises its own error unchanged.
    """
    check(module, extra=extra)
    return importlib.import_module(module)


def check(module: str, *, extra: str) -> None:
    """Say how to install an optional module that is not there, without importing it.

    Args:
        module: Dotted name of the module.
        extra: This distribution's extra that brings it.

    Raises:
        MissingExtraError: The module's package is not installed.
    """
    if not is_installed(module):
        raise MissingExtraError(
            f'{module} is not installed; run: pip install "bge-m3-integrations[{extra}]"'
        )


def is_installed(module: str) -> bool:
    """Whether a module can be imported, by its dotted name; its parent packages are."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is not there
        return False
