"""A certificate for tests that sign pictures, which nobody vouches for."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from dallemini import C2PASigner

SCRIPT = Path(__file__).parents[1] / "examples" / "make_test_certificate.py"


def make_signer(folder: Path) -> C2PASigner:
    """Write a certificate and its key, and return what signs with them."""
    for name in ("c2pa", "cryptography"):
        pytest.importorskip(name, reason="needs the extra c2pa")
    runpy.run_path(str(SCRIPT))["make"](folder)
    return C2PASigner(certificate=folder / "chain.pem", private_key=folder / "key.pem")
