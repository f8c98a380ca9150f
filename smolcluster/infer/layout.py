"""Who computes which layers in one epoch, and the words head and stages exchange about it over their control link."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link, Message
from smolcluster.errors import ProtocolError
from smolcluster.infer.messages import Op
from smolcluster.models.dense import Precision
from smolcluster.spec.base import Frozen

CONTROL = "control"
_HOP, _BACK = "hop/", "back/"


class Place(Frozen):
    """One stage: rank `rank` has layers `start` to `stop`, half-open."""

    rank: int = Field(ge=0)
    start: int = Field(ge=0)
    stop: int = Field(gt=0)


class Layout(Frozen):
    """All stages in the order of their layers. Rank 0, the head, is the first; ranks ascend."""

    layers: int = Field(gt=0)
    precision: Precision
    places: tuple[Place, ...]

    @property
    def tail(self) -> int:
        """The rank of the last stage."""
        return self.places[-1].rank


class Here(Frozen):
    """A stage tells the head where it listens (port 0: nowhere), and its machine's memory."""

    port: int = Field(ge=0, le=65535)
    memory_mb: int = Field(default=0, ge=0)


class Assignment(Frozen):
    """The head tells a stage what it is in this epoch. It dials `upstream` at `port`; `after` None: it is the tail.

    `life` is the head's process: the epochs of one that was started again count from 1 too.
    """

    life: str = Field(max_length=32)
    epoch: int
    place: Place
    layers: int
    precision: Precision
    upstream: int
    port: int
    after: int | None
    within_s: float = Field(gt=0)


class Report(Frozen):
    """A stage tells the head how an epoch goes: ready, or failed and why."""

    epoch: int
    reason: str = ""


class Pong(Frozen):
    """A stage's answer to a ping: its state (stage.py) and its memory."""

    sessions: int
    cache_bytes: int
    steps: int
    busy_s: float
    rss_mb: float


Word = Here | Assignment | Report | Pong
_WORDS: dict[Op, type[Here] | type[Assignment] | type[Report] | type[Pong]] = {
    Op.HERE: Here,
    Op.ASSIGN: Assignment,
    Op.READY: Report,
    Op.FAILED: Report,
    Op.PONG: Pong,
}


def hop_channel(life: str, epoch: int) -> str:
    """The links of an epoch's chain."""
    return f"{_HOP}{life}/{epoch}"


def back_channel(life: str, epoch: int) -> str:
    """The link from an epoch's tail to the head."""
    return f"{_BACK}{life}/{epoch}"


def is_stale(channel: str, life: str, epoch: int) -> bool:
    """Whether it belongs to the chain of another epoch than this."""
    return channel.startswith((_HOP, _BACK)) and channel not in (hop_channel(life, epoch), back_channel(life, epoch))


def say(link: Link, op: Literal[Op.HERE, Op.ASSIGN, Op.READY, Op.FAILED, Op.PING, Op.PONG], word: Word | None) -> None:
    """Put a word on a control link."""
    link.send(Kind.MESSAGE, word.model_dump_json().encode() if word is not None else b"", op=op)


def heard(message: Message, who: str) -> tuple[Op, Word | None]:
    """The word of a frame. ProtocolError when it is none."""
    header, payload = message
    try:
        op = Op(header.op)
        if header.kind is not Kind.MESSAGE or (op is not Op.PING and op not in _WORDS):
            raise ValueError(f"{header.kind.name} {header.op}")
        return op, _WORDS[op].model_validate_json(payload) if op in _WORDS else None
    except (ValueError, ValidationError) as error:
        raise ProtocolError(f"{who} sent a word that cannot be read: {str(error)[:200]}") from error
