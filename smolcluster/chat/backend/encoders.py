"""Events of the model's as JSON texts of a stream: /chat's own events, OpenAI's chunks."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Literal, Protocol

from smolcluster.chat.backend.answers import (
    BeginEvent,
    ChatAnswer,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatDelta,
    Completion,
    DoneEvent,
    ErrorEvent,
    TextChoice,
    TokenEvent,
    UsageAnswer,
)
from smolcluster.chat.backend.exchange import Exchange
from smolcluster.chat.backend.refusals import ApiError
from smolcluster.infer.request import Delta, Done, Finish

END = "[DONE]"


class Encoder(Protocol):
    """Each gives the JSON texts to send now."""

    def begin(self) -> list[str]:
        """Before anything."""
        ...

    def event(self, number: int, event: Delta | Done, /) -> list[str]:
        """Something of text `number`."""
        ...

    def end(self) -> list[str]:
        """All texts have ended."""
        ...

    def error(self, error: ApiError) -> list[str]:
        """The last ones, after a failure."""
        ...


def finish_of(reason: Finish) -> Literal["stop", "length"]:
    """OpenAI knows no cancelled ones; nobody hears of those."""
    return "length" if reason == "length" else "stop"


class ChatEvents:
    """begin, token, ..., then done or error; numbered from 0."""

    def __init__(self, exchange: Exchange, model: str) -> None:
        self._exchange = exchange
        self._model = model
        self._texts: list[str] = []
        self._numbers = itertools.count()

    def begin(self) -> list[str]:
        """The begin event."""
        exchange = self._exchange
        begun = BeginEvent(
            number=next(self._numbers), id=exchange.id, model=self._model, prompt_tokens=exchange.prompt_tokens
        )
        return [begun.model_dump_json()]

    def event(self, _: int, event: Delta | Done) -> list[str]:
        """A token event, if there is text."""
        self._texts.append(event.text)
        return [TokenEvent(number=next(self._numbers), text=event.text).model_dump_json()] if event.text else []

    def whole(self, text: str) -> ChatAnswer:
        """The whole answer, of this text."""
        exchange = self._exchange
        written, after_s = exchange.completion_tokens, exchange.seconds - (exchange.first_s or 0)
        return ChatAnswer(
            id=exchange.id,
            model=self._model,
            text=text,
            finish_reason=exchange.finish[0],
            usage=UsageAnswer.of(exchange),
            first_token_s=exchange.first_s,
            seconds=exchange.seconds,
            tokens_per_s=(written - 1) / after_s if written > 1 and after_s > 0 else 0.0,
        )

    def end(self) -> list[str]:
        """The done event."""
        whole = self.whole("".join(self._texts))
        return [DoneEvent(number=next(self._numbers), **dict(whole)).model_dump_json()]

    def error(self, error: ApiError) -> list[str]:
        """The error event."""
        return [ErrorEvent(number=next(self._numbers), error=error.answer().error).model_dump_json()]


class _Chunks(ABC):
    """What both of OpenAI's streams share: chunks of one text each, the usage, [DONE]."""

    def __init__(self, exchange: Exchange, model: str, texts: int, with_usage: bool) -> None:
        self.exchange = exchange
        self.model = model
        self.texts = texts
        self._with_usage = with_usage

    def end(self) -> list[str]:
        """The usage if it was asked for, and the end."""
        return [*([self._last(UsageAnswer.of(self.exchange))] if self._with_usage else []), END]

    def error(self, error: ApiError) -> list[str]:
        """OpenAI's form; its clients raise it."""
        return [error.answer().model_dump_json()]

    @abstractmethod
    def _last(self, usage: UsageAnswer) -> str:
        """The chunk with no choice."""


class ChatChunks(_Chunks):
    """Of /v1/chat/completions."""

    def begin(self) -> list[str]:
        """Who speaks."""
        return [self._chunk(number, ChatDelta(role="assistant", content="")) for number in range(self.texts)]

    def event(self, number: int, event: Delta | Done) -> list[str]:
        """What is new, and how it ended."""
        new = [self._chunk(number, ChatDelta(content=event.text))] if event.text else []
        return new if isinstance(event, Delta) else [*new, self._chunk(number, ChatDelta(), finish_of(event.reason))]

    def _chunk(self, number: int, delta: ChatDelta, finish: Literal["stop", "length"] | None = None) -> str:
        return self._whole([ChatChunkChoice(index=number, delta=delta, finish_reason=finish)])

    def _last(self, usage: UsageAnswer) -> str:
        return self._whole([], usage)

    def _whole(self, choices: list[ChatChunkChoice], usage: UsageAnswer | None = None) -> str:
        exchange = self.exchange
        return ChatCompletionChunk(
            id=exchange.id, created=exchange.created, model=self.model, choices=choices, usage=usage
        ).model_dump_json()


class TextChunks(_Chunks):
    """Of /v1/completions. `echoed` are the prompts that go before, or nothing."""

    def __init__(self, exchange: Exchange, model: str, echoed: list[str], with_usage: bool) -> None:
        super().__init__(exchange, model, len(echoed), with_usage)
        self._echoed = echoed

    def begin(self) -> list[str]:
        """The prompts."""
        return [self._chunk(number, text) for number, text in enumerate(self._echoed) if text]

    def event(self, number: int, event: Delta | Done) -> list[str]:
        """What is new, and how it ended."""
        if isinstance(event, Done):
            return [self._chunk(number, event.text, finish_of(event.reason))]
        return [self._chunk(number, event.text)] if event.text else []

    def _chunk(self, number: int, text: str, finish: Literal["stop", "length"] | None = None) -> str:
        return self._whole([TextChoice(index=number, text=text, finish_reason=finish)])

    def _last(self, usage: UsageAnswer) -> str:
        return self._whole([], usage)

    def _whole(self, choices: list[TextChoice], usage: UsageAnswer | None = None) -> str:
        exchange = self.exchange
        return Completion(
            id=exchange.id, created=exchange.created, model=self.model, choices=choices, usage=usage
        ).model_dump_json()
