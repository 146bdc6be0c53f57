"""What the package offers, and what it costs to import it."""

from __future__ import annotations

import subprocess
import sys

import dallemini.data


def test_public_names_are_there_and_sorted() -> None:
    names = dallemini.data.__all__
    assert names == sorted(names)
    assert all(hasattr(dallemini.data, name) for name in names)


def test_optional_packages_are_imported_when_they_are_needed() -> None:
    code = (
        "import sys, dallemini.data; "
        "sys.exit(' '.join({'pyarrow', 'webdataset'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
