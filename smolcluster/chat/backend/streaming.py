"""Answers that watch the client: one that leaves, or takes nothing, is noticed at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from smolcluster.chat.backend.answers import ErrorEvent
from smolcluster.chat.backend.encoders import Encoder
from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.kept import KeptAnswer
from smolcluster.chat.backend.refusals import ApiError, ClientGone

# A silent stream shows that it lives.
_PING = ": ping\n\n"
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
    """Server-sent events. `frames` are their texts; `held` is left when the stream is over, in whichever way.

    `send_s`: a reader that takes nothing for so long has left.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[str, None], send_s: float, held: AsyncExitStack) -> None:
        # X-Accel-Buffering: nginx would collect events.
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        self._frames = frames
        self._send_s = send_s
        self._held = held

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or until nobody takes it."""
        with contextlib.suppress(ClientGone):
            async with self._held:  # an exchange learns in which way it ended
                await while_there(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._frames):
            async for frame in self._frames:
                await self._put(send, frame)
        await self._put(send, "", more=False)

    async def _put(self, send: Send, body: str, more: bool = True) -> None:
        if not body and more:
            return
        try:
            async with asyncio.timeout(self._send_s):
                await send({"type": "http.response.body", "body": body.encode(), "more_body": more})
        except TimeoutError:
            raise ClientGone from None


async def frames_of(exchange: Exchange, encoder: Encoder, ping_s: float) -> AsyncGenerator[str, None]:
    """An exchange that was submitted, which ends with its stream."""
    exchange.began = True
    try:
        yield _frames(encoder.begin())
        while exchange.left:
            item = await exchange.next(ping_s)
            yield _PING if item is None else _frames(encoder.event(*item))
        last = encoder.end()
    except ApiError as error:
        exchange.failed = error
        last = encoder.error(error)
    yield _frames(last)


async def numbered_frames(answer: KeptAnswer, after: int, ping_s: float) -> AsyncGenerator[str, None]:
    """A kept answer's events after number `after`."""
    try:
        async with contextlib.aclosing(answer.events(after, ping_s)) as events:
            async for item in events:
                yield _PING if item is None else f"id: {item[0]}\ndata: {item[1]}\n\n"
    except ApiError as error:
        yield _frames([ErrorEvent(error=error.answer().error).model_dump_json()])


def _frames(texts: Sequence[str]) -> str:
    return "".join(f"data: {text}\n\n" for text in texts)
