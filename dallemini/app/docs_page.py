"""The page `/docs` of the service: its operations, in HTML that asks no other server."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow:auto;background:#f4f4f4;"
    "padding:.8rem}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top}"
)


def docs_page(schema: Mapping[str, Any]) -> str:
    """Return a page that lists what a description in OpenAPI's form offers.

    Args:
        schema: as `/openapi.json` has it.

    Example:
        >>> from dallemini.app.docs_page import docs_page
        >>> info = {"title": "mine", "version": "1", "description": "Draws."}
        >>> docs_page({"info": info, "paths": {}}).count("<h1>mine 1</h1>")
        1
    """
    info, models = schema["info"], schema.get("components", {}).get("schemas", {})
    title = html.escape(f"{info['title']} {info['version']}")
    parts = [f"<h1>{title}</h1>", _paragraph(info["description"])]
    parts.append('<p>For programs: <a href="openapi.json">openapi.json</a></p>')
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts += _operation(f"{method.upper()} {path}", operation, models)
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _operation(name: str, operation: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{html.escape(name)}</code></h2>"
    yield _paragraph(operation.get("summary", ""))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        model = models[content["schema"]["$ref"].rpartition("/")[2]]
        yield f"<p>Takes <code>{html.escape(kind)}</code>:</p>"
        yield from _fields(model)
    answers = operation.get("responses", {}).items()
    yield "<p>Answers:</p><ul>"
    for status, answer in answers:
        yield f"<li><code>{html.escape(status)}</code> {html.escape(answer['description'])}</li>"
    yield "</ul>"


def _fields(model: Mapping[str, Any]) -> Iterator[str]:
    required = model.get("required", ())
    yield "<table><tr><th>field</th><th>what it is</th><th>form</th></tr>"
    for name, field in model["properties"].items():
        form = {key: value for key, value in field.items() if key not in ("title", "description")}
        told = field.get("description", "") + (" Required." if name in required else "")
        yield (
            f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(told.strip())}</td>"
            f"<td><code>{html.escape(json.dumps(form))}</code></td></tr>"
        )
    yield "</table>"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"
