"""WS /ws/chat: requests like those of POST /chat, one after the other; each is answered with the same numbered events.

{"type": "cancel"} ends the answer under way, whose done event then says so. {"resume": ID, "after": NUMBER} goes on
with an answer whose connection was lost, after that event: an answer waits a little for that when its socket closes.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, aclosing, suppress

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from smolcluster.chat.backend.answers import ErrorEvent
from smolcluster.chat.backend.asked import ChatAsked, ResumeAsked
from smolcluster.chat.backend.chat_routes import begin
from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.kept import KeptAnswer
from smolcluster.chat.backend.refusals import ApiError, ClientGone, invalid
from smolcluster.chat.backend.service import Service

_ENDPOINT = "/ws/chat"
# A client may have several requests waiting on its own socket; more than that is refused.
_MOST_WAITING = 8


def socket_routes(service: Service) -> APIRouter:
    """The endpoint."""
    router = APIRouter()

    @router.websocket(_ENDPOINT)
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        await _Talk(websocket, service).run()

    return router


class _Talk:
    """One socket. Two tasks: one listens, one answers."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket = websocket
        self._service = service
        self._asked: asyncio.Queue[ChatAsked | ResumeAsked | ApiError] = asyncio.Queue()
        self._answer: KeptAnswer | None = None
        self._busy = self._cancelled = False

    async def run(self) -> None:
        """Until the client leaves, or takes nothing any more."""
        listening, answering = asyncio.create_task(self._listen()), asyncio.create_task(self._answer_all())
        try:
            await asyncio.wait({listening, answering}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
            answering.cancel()
            ends = await asyncio.gather(listening, answering, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, (WebSocketDisconnect, ClientGone)):
                raise end

    async def _listen(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            asked = _parsed(message.get("text"))
            if asked is None:
                if self._answer is not None:
                    self._answer.cancel()
                # One that came a moment ago is under way too, although its turn has not come to be taken up.
                self._cancelled = self._busy or not self._asked.empty()
            elif self._asked.qsize() >= _MOST_WAITING:
                await self._put(ErrorEvent(error=_too_many().answer().error).model_dump_json())
            else:
                self._asked.put_nowait(asked)

    async def _answer_all(self) -> None:
        while True:
            asked = await self._asked.get()
            self._busy = True
            try:
                if isinstance(asked, ResumeAsked):
                    answer = self._service.kept.find(asked.resume)
                    answer.check(asked.after)
                    failed = await self._tell(answer, asked.after)
                else:
                    failed = await self._tell(await self._begun(asked))
            except ApiError as error:
                if isinstance(error, ClientGone):
                    raise
                self._service.accounts.answered(_ENDPOINT, error.status_code)
                await self._put(ErrorEvent(error=error.answer().error).model_dump_json())
            else:
                self._service.accounts.answered(_ENDPOINT, failed.status_code if failed is not None else 200)
            finally:
                self._answer, self._busy, self._cancelled = None, False, False

    async def _begun(self, asked: ChatAsked | ApiError) -> KeptAnswer:
        async with AsyncExitStack() as held:
            exchange = await held.enter_async_context(Exchange(self._service, _ENDPOINT, "chat", stream=True))
            if isinstance(asked, ApiError):
                raise asked
            events = await begin(exchange, asked, self._service)
            return self._service.kept.keep(exchange, events, held.pop_all())

    async def _tell(self, answer: KeptAnswer, after: int = -1) -> ApiError | None:
        """Its events after that number; why it ended badly, if it did."""
        with answer.listened():
            self._answer = answer
            if self._cancelled:  # before there was anything to cancel
                answer.cancel()
            async with aclosing(answer.events(after)) as events:
                async for item in events:
                    if item is not None:
                        await self._put(item[1])
        return answer.failed

    async def _put(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._service.settings.send_s):
                await self._websocket.send_text(text)
        except (TimeoutError, RuntimeError, WebSocketDisconnect) as error:  # RuntimeError: it was closed meanwhile
            raise ClientGone from error


def _parsed(text: str | None) -> ChatAsked | ResumeAsked | ApiError | None:
    """A request, what is wrong with it, or None for a cancel."""
    value: object = None
    with suppress(ValueError, RecursionError):
        value = json.loads(text or "")
    if not isinstance(value, dict):
        return ApiError(400, "send a JSON object, as text")
    if value == {"type": "cancel"}:
        return None
    try:
        return ResumeAsked.model_validate(value) if "resume" in value else ChatAsked.model_validate(value)
    except ValidationError as error:
        return invalid(error.errors())


def _too_many() -> ApiError:
    message = f"{_MOST_WAITING} requests wait on this socket already"
    return ApiError(429, message, kind="rate_limit_error", code="queue_full")
