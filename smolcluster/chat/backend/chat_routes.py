"""smolcluster's own endpoint for text, for the page and for curl: POST /chat."""

from __future__ import annotations

from contextlib import AsyncExitStack

from fastapi import APIRouter, Request
from starlette.responses import Response

from smolcluster.chat.backend.answers import DoneEvent
from smolcluster.chat.backend.asked import ChatAsked
from smolcluster.chat.backend.asking import conversation, requests
from smolcluster.chat.backend.encoders import ChatEvents
from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.openapi import STREAM
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.streaming import EventStream, while_there


async def begin(exchange: Exchange, asked: ChatAsked, service: Service) -> ChatEvents:
    """Submit what was asked. What the model then says goes into the events."""
    about = await service.about()
    prompt = await conversation(asked.conversation, service)
    await exchange.submit(requests([prompt], asked, about, service), "messages")
    return ChatEvents(exchange, about.name)


def chat_routes(service: Service) -> APIRouter:
    """The endpoint."""
    router = APIRouter(tags=["chat"])

    @router.post("/chat", response_model=DoneEvent, responses=STREAM)
    async def chat(asked: ChatAsked, http: Request) -> Response | DoneEvent:
        """The answer to a message or a conversation: whole, or with `stream` as token events and a done event."""
        async with AsyncExitStack() as held:
            exchange = await held.enter_async_context(Exchange(service, "/chat", "chat", bool(asked.stream)))
            events = await while_there(http.receive, begin(exchange, asked, service))
            if asked.stream:
                return EventStream(exchange, events, service.settings, held.pop_all())
            [text] = await while_there(http.receive, exchange.texts())
            return events.done(text)

    return router
