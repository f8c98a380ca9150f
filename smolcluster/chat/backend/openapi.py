"""What /openapi.json says beyond what FastAPI knows: streams, and our one form of errors instead of its own."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from smolcluster.chat.backend.answers import HealthAnswer
from smolcluster.chat.backend.refusals import ErrorAnswer

Responses = dict[int | str, dict[str, Any]]
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
# With `stream` the same endpoint answers in events; `data` is JSON.
STREAM: Responses = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
NOT_READY: Responses = {503: {"model": HealthAnswer, "description": "It does not serve now"}}
_ERRORS = {
    400: "The request cannot be served as it is",
    401: "A key is needed",
    403: "From a page of another origin, or by a name that is not this machine's",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "Too many requests wait",
    500: "A bug",
    503: "The model cannot be served now",
    504: "It was not done within its deadline",
}
ERRORS: Responses = {status: {"model": ErrorAnswer, "description": what} for status, what in _ERRORS.items()}


def describe(app: FastAPI) -> None:
    """Have the app's schema say 400 where FastAPI would say 422."""
    plain = app.openapi

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            whole = plain()
            for path in whole["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                whole["components"]["schemas"].pop(name, None)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]
