"""What a tablet and the cluster say to each other, and its bytes: one WebSocket message each, always binary.

    "ST" · version (1 byte) · kind (1 byte) · what the kind has

Greetings and assignments are small JSON objects with sorted keys; what travels for every token is a fixed struct, then
numbers, little-endian, from byte 32 on. documentation/tablet.md is the page for whoever writes an app; the bytes are
pinned by tests/tablet/golden. Nothing is unpickled, and every size is capped before it is believed.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationError

from smolcluster.comm.alarm import plain
from smolcluster.errors import ProtocolError
from smolcluster.spec.base import Frozen
from smolcluster.tablet.blocks import Array

VERSION = 1
MAGIC = b"ST"
# Before a proof, and for every message that is no hidden states.
MOST_SMALL = 16 << 10
# Of hidden states: 512 tokens of a model of width 32,768 in fp32.
MOST_BYTES = 64 << 20
PROOF_BYTES = 32
_MOST_REASON = 1000
_HEAD = struct.Struct("<2sBB")
_OPEN, _FORWARD, _FORGET = struct.Struct("<4sIQ"), struct.Struct("<4sIQIIIB3x"), struct.Struct("<4sIQ")
_BEAT, _ERROR = struct.Struct("<4sI"), struct.Struct("<4sIQHH")

DType = Literal["fp32", "fp16"]
_KINDS: tuple[tuple[DType, str], ...] = (("fp32", "<f4"), ("fp16", "<f2"))
Line = Annotated[str, Field(max_length=200)]


class Kind(IntEnum):
    """The second number of a message."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    ASSIGN = 5
    READY = 6
    OPEN = 16
    FORWARD = 17
    RESULT = 18
    FORGET = 19
    PING = 32
    PONG = 33
    ERROR = 34


class Code(IntEnum):
    """Why something was not done. Those from 16 on end a session, the others the connection."""

    VERSION = 1
    REFUSED = 2
    WRONG_STAGE = 3
    BAD_MESSAGE = 4
    LEAVING = 5
    UNKNOWN_SESSION = 16
    OUT_OF_ORDER = 17
    FULL = 18
    FAILED = 19

    @property
    def of_session(self) -> bool:
        """Whether the connection goes on."""
        return self >= Code.UNKNOWN_SESSION


class Greeting(Frozen):
    """Who says so, of which run; `nonce` is random, 32 bytes in hex."""

    role: Literal["cluster", "tablet"]
    run: Line
    name: Line
    nonce: str = Field(pattern=r"^[0-9a-f]{64}$")


class Hello(Greeting):
    """The first word, of whoever dialled."""

    kind: ClassVar[Kind] = Kind.HELLO


class Challenge(Greeting):
    """The answer of whoever listens."""

    kind: ClassVar[Kind] = Kind.CHALLENGE


class Assign(Frozen):
    """From the cluster: the layers, and by format the hash of the exported stage (stage.json) that computes them.

    `last`: the model's last layers are among them; then one row comes back, as wide as the vocabulary: `out_width`.
    `dtype`: of what travels.
    """

    kind: ClassVar[Kind] = Kind.ASSIGN
    model: Line
    layers: str = Field(pattern=r"^\d{1,5}:\d{1,5}$")
    width: int = Field(gt=0, le=1 << 20)
    out_width: int = Field(gt=0, le=1 << 24)
    last: bool
    context: int = Field(gt=0, le=1 << 24)
    dtype: DType
    packages: dict[Line, Line] = Field(max_length=8)


class Ready(Frozen):
    """From the tablet: it has the stage of that hash, in that format, and computes."""

    kind: ClassVar[Kind] = Kind.READY
    device: Line
    format: Line
    hash: Line
    layers: str = Field(pattern=r"^\d{1,5}:\d{1,5}$")


@dataclass(frozen=True)
class Proof:
    """The dialler's; see greeting.py."""

    kind: ClassVar[Kind] = Kind.PROOF
    digest: bytes


@dataclass(frozen=True)
class Welcome:
    """The listener's proof."""

    kind: ClassVar[Kind] = Kind.WELCOME
    digest: bytes


@dataclass(frozen=True)
class Open:
    """A session begins; it will never hold more than `capacity` tokens."""

    kind: ClassVar[Kind] = Kind.OPEN
    session: int
    capacity: int


@dataclass(frozen=True)
class Forget:
    """A session ends. One that is not known is no error."""

    kind: ClassVar[Kind] = Kind.FORGET
    session: int


@dataclass(frozen=True, eq=False)
class Hidden:
    """`values` (T, width) float32 or float16 of a session's tokens from `position` on; `request` is its number."""

    request: int
    session: int
    position: int
    values: Array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and encode_hidden(self) == encode_hidden(other)

    def __hash__(self) -> int:
        return hash((type(self), self.request, self.session, self.position))


class Forward(Hidden):
    """To be computed."""

    kind: ClassVar[Kind] = Kind.FORWARD


class Result(Hidden):
    """Computed: T rows again, or the logits after the last token as one row."""

    kind: ClassVar[Kind] = Kind.RESULT


@dataclass(frozen=True)
class Ping:
    """Are you there?"""

    kind: ClassVar[Kind] = Kind.PING
    number: int


