"""Answers that watch the client: one that leaves, or takes nothing, frees its request at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from smolcluster.chat.backend.encoders import Encoder
from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.refusals import ApiError, ClientGone
from smolcluster.chat.backend.settings import ApiSettings

Result = TypeVar("Result")


async def while_there(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result. ClientGone if the client leaves before: the work is cancelled. Its body has been read."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_leave(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events of an exchange that was submitted. `held` is left when the stream is over."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, encoder: Encoder, settings: ApiSettings, held: AsyncExitStack) -> None:
        # X-Accel-Buffering: nginx would collect events.
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        self._exchange = exchange
        self._encoder = encoder
        self._settings = settings
        self._held = held

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or until nobody takes it."""
        with contextlib.suppress(ClientGone):
            async with self._held:  # the exchange learns in which way it ended
                await while_there(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self._exchange.began = True
        try:
            await self._put(send, self._encoder.begin())
            while self._exchange.left:
                item = await self._exchange.next(self._settings.ping_s)
                await self._put(send, [None] if item is None else self._encoder.event(*item))
            last = self._encoder.end()
        except ApiError as error:
            if isinstance(error, ClientGone):
                raise
            self._exchange.failed = error
            last = self._encoder.error(error)
        await self._put(send, last, more=False)

    async def _put(self, send: Send, texts: Sequence[str | None], more: bool = True) -> None:
        """None is a sign of life."""
        body = "".join(": ping\n\n" if text is None else f"data: {text}\n\n" for text in texts)
        if not body and more:
            return
        try:
            async with asyncio.timeout(self._settings.send_s):
                await send({"type": "http.response.body", "body": body.encode(), "more_body": more})
        except TimeoutError:
            raise ClientGone from None
