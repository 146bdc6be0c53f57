"""Names of a package that are imported when they are first asked for.

torch takes seconds to import; a command line that only shows its help need not wait for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def load_when_asked(
    package: str, places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__`, which also finds its modules, and its `__dir__`.

    Args:
        package: its name.
        places: for each public name the module below the package that defines it.

    Example:
        >>> from dallemini._lazy import load_when_asked
        >>> find, _ = load_when_asked("dallemini", {"Config": "config"})
        >>> find("Config").__name__
        'Config'
    """

    def find(name: str) -> Any:
        """Import what is called so."""
        if name in places:
            found = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
            setattr(sys.modules[package], name, found)
            return found
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        """Return the package's names, those that are still to be imported among them."""
        return sorted({*vars(sys.modules[package]), *places})

    return find, names
