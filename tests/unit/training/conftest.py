"""Training without curves, unless a test asks for them: to plot takes longer than a run here."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def plotting() -> None:
    """Plot the curves of runs, as a user's runs do."""


@pytest.fixture(autouse=True)
def _no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "plotting" in request.fixturenames:
        return
    for name in ("matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))):
        monkeypatch.setitem(sys.modules, name, None)
