"""What clients get: the bodies of every answer, and the events and chunks of the streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from smolcluster.chat.backend.refusals import ErrorDetail
from smolcluster.infer.request import Finish, Strategy
from smolcluster.models.dense import Precision
from smolcluster.runtime.tabletnote import State
from smolcluster.spec.cluster import App

if TYPE_CHECKING:
    from smolcluster.chat.backend.exchange import Exchange


class UsageAnswer(BaseModel):
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, exchange: Exchange) -> UsageAnswer:
        """So far."""
        read, written = exchange.prompt_tokens, exchange.completion_tokens
        return cls(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


class BeginEvent(BaseModel):
    """The first event of /chat's stream and /ws/chat. `id` is what a lost connection is taken up by.

    `number` counts the events of an answer from 0; server-sent events have it as their `id` too.
    """

    type: Literal["begin"] = "begin"
    number: int
    id: str
    model: str
    prompt_tokens: int


class TokenEvent(BaseModel):
    """Text that has become certain."""

    type: Literal["token"] = "token"
    number: int
    text: str


class ChatAnswer(BaseModel):
    """The body of /chat: the whole answer. Times in seconds."""

    type: Literal["done"] = "done"
    id: str
    model: str
    text: str
    finish_reason: Finish
    usage: UsageAnswer
    first_token_s: float | None
    seconds: float
    tokens_per_s: float


class DoneEvent(ChatAnswer):
    """The last event of an answer: all of it. `finish_reason` "cancelled": it was stopped, or nobody listened."""

    number: int


class ErrorEvent(BaseModel):
    """What went wrong, in OpenAI's form. The last event of its request. `number` null: it had not begun."""

    type: Literal["error"] = "error"
    number: int | None = None
    error: ErrorDetail


ChatEvent = Annotated[BeginEvent | TokenEvent | DoneEvent | ErrorEvent, Field(discriminator="type")]


class LimitsAnswer(BaseModel):
    """What a request may be at most. `context` in tokens: prompt and answer together; a `max_tokens` beyond what it has
    room for is cut to that. A request without one gets `default_max_tokens`. An answer of /chat or /ws/chat goes on for
    `resume_s` seconds with nobody listening; its events can be had for `kept_s` seconds after its end.
    """

    context: int
    max_tokens: int
    default_max_tokens: int
    body_bytes: int
    messages: int
    choices: int
    stop_strings: int
    resume_s: float
    kept_s: float


class StrategyAnswer(BaseModel):
    """How a strategy decodes; top_k 0 and top_p 1 leave all tokens in."""

    temperature: float
    top_k: int
    top_p: float


class ConfigAnswer(BaseModel):
    """GET /config. `chat`: it has a chat template; else it continues the last message."""

    model: str
    source: str
    licence: str
    layers: int
    params: int
    vocabulary: int
    precision: Precision
    chat: bool
    active_strategy: Strategy
    strategies: dict[Strategy, StrategyAnswer]
    limits: LimitsAnswer


TabletApp = Literal["", "native", "browser"]


class StageAnswer(BaseModel):
    """A stage. `layers` is half-open, as in the configuration: "0:10". `tablet`: what has them where it is no computer;
    it is alive as long as that is connected.
    """

    rank: int
    node: str
    layers: str
    alive: bool
    sessions: int
    cache_bytes: int
    ms_per_step: float
    rss_mb: float
    tablet: TabletApp = ""


class HealthAnswer(BaseModel):
    """GET /health. Whoever has no key, where one is needed, gets `state` alone."""

    state: Literal["starting", "ready", "lost", "closed"]
    reason: str | None = None
    epoch: int | None = None
    active: int | None = None
    waiting: int | None = None
    tokens: int | None = None
    stages: list[StageAnswer] | None = None


StageHealth = Literal["serving", "lost", "recovering"]


class StageStrip(BaseModel):
    """A stage as the page shows it. `layers` is half-open, null: it has none now. `ms_per_token`: how long it computes
    for a step lately, null before it did; a step is a token of every session that is under way. `health` lost: it
    cannot be reached; recovering: it is there, and waits for the others or for layers. `tablet`: what has the layers
    where it is no computer; lost then says that it is not connected. `connection`: how it stands with that, as far as
    its head says.
    """

    rank: int
    node: str
    layers: tuple[int, int] | None
    ms_per_token: float | None
    health: StageHealth
    tablet: TabletApp = ""
    connection: Literal["", State] = ""


class StageEvent(BaseModel):
    """The chain of stages broke. `time`: seconds since 1970; `nodes` and `ranks`: who was lost, none if nobody was but
    the stages were connected anew. `done` is empty and `seconds` null until it serves again; `seconds` is until then,
    to about a second. An event keeps its `number`.
    """

    number: int
    time: float
    ranks: list[int]
    nodes: list[str]
    reason: str
    done: str
    seconds: float | None


class StagesAnswer(BaseModel):
    """GET /stages. `events`: the last ones, the oldest first."""

    state: Literal["starting", "ready", "lost", "closed"]
    reason: str
    epoch: int
    tokens_per_s: float
    stages: list[StageStrip]
    events: list[StageEvent]


class LinkAnswer(BaseModel):
    """POST /links. `qr_svg`: the URL as a QR code, an <svg> element that takes the size it is given."""

    url: str
    qr_svg: str
    expires_s: float


class TabletAnswer(BaseModel):
    """A tablet of the plan. `left_s`: how long it is waited for, null: as long as the run lasts; `came`: it was there
    before in this run; `reason`: why it is not now, as far as that is known.

    `url`: what it opens to come in while it is waited for, with the run's key for tablets in the part that no server is
    sent; `qr_svg` as in /links, null where the link is good on its own machine alone.
    """

    node: str
    app: App
    layers: str
    state: State
    left_s: float | None
    came: bool
    reason: str
    device: str
    url: str | None
    qr_svg: str | None


class TabletsAnswer(BaseModel):
    """GET /tablets. None where the head cannot be reached, which knows of them."""

    tablets: list[TabletAnswer]


class ModelCard(BaseModel):
    """One of /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class WrittenMessage(BaseModel):
    """The assistant's."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of a chat completion's."""

    index: int
    message: WrittenMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageAnswer


class ChatDelta(BaseModel):
    """What is new, and only that."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def _new(self, whole: SerializerFunctionWrapHandler) -> dict[str, str]:
        return {name: text for name, text in whole(self).items() if text is not None}


class ChatChunkChoice(BaseModel):
    """Of one text."""

    index: int
    delta: ChatDelta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletionChunk(BaseModel):
    """One of a chat completion's stream. `usage` in the last one, if it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageAnswer | None = None


class TextChoice(BaseModel):
    """One of a completion's; in a stream, what is new."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(BaseModel):
    """POST /v1/completions, and each chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageAnswer | None = None
