"""For programs that tests start: the package without its public names, which load torch."""

from __future__ import annotations

import dallemini

_FOLDER = dallemini.__path__[0]
LIGHT = f"""
import sys, types
for name in ("dallemini", "dallemini.checkpoints"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [{_FOLDER!r} + name.removeprefix("dallemini").replace(".", "/")]
"""
