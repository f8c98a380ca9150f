"""What /openapi.json says beyond what FastAPI knows: streams, and our one form of errors instead of its own."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from smolcluster.chat.backend.answers import ChatEvent, HealthAnswer
from smolcluster.chat.backend.asked import ResumeAsked
from smolcluster.chat.backend.refusals import ErrorAnswer

Responses = dict[int | str, dict[str, Any]]
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
# With `stream` the same endpoint answers in events; `data` is JSON.
STREAM: Responses = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
_CHAT_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string", "description": "The event's number"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/ChatEvent"},
        },
    },
}
CHAT_EVENTS: Responses = {200: {"content": {"text/event-stream": {"schema": _CHAT_EVENT}}}}
NO_LINK: Responses = {409: {"model": ErrorAnswer, "description": "No other device can reach this server"}}
NO_ANSWER: Responses = {404: {"model": ErrorAnswer, "description": "There is no such answer, or not any more"}}
EVENTS_GONE: Responses = {410: {"model": ErrorAnswer, "description": "So old events of it are not kept any more"}}
NOT_READY: Responses = {503: {"model": HealthAnswer, "description": "It does not serve now"}}
NOT_CHANGED: Responses = {304: {"description": "Nothing has changed"}}
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
    """Have the app's schema say 400 where FastAPI would say 422, and what streams and sockets carry."""
    plain = app.openapi

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            whole = plain()
            for path in whole["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                whole["components"]["schemas"].pop(name, None)
            whole["components"]["schemas"].update(_carried())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def _carried() -> dict[str, Any]:
    """The schemas of what no endpoint's body is: the events of a chat, and what else /ws/chat takes."""
    refs = "#/components/schemas/{model}"
    event = TypeAdapter(ChatEvent).json_schema(ref_template=refs, mode="serialization")
    resume = ResumeAsked.model_json_schema(ref_template=refs)
    return {**event.pop("$defs"), "ChatEvent": event, "ResumeAsked": resume}
