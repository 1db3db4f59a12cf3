"""Public names: they load when first used (PEP 562), and `dir` shows no others."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def lazy_names(
    package: str, home_of: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names live in its modules.

    Args:
        package: The package's `__name__`.
        home_of: Public name to the module below the package that defines it.

    Returns:
        The two functions to assign in the package.
    """

    def load(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, public_names(package)


def public_names(module: str) -> Callable[[], list[str]]:
    """The `__dir__` of a module: its `__all__`, and the names that Python and its tools look for.

    Args:
        module: The module's `__name__`.

    Returns:
        The function to assign in the module.
    """

    def names() -> list[str]:
        held = vars(sys.modules[module])
        return sorted({*held["__all__"], *(name for name in held if name.startswith("__"))})

    return names
