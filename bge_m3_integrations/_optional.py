"""The one place that says which pip line installs a missing optional package."""

from __future__ import annotations

import importlib
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
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or not module.startswith(error.name.partition(".")[0]):
            raise
        raise MissingExtraError(
            f"{module.partition('.')[0]} is not installed; "
            f'run: pip install "bge-m3-integrations[{extra}]"'
        ) from error
