"""What the API's rank and the head say to each other, and its bytes: a frame of comm (kind MESSAGE, `op` says which).

    the API's rank                         head
                                     <-    ABOUT, once, when the link is there
    SUBMIT {request}                 ->    ACCEPTED, or REFUSED {kind, message}
                                     <-    DELTA ..., then DONE or FAILED or BEHIND; some may come before ACCEPTED
    CANCEL                           ->
    COUNT {text}, HEALTH, RECONNECT  ->    COUNTED, HEALTH, RECONNECTED, or REFUSED

`tag` is the caller's number for a request or a question, never used twice. Payloads are JSON.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Message
from smolcluster.errors import BusyError, PeerError, PeerLostError, ProtocolError, RequestError, SmolError
from smolcluster.infer.head import About, Health
from smolcluster.infer.request import Delta, Done, Failed, Request
from smolcluster.spec.base import Frozen

GATE = "gate"
# A prompt of a million tokens as numbers, and then some.
MOST_BYTES = 8 << 20


class Op(IntEnum):
    """Apart from those in the chain and those between head and stages (messages.py)."""

    ABOUT = 32
    SUBMIT = 33
    ACCEPTED = 34
    REFUSED = 35
    DELTA = 36
    DONE = 37
    FAILED = 38
    BEHIND = 39
    CANCEL = 40
    COUNT = 41
    COUNTED = 42
    HEALTH = 43
    RECONNECT = 44
    RECONNECTED = 45


class Accepted(Frozen):
    """A request is on its way; its deadline is `within_s` from now."""

    within_s: float
    prompt_tokens: int


class Refused(Frozen):
    """Why not: the request is wrong, too many wait, or the head cannot serve."""

    kind: Literal["request", "busy", "lost"]
    message: str


class Text(Frozen):
    """To be counted."""

    text: str


class Counted(Frozen):
    """In tokens."""

    tokens: int = Field(ge=0)


class Within(Frozen):
    """How long it may take."""

    seconds: float = Field(gt=0, le=86400)


Event = Delta | Done | Failed
Word = About | Accepted | Refused | Event | Request | Text | Counted | Health | Within
_EMPTY = frozenset({Op.BEHIND, Op.CANCEL, Op.RECONNECTED})
# Said with nothing in it, HEALTH is the question.
_MAY_BE_EMPTY = _EMPTY | {Op.HEALTH}
_WORDS: dict[Op, TypeAdapter[Any]] = {
    Op.ABOUT: TypeAdapter(About),
    Op.SUBMIT: TypeAdapter(Request),
    Op.ACCEPTED: TypeAdapter(Accepted),
    Op.REFUSED: TypeAdapter(Refused),
    Op.DELTA: TypeAdapter(Delta),
    Op.DONE: TypeAdapter(Done),
    Op.FAILED: TypeAdapter(Failed),
    Op.COUNT: TypeAdapter(Text),
    Op.COUNTED: TypeAdapter(Counted),
    Op.HEALTH: TypeAdapter(Health),
    Op.RECONNECT: TypeAdapter(Within),
}
EVENT_OPS: dict[type[Event], Op] = {Delta: Op.DELTA, Done: Op.DONE, Failed: Op.FAILED}
OF_A_STREAM = frozenset({*EVENT_OPS.values(), Op.BEHIND})


class Frame(NamedTuple):
    """A word as it travels."""

    op: Op
    tag: int
    payload: bytes


def frame(op: Op, tag: int, word: Word | None = None) -> Frame:
    """The frame of a word. RequestError when it is too long for one."""
    payload = _WORDS[op].dump_json(word, by_alias=True) if word is not None else b""
    if len(payload) > MOST_BYTES:
        raise RequestError(f"it is {len(payload)} bytes long; at most {MOST_BYTES} can be sent")
    return Frame(op, tag, payload)


def read(message: Message, who: str) -> tuple[Op, int, Any]:
    """op, tag and word (None: an empty one) of a frame that came from `who`. ProtocolError when it is none."""
    header, payload = message
    try:
        op = Op(header.op)
        if header.kind is not Kind.MESSAGE:
            raise ValueError(header.kind.name)
        if (op in _EMPTY and payload) or (not payload and op not in _MAY_BE_EMPTY):
            raise ValueError(f"{op.name} with {len(payload)} bytes")
        return op, header.tag, _WORDS[op].validate_json(payload) if payload else None
    except (ValueError, ValidationError) as error:
        raise ProtocolError(f"{who} sent a word that cannot be read: {str(error)[:200]}") from error


def refusal(error: Exception) -> Refused:
    """What to answer for an error."""
    kind: Literal["request", "busy", "lost"] = "lost"
    if isinstance(error, RequestError):
        kind = "busy" if isinstance(error, BusyError) else "request"
    return Refused(kind=kind, message=str(error) or type(error).__name__)


def error_of(refused: Refused) -> SmolError:
    """The error that was answered."""
    kinds: dict[str, type[RequestError] | type[PeerError]] = {"request": RequestError, "busy": BusyError}
    return kinds.get(refused.kind, PeerLostError)(refused.message)
