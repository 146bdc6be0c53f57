"""The service answers as its own OpenAPI page says, to what fits the page and to what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app_service import GENERATIONS, serving
from dallemini import Pipeline
from dallemini.app.config import ServiceConfig

if TYPE_CHECKING:
    from schemathesis import Case


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of other packages
@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])
def test_service_is_as_described(pipe: Pipeline, kind: str) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis import GenerationMode

    mode = GenerationMode[kind]
    config = ServiceConfig(max_images=2, max_prompt_length=40)
    with serving(pipe, config=config) as served:
        url = f"http://127.0.0.1:{served.port}/openapi.json"
        schema = schemathesis.openapi.from_url(url)
        operation = schema[GENERATIONS]["POST"]

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Case[Any]) -> None:
            response = case.call_and_validate()
            if mode is GenerationMode.POSITIVE:
                assert response.status_code == 200, response.text

        ask()