@dataclass(frozen=True)
class Pong:
    """Yes."""

    kind: ClassVar[Kind] = Kind.PONG
    number: int


@dataclass(frozen=True)
class Failure:
    """ERROR: what was not done and why; `request` and `session` are 0 where it is of none."""

    kind: ClassVar[Kind] = Kind.ERROR
    code: Code
    reason: str
    request: int = 0
    session: int = 0


Message = (
    Hello | Challenge | Proof | Welcome | Assign | Ready | Open | Forward | Result | Forget | Ping | Pong | Failure
)
_WORDS: dict[Kind, type[Hello] | type[Challenge] | type[Assign] | type[Ready]] = {
    one.kind: one for one in (Hello, Challenge, Assign, Ready)
}


def encode(message: Message) -> bytes:
    """Its bytes."""
    head = _HEAD.pack(MAGIC, VERSION, message.kind)
    match message:
        case Hello() | Challenge() | Assign() | Ready():
            return head + _json(message)
        case Proof(digest) | Welcome(digest):
            return head + digest
        case Open(session, capacity):
            return _OPEN.pack(head, capacity, session)
        case Forget(session):
            return _FORGET.pack(head, 0, session)
        case Forward() | Result():
            return head + encode_hidden(message)
        case Ping(number) | Pong(number):
            return _BEAT.pack(head, number)
        case Failure(code, reason, request, session):
            words = reason.encode(errors="replace")[:_MOST_REASON]
            return _ERROR.pack(head, request, session, code, len(words)) + words


def encode_hidden(message: Hidden) -> bytes:
    """All of a FORWARD or RESULT but its first four bytes."""
    values = message.values
    number = [np.dtype(kind) for _, kind in _KINDS].index(values.dtype)
    tokens, width = values.shape
    row = _FORWARD.pack(b"", message.request, message.session, message.position, tokens, width, number)
    return row[_HEAD.size :] + np.ascontiguousarray(values).astype(_KINDS[number][1], copy=False).tobytes()


def decode(data: bytes, who: str) -> Message:
    """The message that came from `who`. ProtocolError when it is none, or its lengths do not agree."""
    if len(data) < _HEAD.size:
        raise ProtocolError(f"{who} sent {len(data)} bytes, which are no message")
    magic, version, kind = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError(f"{who} does not speak the protocol of tablets")
    if version != VERSION:
        raise VersionError(f"{who} speaks version {version} of the protocol of tablets, this smolcluster {VERSION}")
    if kind not in (Kind.FORWARD, Kind.RESULT) and len(data) > MOST_SMALL:
        raise ProtocolError(f"{who} sent {len(data)} bytes of kind {kind}; {MOST_SMALL} are the most")
    try:
        return _decoded(Kind(kind), data)
    except (struct.error, ValueError, IndexError, ValidationError, RecursionError) as error:
        what = plain(str(error), _MOST_REASON).replace("\n", " ")
        raise ProtocolError(f"{who} sent a message of kind {kind} that cannot be read: {what}") from error


class VersionError(ProtocolError):
    """The other end is of another version."""


def _decoded(kind: Kind, data: bytes) -> Message:
    if kind in _WORDS:
        return _WORDS[kind].model_validate_json(data[_HEAD.size :])
    if kind in (Kind.PROOF, Kind.WELCOME):
        digest = data[_HEAD.size :]
        if len(digest) != PROOF_BYTES:
            raise ValueError(f"a proof of {len(digest)} bytes")
        return Proof(digest) if kind is Kind.PROOF else Welcome(digest)
    if kind is Kind.OPEN:
        _, capacity, session = _OPEN.unpack(data)
        return Open(session, capacity)
    if kind is Kind.FORGET:
        _, nothing, session = _FORGET.unpack(data)
        if nothing:
            raise ValueError("its reserved bytes are not zero")
        return Forget(session)
    if kind in (Kind.PING, Kind.PONG):
        number = _BEAT.unpack(data)[1]
        return Ping(number) if kind is Kind.PING else Pong(number)
    if kind is Kind.ERROR:
        _, request, session, code, length = _ERROR.unpack_from(data)
        if len(data) != _ERROR.size + length:
            raise ValueError(f"{len(data) - _ERROR.size} bytes are no reason of {length}")
        return Failure(Code(code), plain(data[_ERROR.size :].decode(errors="replace"), _MOST_REASON), request, session)
    return _hidden(kind, data)


def _hidden(kind: Kind, data: bytes) -> Message:
    _, request, session, position, tokens, width, number = _FORWARD.unpack_from(data)
    if any(data[_FORWARD.size - 3 : _FORWARD.size]):
        raise ValueError("its reserved bytes are not zero")
    dtype = np.dtype(_KINDS[number][1])
    if not tokens or not width or len(data) - _FORWARD.size != tokens * width * dtype.itemsize:
        raise ValueError(f"{len(data) - _FORWARD.size} bytes are no {tokens} x {width} of {_KINDS[number][0]}")
    values = np.frombuffer(data, dtype, offset=_FORWARD.size).reshape(tokens, width)
    return (Forward if kind is Kind.FORWARD else Result)(request, session, position, values)


def _json(message: Frozen) -> bytes:
    return json.dumps(message.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
