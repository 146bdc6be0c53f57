"""The service answers as its own OpenAPI page says, to what fits the page and to what does not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from app_service import Served, serving
from dallemini import Pipeline
from dallemini.app.config import ServiceConfig

if TYPE_CHECKING:
    from schemathesis import Case

OPERATIONS = {
    "POST /v1/images/generations",
    "POST /v1/images/edits",
    "POST /v1/images/variations",
    "GET /health",
    "GET /metrics",
}


@pytest.fixture(scope="module")
def described(pipe: Pipeline) -> Iterator[Served]:
    with serving(pipe, config=ServiceConfig(max_images=2, max_prompt_length=40)) as served:
        yield served


def half_clear_picture() -> bytes:
    """Return a PNG file whose left half is transparent, so that it is picture and mask in one."""
    picture, file = Image.new("RGBA", (16, 16), "red"), io.BytesIO()
    picture.paste((0, 0, 0, 0), (0, 0, 8, 16))
    picture.save(file, "PNG")
    return file.getvalue()


def give_pictures(case: Case[Any]) -> None:
    """Put pictures in the place of other bytes: the page cannot say what a picture is."""
    for name in {"image", "mask"} & set(case.body if isinstance(case.body, dict) else ()):
        case.body[name] = half_clear_picture()


@pytest.mark.filterwarnings("default")  # of other packages
@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])
def test_service_is_as_described(described: Served, kind: str, examples: int) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode

    mode = GenerationMode[kind]
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{described.port}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {f"{one.method.upper()} {one.path}" for one in operations} == OPERATIONS
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # it is asked nothing that could be wrong

        @settings(
            max_examples=examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            derandomize=examples < 10,  # a short run finds the same each time
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Case[Any]) -> None:
            if mode is GenerationMode.POSITIVE:
                give_pictures(case)
            response = case.call_and_validate()
            if mode is GenerationMode.POSITIVE:
                assert response.status_code == 200, response.text

        ask()
