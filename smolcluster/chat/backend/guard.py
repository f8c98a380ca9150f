"""What stands around the endpoints: the door, the body's limits, headers, the count of answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smolcluster.chat.backend.accounts import Accounts
from smolcluster.chat.backend.door import Door
from smolcluster.chat.backend.entrance import locked
from smolcluster.chat.backend.links import Links
from smolcluster.chat.backend.page import PAGE, PageFile
from smolcluster.chat.backend.refusals import GONE, ApiError
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.chat.backend.state_routes import MAY_SEE_ALL

log = logging.getLogger("smolcluster.chat")
_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_READING = ("GET", "HEAD")
# Tells no secret to whoever has no key.
_OPEN = frozenset({"/health", "/api/health"})


class Guarded(Protocol):
    """What the guard asks of a server whose endpoints it stands in front of."""

    @property
    def settings(self) -> ApiSettings:
        """What it was told."""
        ...

    @property
    def accounts(self) -> Accounts:
        """What counts the answers."""
        ...

    @property
    def links(self) -> Links | None:
        """What lets browsers in; None where no key is asked for."""
        ...


class Guard:
    """ASGI middleware. Refuses in OpenAI's form, before an endpoint or a body's reader sees anything.

    `page`: the files by their paths that whoever has no key may see too, "/" the one that asks for the key.
    """

    def __init__(self, app: ASGIApp, service: Guarded, door: Door, page: Mapping[str, PageFile] = PAGE) -> None:
        self._app = app
        self._service = service
        self._door = door
        self._page = page
        self._open = _OPEN | set(page) - {"/"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
                if not any(name == b"cache-control" for name, _ in message["headers"]):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            refused = await self._refused(scope)
            if refused is None:
                await self._app(scope, _Body(receive, self._service), answer)
            else:
                await refused(scope, receive, answer)
        except Exception:
            log.exception("a bug while answering %s %s", scope["method"], _endpoint(scope))
            if not status:
                await ApiError(500, "something went wrong here; the log has more").response()(scope, receive, answer)
        finally:
            self._service.accounts.answered(_endpoint(scope), status or GONE)

    async def _refused(self, scope: Scope) -> Response | None:
        """The answer to a request that may not come in."""
        headers = _headers(scope)
        try:
            self._door.check_host(headers)
            shown = parse_qs(scope["query_string"].decode("latin-1")).get("key")
            if scope["path"] == "/" and scope["method"] == "GET" and shown:
                return await self._entered(shown[0], scope, headers)
            if scope["method"] not in _READING:
                self._door.check_origin(headers)
            scope[MAY_SEE_ALL] = self._door.open_to(headers)
            if scope["path"] not in self._open:
                self._door.check_key(headers)
            self._check_body(headers)
        except ApiError as error:
            if error.status_code == 401 and scope["path"] == "/":
                return self._page["/"].response(401, error.headers)  # it asks for the key, and has no secret
            return error.response()
        return None

    async def _entered(self, shown: str, scope: Scope, headers: dict[str, str]) -> Response:
        """GET /?key=...: the one-time key is used up, and leaves the address bar for a cookie."""
        links = self._service.links
        if links is None:
            return RedirectResponse("/", 303)
        try:
            await links.use(shown)
        except ApiError as error:
            if self._door.open_to(headers):  # it came in by another one
                return RedirectResponse("/", 303)
            return HTMLResponse(locked(headers.get("host", ""), error.detail), error.status_code, error.headers)
        return RedirectResponse("/", 303, {"Set-Cookie": self._door.cookie(secure=scope["scheme"] == "https")})

    def _check_body(self, headers: dict[str, str]) -> None:
        length, kind = headers.get("content-length", "0"), headers.get("content-type", "")
        if (length != "0" or "transfer-encoding" in headers) and kind.partition(";")[
            0
        ].strip().lower() != "application/json":
            # A page of another origin can send other types without asking first.
            raise ApiError(415, "send JSON, with Content-Type: application/json", code="unsupported_media_type")
        if not length.isascii() or not length.isdecimal() or int(length) > self._service.settings.body_bytes:
            raise too_large(self._service)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        try:
            self._door.check_host(headers)
            self._door.check_origin(headers)
            self._door.check_key(headers)
        except ApiError as error:
            await receive()
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Body:
    """The receiving end of a request whose body is small and comes in time, or ApiError."""

    def __init__(self, receive: Receive, service: Guarded) -> None:
        self._receive = receive
        self._service = service
        self._left = service.settings.body_bytes
        self._whole = False
        self._until = asyncio.get_running_loop().time() + service.settings.body_s

    async def __call__(self) -> Message:
        if self._whole:  # what comes now is that the client leaves
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", headers={"Connection": "close"}) from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise too_large(self._service)
        self._whole = not message.get("more_body", False)
        return message


def too_large(service: Guarded) -> ApiError:
    """A body beyond the limit. Nobody reads the rest of it."""
    message = f"the body is larger than {service.settings.body_bytes} bytes"
    return ApiError(413, message, code="body_too_large", headers={"Connection": "close"})


def _headers(scope: Scope) -> dict[str, str]:
    # The first of several wins in a dict made from the last to the first: a second Host must not count.
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


def _endpoint(scope: Scope) -> str:
    """The route's path: a client must not be able to make up labels."""
    path: str = getattr(scope.get("route"), "path", "")
    return path.removeprefix("/api") if path else "other"
