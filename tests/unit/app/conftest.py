"""A tiny pipeline, a sampler that can be held up, and a running service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app_service import Gate, Served, serving
from dallemini import Pipeline
from dallemini.app.config import ServiceConfig
from dallemini.testing import tiny_pipeline


@pytest.fixture(scope="session")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def shared(pipe: Pipeline) -> Iterator[Served]:
    """A service for all tests of a module that leave it as it was."""
    with serving(pipe, config=ServiceConfig(max_images=4, max_prompt_length=40)) as served:
        yield served


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()
