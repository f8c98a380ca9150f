"""Answers that outlive their connections: the events of each are kept for a while, numbered, to be taken up again.

    live     a task of its own takes the model's events; with nobody listening for `resume_s` the answer is cancelled
    ended    kept for `kept_s`, and the last `kept_answers` of them
    all      `kept_bytes` together: ended ones go first, the oldest first; then the longest live one loses its beginning

In memory alone: what was said is written nowhere. Used in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING

from smolcluster.chat.backend.refusals import ApiError
from smolcluster.chat.backend.settings import ApiSettings

if TYPE_CHECKING:
    from smolcluster.chat.backend.encoders import Encoder
    from smolcluster.chat.backend.exchange import Exchange

log = logging.getLogger("smolcluster.chat")


class KeptAnswer:
    """One answer and its events' JSON texts, of which number `first` is the oldest that is left.

    `failed`: why it ended badly. `grew` is told how many bytes came, `over` that it has ended.
    """

    def __init__(
        self,
        exchange: Exchange,
        encoder: Encoder,
        resume_s: float,
        grew: Callable[[int], None],
        over: Callable[[KeptAnswer], None],
    ) -> None:
        self.id = exchange.id
        self.failed: ApiError | None = None
        self.ended = False
        self.first = 0
        self.bytes = 0
        self._exchange = exchange
        self._encoder = encoder
        self._resume_s = resume_s
        self._grew = grew
        self._over = over
        self._texts: deque[str] = deque()
        self._news = asyncio.Event()
        self._listeners = 0
        self._away: asyncio.TimerHandle | None = None

    @property
    def next(self) -> int:
        """The number that the next event will have."""
        return self.first + len(self._texts)

    def cancel(self) -> None:
        """End it soon; its done event says so. Nothing happens if it has ended."""
        self._exchange.cancel()

    @contextmanager
    def listened(self) -> Iterator[None]:
        """Somebody listens inside. When the last one leaves, its time begins to run."""
        self._listeners += 1
        if self._away is not None:
            self._away.cancel()
            self._away = None
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners and not self.ended:
                self._away = asyncio.get_running_loop().call_later(self._resume_s, self.cancel)

    def check(self, after: int) -> None:
        """ApiError unless the events after that number can be had, now or later."""
        if after >= self.next:
            raise ApiError(400, f"the last event so far is number {self.next - 1}", param="after")
        if after + 1 < self.first:
            raise ApiError(
                410,
                f"events before number {self.first} of this answer are not kept any more: there were too many; take "
                f"the rest with after={self.first - 1}, or send the message again",
                code="events_gone",
            )

    async def events(self, after: int, ping_s: float | None = None) -> AsyncGenerator[tuple[int, str] | None, None]:
        """Those after number `after`, to the last one; None: none came for so long. ApiError: they were too many."""
        number = after + 1
        while True:
            self.check(number - 1)
            if number < self.next:
                yield number, self._texts[number - self.first]
                number += 1
                # A send that need not wait lets nobody else run.
                await asyncio.sleep(0)
            elif self.ended:
                return
            else:
                try:
                    # Not wait_for: until Python 3.12 it swallows a cancel that comes together with the news.
                    async with asyncio.timeout(ping_s):
                        await self._news.wait()
                except TimeoutError:
                    yield None

    def drop_oldest(self) -> int:
        """Forget an event; how many bytes that frees."""
        self.first += 1
        freed = len(self._texts.popleft().encode())
        self.bytes -= freed
        return freed

    async def run(self, held: AsyncExitStack) -> None:
        """Take all that the model says. The exchange is left with `held`, and learns in which way it ended."""
        try:
            async with held:
                self._exchange.began = True
                self._put(self._encoder.begin())
                try:
                    while self._exchange.left:
                        if (item := await self._exchange.next()) is not None:
                            self._put(self._encoder.event(*item))
                    last = self._encoder.end()
                except ApiError as error:
                    self.failed = self._exchange.failed = error
                    last = self._encoder.error(error)
                except Exception:
                    log.exception("a bug while %s was answered", self.id)
                    self.failed = self._exchange.failed = ApiError(500, "something went wrong here; the log has more")
                    last = self._encoder.error(self.failed)
            # After the exchange's account was made: who has the last event may look for it.
            self._put(last)
        finally:
            self.ended = True
            if self._away is not None:
                self._away.cancel()
            self._news.set()
            self._over(self)

    def _put(self, texts: list[str]) -> None:
        for text in texts:
            self._texts.append(text)
            size = len(text.encode())
            self.bytes += size
            self._grew(size)
        news, self._news = self._news, asyncio.Event()
        news.set()


class KeptAnswers:
    """All of them, by their ids."""

    def __init__(self, settings: ApiSettings) -> None:
        self.bytes = 0
        self._settings = settings
        self._live: dict[str, tuple[KeptAnswer, asyncio.Task[None]]] = {}
        self._ended: dict[str, tuple[KeptAnswer, asyncio.TimerHandle]] = {}  # in the order in which they ended

    def keep(self, exchange: Exchange, encoder: Encoder, held: AsyncExitStack) -> KeptAnswer:
        """Take on an exchange that was submitted. Listen to it before anything else is awaited."""
        answer = KeptAnswer(exchange, encoder, self._settings.resume_s, self._grew, self._over)
        self._live[answer.id] = answer, asyncio.create_task(answer.run(held))
        return answer

    def find(self, answer: str) -> KeptAnswer:
        """ApiError if it is not here, or not any more."""
        kept = self._live.get(answer) or self._ended.get(answer)
        if kept is None:
            raise ApiError(
                404,
                "this answer is not here: it ended some time ago, or the server was started again since; send the "
                "message again",
                param="answer",
                code="answer_not_found",
            )
        return kept[0]

    async def close(self) -> None:
        """End what is live, and keep nothing."""
        await asyncio.sleep(0)  # a task that is cancelled before it began leaves nothing that it was to leave
        tasks = [task for _, task in self._live.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for answer in tuple(self._ended):
            self._forget(answer)

    def _over(self, answer: KeptAnswer) -> None:
        del self._live[answer.id]
        timer = asyncio.get_running_loop().call_later(self._settings.kept_s, self._forget, answer.id)
        self._ended[answer.id] = answer, timer
        while len(self._ended) > self._settings.kept_answers:
            self._forget(next(iter(self._ended)))

    def _grew(self, size: int) -> None:
        self.bytes += size
        while self.bytes > self._settings.kept_bytes:
            if self._ended:
                self._forget(next(iter(self._ended)))
            else:
                self.bytes -= max((kept for kept, _ in self._live.values()), key=lambda kept: kept.bytes).drop_oldest()

    def _forget(self, answer: str) -> None:
        kept, timer = self._ended.pop(answer)
        timer.cancel()
        self.bytes -= kept.bytes
