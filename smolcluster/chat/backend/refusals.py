"""Every error an HTTP client can get, in OpenAI's form: {"error": {message, type, param, code}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from smolcluster.errors import BusyError, PeerError, RequestError, SmolError
from smolcluster.infer.request import Failed, Trouble

# What the whole body of a request may be, for those who sent none.
EXAMPLES = {
    "/chat": '{"message": "Hello"}',
    "/v1/chat/completions": '{"model": "NAME", "messages": [{"role": "user", "content": "Hello"}]}',
    "/v1/completions": '{"model": "NAME", "prompt": "Once upon"}',
}
# When somebody whom we had to send away may come again.
RETRY_S = 2
# A client that left gets this status in our records; it is nginx's, and nobody receives it.
GONE = 499
_STATUS: dict[Trouble, int] = {"deadline": 504, "stage_lost": 503, "session": 503, "closed": 503}


class ErrorDetail(BaseModel):
    """`param` is the key of the request that is wrong; `code` is for programs, `message` for people."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail


class ApiError(HTTPException):
    """A refusal or a failure. `kind` is OpenAI's type."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        self.param = param
        self.code = code

    def answer(self) -> ErrorAnswer:
        """The body."""
        return ErrorAnswer(error=ErrorDetail(message=self.detail, type=self.kind, param=self.param, code=self.code))

    def response(self) -> Response:
        """The whole answer."""
        body = self.answer().model_dump_json()
        return Response(body, self.status_code, self.headers, media_type="application/json")


class ClientGone(ApiError):
    """The client went away: there is nobody to answer."""

    def __init__(self) -> None:
        super().__init__(GONE, "the client has left", code="cancelled")


def refusal(error: SmolError) -> ApiError:
    """What an error of the head's means to a client."""
    if isinstance(error, BusyError):
        headers = {"Retry-After": str(RETRY_S)}
        return ApiError(429, str(error), kind="rate_limit_error", code="queue_full", headers=headers)
    if isinstance(error, RequestError):
        return ApiError(400, str(error), code="invalid_request")
    if isinstance(error, PeerError):
        return ApiError(503, str(error), code="not_ready", headers={"Retry-After": str(RETRY_S)})
    return ApiError(500, str(error), code="internal_error")


def failure(event: Failed) -> ApiError:
    """What the bad end of a request means to a client."""
    kind = "timeout_error" if event.trouble == "deadline" else ""
    return ApiError(_STATUS[event.trouble], event.message, kind=kind, code=event.trouble)


def too_long(tokens: int, context: int, param: str) -> ApiError:
    """A prompt beyond the context, as OpenAI's clients know it."""
    message = f"This model's maximum context length is {context} tokens. However, your prompt has {tokens} tokens."
    return ApiError(400, message, param=param, code="context_length_exceeded")


def invalid(problems: Sequence[Mapping[str, Any]], example: str = "") -> ApiError:
    """Pydantic's errors of a body, all of them in one message. `example`: a body that is right."""
    words, places = [], []
    for problem in problems:
        context = problem.get("ctx") or {}
        place = [str(part) for part in problem["loc"] if part != "body"]
        if problem["type"] == "json_invalid":
            place = []
            words.append(f"the body is not JSON: {context.get('error', '')}")
        elif problem["type"] == "extra_forbidden":
            words.append(f"Unrecognized request argument supplied: {'.'.join(place)}")
        elif problem["type"] == "missing" and not place:
            words.append("the body is empty" + (f"; send JSON, as {example}" if example else ""))
        else:
            place = [str(context["param"])] if "param" in context else place
            words.append(": ".join(part for part in (".".join(place), problem["msg"]) if part))
        places.append(".".join(place))
    message = "; ".join(dict.fromkeys(words))
    code = "unsupported_parameter" if problems[0]["type"] == "unsupported" else None
    # What was sent may be in there, and half a surrogate pair of it cannot be sent back.
    return ApiError(400, _sendable(message), param=_sendable(places[0]) or None, code=code)


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()[:2000]


async def on_http_error(_: Request, error: Exception) -> Response:
    """FastAPI's own refusals (404, 405, a body that is no UTF-8) and ours, in one form."""
    assert isinstance(error, HTTPException)
    if not isinstance(error, ApiError):
        error = ApiError(error.status_code, str(error.detail), headers=error.headers)
    return error.response()


async def on_invalid(request: Request, error: Exception) -> Response:
    """A body that is not what the endpoint takes."""
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors(), EXAMPLES.get(request.url.path.removeprefix("/api"), "")).response()
