"""One request of a client's, for one or more texts, from its arrival to its account. Left early, it frees the model."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from smolcluster.chat.backend.refusals import GONE, ApiError, failure
from smolcluster.chat.backend.service import Service
from smolcluster.infer.request import Delta, Done, Event, Failed, Finish, Request
from smolcluster.infer.stream import Stream
from smolcluster.runtime.runfolder import RequestRecord

# On top of the request's own deadline, which the engine keeps.
_GRACE_S = 60.0


class Exchange:
    """Use as a context manager, by one task at a time: `submit`, then `next` until none is left. What is left at the
    end is cancelled.

    `kind` begins its id, as OpenAI's do. Counts are of all its texts together.
    """

    def __init__(self, service: Service, endpoint: str, kind: str, stream: bool) -> None:
        self.id = f"{kind}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.prompt_tokens = self.completion_tokens = 0
        self.first_s: float | None = None
        self.finish: dict[int, Finish] = {}
        self._asked = 0
        self.began = False  # an answer with status 200
        self.failed: ApiError | None = None  # after that
        self._service = service
        self._endpoint = endpoint
        self._stream = stream
        self._arrived = time.monotonic()
        self._until = float("inf")
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._streams: dict[int, Stream] = {}
        self._ended: set[int] = set()

    async def __aenter__(self) -> Self:
        self._service.open.add(self)
        return self

    async def __aexit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._service.open.discard(self)
        self.cancel()
        status, finish = self._how(error)
        self._service.accounts.ended(
            RequestRecord(
                time=time.time(),
                id=self.id,
                endpoint=self._endpoint,
                status=200 if self.began else status,
                stream=self._stream,
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self.completion_tokens,
                first_s=self.first_s,
                seconds=self.seconds,
                finish=finish,
            )
        )

    @property
    def left(self) -> int:
        """Texts whose end `next` has not told."""
        return self._asked - len(self.finish)

    @property
    def seconds(self) -> float:
        """Since it arrived."""
        return time.monotonic() - self._arrived

    async def submit(self, requests: Sequence[Request], param: str, answers: int = 1) -> None:
        """Begin all of them; numbered as they stand. ApiError: one was refused, and the others are cancelled.

        `param` is the client's name for the prompt. So many `answers` after one another have the same prompt, whose
        tokens are counted once.
        """
        loop = asyncio.get_running_loop()
        self._asked = len(requests)
        for number, request in enumerate(requests):

            def tell(event: Event, number: int = number) -> None:
                loop.call_soon_threadsafe(self._hear, number, event)

            stream = await self._service.submit(request, tell, param)
            if number % answers == 0:
                self.prompt_tokens += stream.prompt_tokens
            if number not in self._ended:  # a head may be so quick that all of it was told before
                self._streams[number] = stream
                if self._service.leaving:  # that was told before this one was there
                    self._service.cancel(stream)
            self._until = loop.time() + stream.within_s + _GRACE_S

    async def next(self, within_s: float | None = None) -> tuple[int, Delta | Done] | None:
        """The next event and the number of its text; None if there is none `within_s`. ApiError: it has failed."""
        left_s = self._until - asyncio.get_running_loop().time()
        try:
            if self._events.empty():
                # Not wait_for: until Python 3.12 it swallows a cancel that comes together with an event.
                async with asyncio.timeout(min(left_s, within_s or left_s)):
                    number, event = await self._events.get()
            else:
                # A send that need not wait lets nobody else run: with many events here, not even who tells that the
                # client has left.
                await asyncio.sleep(0)
                number, event = self._events.get_nowait()
        except TimeoutError:
            if within_s is not None and within_s < left_s:
                return None
            raise ApiError(504, "the model does not answer", kind="timeout_error", code="deadline") from None
        if isinstance(event, Failed):
            raise failure(event)
        if isinstance(event, Done):
            if event.reason == "cancelled" and self._service.leaving:
                raise ApiError(503, "the server is being stopped", code="closed")
            self.finish[number] = event.reason
        return number, event

    async def texts(self) -> list[str]:
        """What is to come of each text, whole."""
        pieces: list[list[str]] = [[] for _ in range(self._asked)]
        while self.left:
            if (item := await self.next()) is not None:
                pieces[item[0]].append(item[1].text)
        return ["".join(text) for text in pieces]

    def cancel(self) -> None:
        """End what has not ended. Its events still come."""
        for stream in self._streams.values():
            self._service.cancel(stream)

    def _how(self, error: BaseException | None) -> tuple[int, str]:
        """Status and finish."""
        error = error or self.failed
        if isinstance(error, ApiError):
            return error.status_code, error.code or "invalid"
        if isinstance(error, (asyncio.CancelledError, OSError)) or (error is None and self._streams):
            return GONE, "cancelled"
        return (500, "internal_error") if error is not None else (200, next(iter(self.finish.values()), "stop"))

    def _hear(self, number: int, event: Event) -> None:
        """An event has come, in the loop."""
        if isinstance(event, Delta):
            self.first_s = self.seconds if self.first_s is None else self.first_s
            self.completion_tokens += 1
            self._service.accounts.chosen()
        else:
            self._ended.add(number)
            self._streams.pop(number, None)
        self._events.put_nowait((number, event))
