"""What a tablet and the cluster say to each other, and its bytes: one WebSocket message each, always binary.

    "ST" · version (1 byte) · kind (1 byte) · what the kind has

Greetings and assignments are small JSON objects with sorted keys; the others are of frames.py. documentation/tablet.md
is the page for whoever writes an app; the bytes are pinned by tests/tablet/golden. Nothing is unpickled, and every size
is capped before it is believed.
"""

from __future__ import annotations

import json
import struct
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationError

from smolcluster.comm.alarm import plain
from smolcluster.errors import ProtocolError
from smolcluster.spec.base import Frozen
from smolcluster.tablet.frames import (
    NUMBERS,
    DType,
    Failure,
    Fetch,
    Forget,
    Forward,
    Hidden,
    Open,
    Piece,
    Ping,
    Pong,
    Proof,
    Result,
    Welcome,
)
from smolcluster.tablet.kinds import (
    MAGIC,
    MOST_BYTES,
    MOST_LISTING,
    MOST_PIECE,
    MOST_REASON,
    MOST_SMALL,
    PROOF_BYTES,
    VERSION,
    Code,
    Kind,
)

__all__ = [
    "MOST_BYTES",
    "MOST_LISTING",
    "MOST_PIECE",
    "MOST_SMALL",
    "NUMBERS",
    "PROOF_BYTES",
    "VERSION",
    "Assign",
    "Challenge",
    "Code",
    "DType",
    "Failure",
    "Fetch",
    "Forget",
    "Forward",
    "Greeting",
    "Hello",
    "Hidden",
    "Kind",
    "Message",
    "Open",
    "Piece",
    "Ping",
    "Pong",
    "Proof",
    "Ready",
    "Result",
    "VersionError",
    "Welcome",
    "decode",
    "encode",
]

Line = Annotated[str, Field(max_length=200)]
_HEAD = struct.Struct("<2sBB")


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


_Words = Hello | Challenge | Assign | Ready
_Frames = Proof | Welcome | Fetch | Piece | Open | Forward | Result | Forget | Ping | Pong | Failure
Message = _Words | _Frames
_WORDS: dict[Kind, type[_Words]] = {one.kind: one for one in (Hello, Challenge, Assign, Ready)}
_FRAMES: dict[Kind, type[_Frames]] = {
    one.kind: one
    for one in (Proof, Welcome, Fetch, Piece, Open, Forward, Result, Forget, Ping, Pong, Failure)
}  # fmt: skip
# What may be larger than MOST_SMALL; the connection has a limit for them too.
_LARGE = {
    Kind.FORWARD: MOST_BYTES,
    Kind.RESULT: MOST_BYTES,
    Kind.PIECE: _HEAD.size + Piece.layout.size + MOST_PIECE,
}


class VersionError(ProtocolError):
    """The other end is of another version."""


def encode(message: Message) -> bytes:
    """Its bytes."""
    head = _HEAD.pack(MAGIC, VERSION, message.kind)
    return head + (_json(message) if isinstance(message, Frozen) else message.body())


def decode(data: bytes, who: str) -> Message:
    """The message that came from `who`. ProtocolError when it is none, or its lengths do not agree."""
    if len(data) < _HEAD.size:
        raise ProtocolError(f"{who} sent {len(data)} bytes, which are no message")
    magic, version, kind = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError(f"{who} does not speak the protocol of tablets")
    if version != VERSION:
        raise VersionError(f"{who} speaks version {version} of the protocol of tablets, this smolcluster {VERSION}")
    most = _LARGE.get(kind, MOST_SMALL)
    if len(data) > most:
        raise ProtocolError(f"{who} sent {len(data)} bytes of kind {kind}; {most} are the most")
    body = data[_HEAD.size :]
    try:
        known = Kind(kind)
        return _WORDS[known].model_validate_json(body) if known in _WORDS else _FRAMES[known].read(body)
    except (struct.error, ValueError, IndexError, ValidationError, RecursionError) as error:
        what = plain(str(error), MOST_REASON).replace("\n", " ")
        raise ProtocolError(f"{who} sent a message of kind {kind} that cannot be read: {what}") from error


def _json(message: Frozen) -> bytes:
    return json.dumps(message.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
