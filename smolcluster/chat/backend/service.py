"""The head, for asyncio: its calls in threads, what does not change kept, what is asked at once asked once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from smolcluster.chat.backend.accounts import Accounts
from smolcluster.chat.backend.kept import KeptAnswers
from smolcluster.chat.backend.links import Links
from smolcluster.chat.backend.refusals import refusal, too_long
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.chat.backend.stages import StageWatch
from smolcluster.chat.backend.template import ChatTemplate
from smolcluster.errors import BusyError, PeerLostError, RequestError, SmolError
from smolcluster.infer.head import About, Head, Health
from smolcluster.infer.request import Event, Request
from smolcluster.infer.stream import Stream

if TYPE_CHECKING:
    from smolcluster.chat.backend.exchange import Exchange

# A head that cannot be reached may hold each for some seconds.
_THREADS = 16
Result = TypeVar("Result")


class Service:
    """Everything that endpoints share. Used in one event loop; what the head refuses is an ApiError."""

    def __init__(self, head: Head, settings: ApiSettings) -> None:
        self.settings = settings
        self.accounts = Accounts(settings.requests_file)
        self.leaving = False  # the server is being stopped
        self.open: set[Exchange] = set()
        self.kept = KeptAnswers(settings)
        self.watch = StageWatch()
        key = settings.key
        self.links = Links(key.get_secret_value(), settings.links_file) if key is not None else None
        self._head = head
        self._about: About | None = None
        self._template: ChatTemplate | None = None
        self._asking: asyncio.Task[Health] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self.open_threads()

    def open_threads(self) -> None:
        """Made anew after `close`: an app may be started again."""
        self._calls = ThreadPoolExecutor(_THREADS, "smol-api")
        # Of its own: a cancel must not wait behind calls that hang.
        self._cancels = ThreadPoolExecutor(1, "smol-api-cancel")

    async def about(self) -> About:
        """The model."""
        if self._about is None:
            if (now := await self.health()).state == "starting":  # a head may wait for its model else
                raise refusal(PeerLostError(f"the model is not ready yet: {now.reason}"))
            self._about = await self.call(self._head.about)
        return self._about

    async def template(self) -> ChatTemplate | None:
        """The model's chat template; None if it only continues texts."""
        about = await self.about()
        if self._template is None and (source := about.chat_template) is not None:
            self._template = await self.call(lambda: ChatTemplate(source, about.special_tokens))
        return self._template

    async def health(self) -> Health:
        """Now. Who asks while somebody else does gets the same answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._health())
        return await asyncio.shield(self._asking)

    async def _health(self) -> Health:
        now = await self.call(self._head.health)
        self.watch.saw(now)
        return now

    async def reconnect(self) -> None:
        """Connect the stages anew. Who asks while it is done waits for the same."""
        within_s = self.settings.reconnect_s
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.create_task(self.call(lambda: self._head.reconnect(within_s)))
        await asyncio.shield(self._reconnecting)

    async def submit(self, request: Request, tell: Callable[[Event], None], param: str) -> Stream:
        """Begin a request. `param` is the client's name for its prompt. Nothing of it is left if this is cancelled."""
        submitting = asyncio.get_running_loop().run_in_executor(self._calls, self._head.submit, request, tell)
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(self._never_mind)
            raise
        except RequestError as error:
            if not isinstance(error, BusyError):
                await self._check_length(request, param)
            raise refusal(error) from error
        except SmolError as error:
            raise refusal(error) from error

    def cancel(self, stream: Stream) -> None:
        """End a request, soon."""
        self._cancels.submit(stream.cancel)

    async def call(self, work: Callable[[], Result]) -> Result:
        """Do something that may block."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._calls, work)
        except SmolError as error:
            raise refusal(error) from error

    def leave(self) -> None:
        """The server is being stopped: who waits for text is told so."""
        self.leaving = True
        for exchange in self.open:
            exchange.cancel()

    def close(self) -> None:
        """Wait for nothing; the head stays open."""
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._cancels.shutdown(wait=False)

    async def _check_length(self, request: Request, param: str) -> None:
        """ApiError if the prompt is longer than the context: clients know that case by its code."""
        context, prompt = (await self.about()).context, request.prompt
        tokens = await self.call(lambda: self._head.count(prompt)) if isinstance(prompt, str) else len(prompt)
        if tokens > context:
            raise too_long(tokens, context, param)

    def _never_mind(self, submitting: asyncio.Future[Stream]) -> None:
        if not submitting.cancelled() and submitting.exception() is None:
            self.cancel(submitting.result())
