"""What the OpenAPI page says beyond the types: this service's limits, errors and events."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from .api import EVENTS, ErrorResponse, ImageEvent
from .config import ServiceConfig
from .sizes import Sizes

_ERRORS = {
    "400": "The request cannot be drawn; `message` says why.",
    "401": "The key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The request did not come whole in time.",
    "413": "The request is too large.",
    "429": "Too many pictures wait; `Retry-After` says for how long.",
    "500": "Drawing failed.",
    "503": "The service is ending, or the time for the pictures was up.",
}

_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": [*EVENTS, "error"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/ImageEvent"},
                    {"$ref": "#/components/schemas/ErrorResponse"},
                ]
            },
        },
    },
}


def describe(
    app: FastAPI, config: ServiceConfig, *, sizes: Sizes, model: str, has_key: bool
) -> None:
    """Complete the description of an app; all of its routes must be there.

    Args:
        app: of the service.
        config: its limits.
        sizes: what pictures may have.
        model: its name.
        has_key: whether it asks for one.
    """
    schema = app.openapi()
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for kind in (ErrorResponse, ImageEvent):
        found = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**found.pop("$defs", {}), kind.__name__: found}
    for name, described in schemas.items():
        if name.endswith("Request"):
            _bound(described["properties"], config, model=model)
            own = described["properties"]["size"]
            if name == "GenerationRequest" and sizes != sizes.own:
                sides = [f"({'|'.join(map(str, one))})" for one in (sizes.widths, sizes.heights)]
                own["anyOf"][0]["pattern"] = f"^(auto|{'x'.join(sides)})$"
            else:
                own["enum"] = ["auto", "{}x{}".format(*sizes.first), None]
    for path, methods in schema["paths"].items():
        if path.startswith("/v1/"):
            for operation in methods.values():
                _add_answers(operation, has_key=has_key)
                _carry_files(operation["requestBody"]["content"])
    for name in ("EditRequest", "VariationRequest"):
        schemas[name]["properties"] = {
            key: _in_a_form(field) for key, field in schemas[name]["properties"].items()
        }
    if has_key:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}


def _bound(fields: dict[str, Any], config: ServiceConfig, *, model: str) -> None:
    fields["model"]["enum"] = [model, None]
    fields["n"]["anyOf"][0]["maximum"] = config.max_images
    if "prompt" in fields:
        fields["prompt"]["maxLength"] = config.max_prompt_length
        if "minLength" in fields["prompt"]:
            fields["prompt"]["pattern"] = r"[^\s\x1c-\x1f\x85]"  # what `str.strip` leaves


def _in_a_form(field: dict[str, Any]) -> dict[str, Any]:
    """Return a field without null, which a form cannot say: what is not meant is left out."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {key: value for key, value in field.items() if key != "anyOf" or len(kinds) > 1}
    if len(kinds) == 1:
        rest |= kinds[0]
    if "enum" in rest:
        rest["enum"] = [value for value in rest["enum"] if value is not None]
    return rest


def _carry_files(content: dict[str, Any]) -> None:
    """Say that a form with files in it is sent in parts, which FastAPI takes for a plain one."""
    if "application/x-www-form-urlencoded" in content:
        content["multipart/form-data"] = content.pop("application/x-www-form-urlencoded")


def _add_answers(operation: dict[str, Any], *, has_key: bool) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    answers["200"]["content"]["text/event-stream"] = {"schema": _EVENT}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    for status, description in _ERRORS.items():
        if status != "401" or has_key:
            answers[status] = {"description": description, "content": content}
    if has_key:
        operation["security"] = [{"key": []}]
