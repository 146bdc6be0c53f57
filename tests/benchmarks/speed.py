"""dallemini beside min-dalle: seconds and bytes of everything a drawing is made of.

    python tests/benchmarks/speed.py [--model mini mega] [--output benchmark.json]

prints every median and the table of figures reached and wanted, and writes them with spreads. A
model that is not measured now stays in the output as it was. `--page docs/benchmarks.md` writes the
page as well; with `--render` from an earlier output, without measuring. Linux only; the machine
should do nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.side_by_side.command import main

if __name__ == "__main__":
    main()
