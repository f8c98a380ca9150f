"""smolcluster's own endpoints for text, for the page and for curl: POST /chat, and what became of its answers."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from smolcluster.chat.backend.answers import ChatAnswer
from smolcluster.chat.backend.asked import LONGEST_ID, ChatAsked
from smolcluster.chat.backend.asking import conversation, requests
from smolcluster.chat.backend.encoders import ChatEvents
from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.kept import KeptAnswer
from smolcluster.chat.backend.openapi import CHAT_EVENTS, EVENTS_GONE, NO_ANSWER
from smolcluster.chat.backend.refusals import ApiError
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.streaming import EventStream, numbered_frames, while_there

AnswerId = Annotated[str, Path(max_length=LONGEST_ID, description="The `id` of its begin event")]
# Longer ones are no numbers of ours, and Python refuses to read thousands of digits.
_DIGITS = 18


async def begin(exchange: Exchange, asked: ChatAsked, service: Service) -> ChatEvents:
    """Submit what was asked. What the model then says goes into the events."""
    about = await service.about()
    prompt = await conversation(asked.conversation, service)
    await exchange.submit(requests([prompt], asked, about, service), "messages")
    return ChatEvents(exchange, about.name)


def chat_routes(service: Service) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["chat"])

    def stream(answer: KeptAnswer, after: int) -> Response:
        settings, held = service.settings, AsyncExitStack()
        held.enter_context(answer.listened())
        return EventStream(numbered_frames(answer, after, settings.ping_s), settings.send_s, held)

    @router.post("/chat", response_model=ChatAnswer, responses=CHAT_EVENTS)
    async def chat(asked: ChatAsked, http: Request) -> Response | ChatAnswer:
        """The answer to a message or a conversation: whole, or with `stream` as numbered events (ChatEvent).

        A stream that is lost can be taken up again at /answers/{answer}/events; with nobody listening the answer goes
        on for some seconds (`resume_s` of /config), and is then cancelled. DELETE /answers/{answer} stops it at once.
        """
        async with AsyncExitStack() as held:
            exchange = await held.enter_async_context(Exchange(service, "/chat", "chat", bool(asked.stream)))
            events = await while_there(http.receive, begin(exchange, asked, service))
            if asked.stream:
                return stream(service.kept.keep(exchange, events, held.pop_all()), -1)
            [text] = await while_there(http.receive, exchange.texts())
            return events.whole(text)

    @router.get(
        "/answers/{answer}/events",
        response_class=Response,
        responses={**CHAT_EVENTS, **NO_ANSWER, **EVENTS_GONE, 204: {"description": "It has ended, and that was all"}},
    )
    async def answer_events(
        answer: AnswerId,
        after: Annotated[int, Query(ge=-1, description="The number of the last event that was received")] = -1,
        last_event_id: Annotated[str | None, Header(description="The same, as browsers say it; goes before")] = None,
    ) -> Response:
        """The events of an answer of /chat or /ws/chat (ChatEvent) after a number, or all of them; then those to come.

        They are kept for some minutes after its end (`kept_s` of /config).
        """
        kept = service.kept.find(answer)
        if last_event_id:
            if not (last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) <= _DIGITS):
                raise ApiError(400, "Last-Event-ID is the number of an event", param="last-event-id")
            after = int(last_event_id)
        kept.check(after)
        # Browsers take up a stream for ever, unless they are told that this is all.
        return Response(status_code=204) if kept.ended and after == kept.next - 1 else stream(kept, after)

    @router.delete("/answers/{answer}", status_code=204, responses=NO_ANSWER)
    async def stop(answer: AnswerId) -> None:
        """Stop an answer: its done event says that it was cancelled. One that has ended stays as it is."""
        service.kept.find(answer).cancel()

    return router
