"""What head and stages say to each other, and its bytes: a frame of comm (kind MESSAGE, `op` says which, `tag` whose).

Everything that concerns sessions travels in one FIFO, from the head through all stages and back, so that no message can
overtake another. Payloads: a fixed struct, then rows, then numbers as they lie in memory (little-endian).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link, Message
from smolcluster.errors import ProtocolError

# 128 rows of a model of width 16,384 in fp32, eight times over.
MOST_BYTES = 64 << 20
_STEP, _ROW, _LOGITS, _SESSION = (
    struct.Struct("!IBII"),
    struct.Struct("!QIIB"),
    struct.Struct("!III"),
    struct.Struct("!Q"),
)
_EPOCH, _OPEN = struct.Struct("!I"), struct.Struct("!II")
_KINDS = (torch.float32, torch.bfloat16, torch.int64)
_MOST_REASON = 1000


class Op(IntEnum):
    """Frames in the chain are below 16, those between the head and one stage above."""

    OPEN = 1
    STEP = 2
    LOGITS = 3
    CANCEL = 4
    ERROR = 5
    RESET = 6
    HERE = 16
    ASSIGN = 17
    READY = 18
    FAILED = 19
    PING = 20
    PONG = 21


class Span(NamedTuple):
    """`length` tokens of a session from position `pos` on. `wanted`: the logits after the last are asked for."""

    session: int
    pos: int
    length: int
    wanted: bool


@dataclass(frozen=True)
class Open:
    """A session begins; it will never hold more than `max_len` tokens."""

    epoch: int
    session: int
    max_len: int


@dataclass(frozen=True)
class Step:
    """One pass: the spans' tokens one after the other in `hidden`, (N, width); ids (N,) for the first stage."""

    epoch: int
    step: int
    spans: tuple[Span, ...]
    hidden: Tensor


@dataclass(frozen=True)
class Logits:
    """The tail's answer to a step: `rows` (W, vocabulary) float32, one for each of `sessions`."""

    epoch: int
    step: int
    sessions: tuple[int, ...]
    rows: Tensor


@dataclass(frozen=True)
class Cancel:
    """A session ends, for whatever reason; come back to the head, it is forgotten everywhere."""

    epoch: int
    session: int


@dataclass(frozen=True)
class Error:
    """A stage could not go on with a session, and has forgotten it."""

    epoch: int
    session: int
    reason: str


@dataclass(frozen=True)
class Reset:
    """All sessions end, and the epoch begins."""

    epoch: int


Traffic = Open | Step | Logits | Cancel | Error | Reset


def send(link: Link, message: Traffic) -> None:
    """Put a message on a link. The errors of Link.send."""
    op, tag, payload = encode(message)
    link.send(Kind.MESSAGE, payload, op=op, tag=tag)


def encode(message: Traffic) -> tuple[Op, int, bytes]:
    """op, tag and payload of the frame."""
    match message:
        case Step(epoch, step, spans, hidden):
            width = hidden.shape[1] if hidden.ndim == 2 else 1
            head = _STEP.pack(epoch, _KINDS.index(hidden.dtype), len(spans), width)
            return Op.STEP, step, b"".join((head, *(_ROW.pack(*span) for span in spans), _bytes(hidden)))
        case Logits(epoch, step, sessions, rows):
            head = _LOGITS.pack(epoch, len(sessions), rows.shape[1])
            return Op.LOGITS, step, b"".join((head, *(_SESSION.pack(one) for one in sessions), _bytes(rows)))
        case Open(epoch, session, max_len):
            return Op.OPEN, session, _OPEN.pack(epoch, max_len)
        case Cancel(epoch, session):
            return Op.CANCEL, session, _EPOCH.pack(epoch)
        case Error(epoch, session, reason):
            return Op.ERROR, session, _EPOCH.pack(epoch) + reason.encode(errors="replace")[:_MOST_REASON]
        case Reset(epoch):
            return Op.RESET, epoch, b""


def decode(message: Message, who: str) -> Traffic:
    """The message of a frame that came from `who`. ProtocolError when it is none, or its lengths do not agree."""
    header, payload = message
    if header.kind is not Kind.MESSAGE:
        raise ProtocolError(f"{who} sent {header.kind.name} where a message was due")
    try:
        if header.op == Op.STEP:
            return _step(header.tag, payload)
        if header.op == Op.LOGITS:
            return _logits(header.tag, payload)
        if header.op == Op.OPEN:
            epoch, max_len = _OPEN.unpack(payload)
            return Open(epoch, header.tag, max_len)
        if header.op == Op.CANCEL:
            return Cancel(int(_EPOCH.unpack(payload)[0]), header.tag)
        if header.op == Op.ERROR:
            reason = bytes(payload[_EPOCH.size :]).decode(errors="replace")
            return Error(int(_EPOCH.unpack_from(payload)[0]), header.tag, reason)
        if header.op == Op.RESET:
            return Reset(header.tag)
    except (struct.error, IndexError, ValueError, RuntimeError) as error:
        raise ProtocolError(f"{who} sent a message of kind {header.op} that cannot be read: {error}") from error
    raise ProtocolError(f"{who} sent a message of the unknown kind {header.op}")


def _step(step: int, payload: bytearray) -> Step:
    epoch, kind, count, width = _STEP.unpack_from(payload)
    end = _STEP.size + count * _ROW.size
    if end > len(payload):
        raise ValueError(f"{count} rows do not fit into {len(payload)} bytes")
    spans = tuple(
        Span(session, pos, tokens, bool(wanted))
        for session, pos, tokens, wanted in _ROW.iter_unpack(memoryview(payload)[_STEP.size : end])
    )
    return Step(epoch, step, spans, _tensor(payload, end, _KINDS[kind], sum(span.length for span in spans), width))


def _logits(step: int, payload: bytearray) -> Logits:
    epoch, count, vocabulary = _LOGITS.unpack_from(payload)
    end = _LOGITS.size + count * _SESSION.size
    if end > len(payload):
        raise ValueError(f"{count} rows do not fit into {len(payload)} bytes")
    sessions = tuple(one for (one,) in _SESSION.iter_unpack(memoryview(payload)[_LOGITS.size : end]))
    return Logits(epoch, step, sessions, _tensor(payload, end, torch.float32, count, vocabulary))


def _bytes(tensor: Tensor) -> memoryview | bytes:
    if not tensor.numel():
        return b""
    flat = tensor.contiguous().view(-1)
    # numpy knows no bfloat16.
    array: Any = (flat.view(torch.int16) if flat.dtype is torch.bfloat16 else flat).numpy()
    return memoryview(array).cast("B")


def _tensor(payload: bytearray, start: int, kind: torch.dtype, rows: int, width: int) -> Tensor:
    if len(payload) - start != rows * width * kind.itemsize:
        raise ValueError(f"{len(payload) - start} bytes are no {rows} x {width} of {kind}")
    if not rows * width:
        return torch.empty(rows, width, dtype=kind)
    return torch.frombuffer(payload, dtype=torch.uint8, offset=start).clone().view(kind).view(rows, width)
