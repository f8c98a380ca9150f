"""OpenAI's endpoints: /v1/models, /v1/completions, /v1/chat/completions. Its clients work unchanged."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

from fastapi import APIRouter, Request
from starlette.responses import Response

from smolcluster.chat.backend.answers import (
    ChatChoice,
    ChatCompletion,
    Completion,
    ModelCard,
    ModelList,
    TextChoice,
    UsageAnswer,
    WrittenMessage,
)
from smolcluster.chat.backend.asked import ChatCompletionAsked, CompletionAsked
from smolcluster.chat.backend.asking import check_model, conversation, requests
from smolcluster.chat.backend.encoders import ChatChunks, Encoder, TextChunks, finish_of
from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.openapi import STREAM
from smolcluster.chat.backend.service import Service
from smolcluster.chat.backend.streaming import EventStream, frames_of, while_there


def openai_routes(service: Service) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["openai"])
    began = int(time.time())

    async def card() -> ModelCard:
        return ModelCard(id=(await service.about()).name, created=began, owned_by="smolcluster")

    def stream(exchange: Exchange, chunks: Encoder, held: AsyncExitStack) -> Response:
        settings = service.settings
        return EventStream(frames_of(exchange, chunks, settings.ping_s), settings.send_s, held.pop_all())

    @router.get("/v1/models")
    async def models() -> ModelList:
        """The one that is served."""
        return ModelList(data=[await card()])

    @router.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        """It, by its name."""
        check_model(model, await service.about())
        return await card()

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAM)
    async def chat_completions(asked: ChatCompletionAsked, http: Request) -> Response | ChatCompletion:
        """The answer to a conversation."""
        count = asked.n or 1
        async with AsyncExitStack() as held:
            exchange = await held.enter_async_context(
                Exchange(service, "/v1/chat/completions", "chatcmpl", bool(asked.stream))
            )
            about = await service.about()
            check_model(asked.model, about)
            prompt = await conversation(asked.messages, service)
            await while_there(
                http.receive, exchange.submit(requests([prompt], asked, about, service, count), "messages", count)
            )
            if asked.stream:
                chunks = ChatChunks(exchange, asked.model, count, asked.with_usage)
                return stream(exchange, chunks, held)
            texts = await while_there(http.receive, exchange.texts())
            return ChatCompletion(
                id=exchange.id,
                created=exchange.created,
                model=asked.model,
                choices=[
                    ChatChoice(
                        index=number,
                        message=WrittenMessage(content=text),
                        finish_reason=finish_of(exchange.finish[number]),
                    )
                    for number, text in enumerate(texts)
                ],
                usage=UsageAnswer.of(exchange),
            )

    @router.post("/v1/completions", response_model=Completion, responses=STREAM)
    async def completions(asked: CompletionAsked, http: Request) -> Response | Completion:
        """What follows a text."""
        count = asked.n or 1
        async with AsyncExitStack() as held:
            exchange = await held.enter_async_context(Exchange(service, "/v1/completions", "cmpl", bool(asked.stream)))
            about = await service.about()
            check_model(asked.model, about)
            before = [
                prompt if asked.echo and isinstance(prompt, str) else ""
                for prompt in asked.prompts
                for _ in range(count)
            ]
            await while_there(
                http.receive, exchange.submit(requests(asked.prompts, asked, about, service, count), "prompt", count)
            )
            if asked.stream:
                chunks = TextChunks(exchange, asked.model, before, asked.with_usage)
                return stream(exchange, chunks, held)
            texts = await while_there(http.receive, exchange.texts())
            return Completion(
                id=exchange.id,
                created=exchange.created,
                model=asked.model,
                choices=[
                    TextChoice(index=number, text=echoed + text, finish_reason=finish_of(exchange.finish[number]))
                    for number, (echoed, text) in enumerate(zip(before, texts, strict=True))
                ],
                usage=UsageAnswer.of(exchange),
            )

    return router
