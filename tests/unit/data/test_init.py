"""What the package offers, and what it costs to import it."""

from __future__ import annotations

import dallemini.data


def test_public_names_are_there_and_sorted() -> None:
    names = dallemini.data.__all__
    assert names == sorted(names)
    assert all(hasattr(dallemini.data, name) for name in names)
