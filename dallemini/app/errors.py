"""Every failure as an answer in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..errors import DalleMiniError, SafetyError, UnsupportedOperationError
from .batcher import BusyError, QueueFullError

_LOG = logging.getLogger("dallemini.app")
_WRONG = "invalid_request_error"
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_UNREADABLE = (
    "The request's body cannot be read; send JSON in UTF-8, or a form as multipart/form-data with "
    "its boundary."
)
_CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    429: "queue_full",
    499: "client_gone",
    500: "server_error",
    503: "unavailable",
}


class ServiceError(DalleMiniError):
    """A request that is answered by an error.

    Args:
        status: of HTTP.
        message: one sentence.
        param: which field of the request is wrong.
        code: for programs; that of the status when None.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code or _CODES[status]
        self.headers = dict(headers or {})


def answer(error: Exception) -> JSONResponse:
    """Return the answer to a request that failed."""
    known = translate(error)
    return JSONResponse({"error": describe(known)}, known.status, known.headers)


def describe(error: ServiceError) -> dict[str, str | None]:
    """Return what the answer says of an error."""
    kind = _TYPES.get(error.status, _WRONG if error.status < 500 else "server_error")
    return {"message": str(error), "type": kind, "param": error.param, "code": error.code}


def translate(error: Exception) -> ServiceError:
    """Return an error as what a client is told; nothing of the server's inside."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, BusyError):
        status = 429 if isinstance(error, QueueFullError) else 503
        return ServiceError(status, str(error), headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, SafetyError):
        return refuse(error)
    if isinstance(error, RequestValidationError):
        return _explain(error.errors()[0])
    if isinstance(error, HTTPException):
        status = error.status_code if error.status_code in _CODES else 400
        if status == 400:  # of FastAPI: the body, before its fields are looked at
            return ServiceError(400, _UNREADABLE, code="invalid_body")
        reason = HTTPStatus(error.status_code).phrase
        return ServiceError(status, f"{reason}; /docs lists what there is.", headers=error.headers)
    return ServiceError(500, "The pictures could not be drawn; the service's log says why.")


def refuse(error: DalleMiniError) -> ServiceError:
    """Return what a client is told whose request the library does not accept."""
    if isinstance(error, SafetyError):
        return ServiceError(400, str(error), code="content_policy_violation")
    code = "unsupported" if isinstance(error, UnsupportedOperationError) else None
    return ServiceError(400, str(error), code=code)


def add_handlers(app: FastAPI) -> None:
    """Let an app answer every failure so."""

    async def handle(_: Request, error: Exception) -> JSONResponse:
        return answer(error)

    for kind in (ServiceError, BusyError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def _explain(problem: Mapping[str, Any]) -> ServiceError:
    """Say in one sentence what a check of a request found first."""
    if problem["type"] == "json_invalid":
        return ServiceError(400, "The request's body is not valid JSON.", code="invalid_json")
    place = [str(part) for part in problem["loc"][1:]]
    if not place:
        return ServiceError(
            400, "The request's body must be a JSON object with Content-Type application/json."
        )
    param = ".".join(place)[:80]
    if problem["type"] == "extra_forbidden":
        message = f"There is no parameter {param!r}; /docs lists those there are."
        return ServiceError(400, message, param=param, code="unknown_parameter")
    if problem["type"] == "missing":
        form = "; send a form, as multipart/form-data, with it" if param == "image" else ""
        message = f"The parameter {param!r} is missing{form}."
        return ServiceError(400, message, param=param, code="missing_parameter")
    if problem["type"] == "value_error":  # of a form: text stands where a file should
        message = f"The parameter {param!r} must be a file, sent as multipart/form-data."
        return ServiceError(400, message, param=param)
    reason = problem["msg"][:1].lower() + problem["msg"][1:]
    given = "" if isinstance(problem["input"], dict) else f", not {_show(problem['input'])}"
    return ServiceError(400, f"{param}: {reason}{given}.", param=param)


def _show(value: Any) -> str:
    """Return a value as a client wrote it: `true`, not `True`."""
    words = value is None or isinstance(value, bool | list)
    return (json.dumps(value) if words else repr(value))[:80]
