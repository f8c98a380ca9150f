"""The messages that are a struct of numbers, little-endian, and some of them a tail: text, bytes or hidden states.

What a struct holds is said once, beside its class; reading and writing follow from it. All sizes are checked before
they are believed: ValueError or struct.error is garbage.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from smolcluster.comm.alarm import plain
from smolcluster.tablet.blocks import Array
from smolcluster.tablet.kinds import MOST_PIECE, MOST_REASON, PROOF_BYTES, Code, Kind

DType = Literal["fp32", "fp16"]
# What hidden states travel as; their place is their number on the wire.
NUMBERS: dict[DType, np.dtype[np.floating]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}
_MOST_FORMAT, _MOST_PATH = 32, 1000
_LENGTH = struct.Struct("<H")


class Frame:
    """`layout` is the struct after the first four bytes, `names` what stands in it; "" is reserved, and zero."""

    kind: ClassVar[Kind]
    layout: ClassVar[struct.Struct]
    names: ClassVar[tuple[str, ...]]

    def body(self) -> bytes:
        """All but the first four bytes."""
        return self.layout.pack(*(getattr(self, name) if name else 0 for name in self.names))

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The message of that body."""
        fields, tail = cls._fields(body)
        if tail:
            raise ValueError(f"{len(tail)} bytes too many")
        return cls(**fields)

    @classmethod
    def _fields(cls, body: bytes) -> tuple[dict[str, int], bytes]:
        """What the struct says by name, and what comes after it."""
        values = tuple(zip(cls.names, cls.layout.unpack_from(body), strict=True))
        if any(value for name, value in values if not name):
            raise ValueError("its reserved bytes are not zero")
        return {name: value for name, value in values if name}, body[cls.layout.size :]


@dataclass(frozen=True)
class _Digest(Frame):
    layout, names = struct.Struct(f"<{PROOF_BYTES}s"), ("digest",)
    digest: bytes


class Proof(_Digest):
    """The dialler's; see greeting.py."""

    kind: ClassVar[Kind] = Kind.PROOF


class Welcome(_Digest):
    """The listener's proof."""

    kind: ClassVar[Kind] = Kind.WELCOME


@dataclass(frozen=True)
class Fetch(Frame):
    """A tablet asks for at most `most` bytes of a file of the package of that format, from `offset` on; path "" is the
    listing.
    """

    kind: ClassVar[Kind] = Kind.FETCH
    layout, names = struct.Struct("<IQI"), ("request", "offset", "most")
    request: int
    format: str
    path: str
    offset: int = 0
    most: int = MOST_PIECE

    def body(self) -> bytes:
        """With both texts after the numbers."""
        texts = self.format.encode(), self.path.encode()
        return super().body() + b"".join(_LENGTH.pack(len(text)) + text for text in texts)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """As Frame's."""
        fields, tail = cls._fields(body)
        kind, tail = _text(tail, _MOST_FORMAT)
        path, tail = _text(tail, _MOST_PATH)
        if tail:
            raise ValueError(f"{len(tail)} bytes too many")
        return cls(format=kind, path=path, **fields)


@dataclass(frozen=True)
class Piece(Frame):
    """The answer: `data` from `offset` on of a file that has `size` bytes; none of them at its end."""

    kind: ClassVar[Kind] = Kind.PIECE
    layout, names = struct.Struct("<IQQ"), ("request", "offset", "size")
    request: int
    offset: int
    size: int
    data: bytes

    def body(self) -> bytes:
        """With the bytes after the numbers."""
        return super().body() + self.data

    @classmethod
    def read(cls, body: bytes) -> Self:
        """As Frame's."""
        fields, data = cls._fields(body)
        if len(data) > MOST_PIECE or fields["offset"] + len(data) > fields["size"]:
            raise ValueError(f"{len(data)} bytes at {fields['offset']} of a file of {fields['size']}")
        return cls(data=data, **fields)


@dataclass(frozen=True)
class Open(Frame):
    """A session begins; it will never hold more than `capacity` tokens."""

    kind: ClassVar[Kind] = Kind.OPEN
    layout, names = struct.Struct("<IQ"), ("capacity", "session")
    session: int
    capacity: int


@dataclass(frozen=True)
class Forget(Frame):
    """A session ends. One that is not known is no error."""

    kind: ClassVar[Kind] = Kind.FORGET
    layout, names = struct.Struct("<IQ"), ("", "session")
    session: int


@dataclass(frozen=True, eq=False)
class Hidden(Frame):
    """`values` (T, width) float32 or float16 of a session's tokens from `position` on; `request` is its number."""

    layout = struct.Struct("<IQIIIBBH")
    names = ("request", "session", "position", "tokens", "width", "number", "", "")
    request: int
    session: int
    position: int
    values: Array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and self.kind is other.kind and self.body() == other.body()

    def __hash__(self) -> int:
        return hash((type(self), self.request, self.session, self.position))

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """Of one token's row."""
        return int(self.values.shape[1])

    @property
    def number(self) -> int:
        """What stands for the values' type."""
        return list(NUMBERS.values()).index(self.values.dtype.newbyteorder("<"))

    def body(self) -> bytes:
        """With the values after the numbers, from byte 32 of the message on."""
        kind = self.values.dtype.newbyteorder("<")
        return super().body() + np.ascontiguousarray(self.values).astype(kind, copy=False).tobytes()

    @classmethod
    def read(cls, body: bytes) -> Self:
        """As Frame's; the values are a view of `body`."""
        fields, _ = cls._fields(body)
        tokens, width, kind = fields["tokens"], fields["width"], list(NUMBERS.values())[fields["number"]]
        if not tokens or not width or len(body) - cls.layout.size != tokens * width * kind.itemsize:
            raise ValueError(f"{len(body) - cls.layout.size} bytes are no {tokens} x {width} of {kind}")
        values = np.frombuffer(body, kind, offset=cls.layout.size).reshape(tokens, width)
        return cls(fields["request"], fields["session"], fields["position"], values)


class Forward(Hidden):
    """To be computed."""

    kind: ClassVar[Kind] = Kind.FORWARD


class Result(Hidden):
    """Computed: T rows again, or the logits after the last token as one row."""

    kind: ClassVar[Kind] = Kind.RESULT


@dataclass(frozen=True)
class _Beat(Frame):
    layout, names = struct.Struct("<I"), ("number",)
    number: int


class Ping(_Beat):
    """Are you there?"""

    kind: ClassVar[Kind] = Kind.PING


class Pong(_Beat):
    """Yes."""

    kind: ClassVar[Kind] = Kind.PONG


@dataclass(frozen=True)
class Failure(Frame):
    """ERROR: what was not done and why; `request` and `session` are 0 where it is of none."""

    kind: ClassVar[Kind] = Kind.ERROR
    layout, names = struct.Struct("<IQH"), ("request", "session", "code")
    code: Code
    reason: str
    request: int = 0
    session: int = 0

    def body(self) -> bytes:
        """With the reason after the numbers."""
        words = self.reason.encode(errors="replace")[:MOST_REASON]
        return super().body() + _LENGTH.pack(len(words)) + words

    @classmethod
    def read(cls, body: bytes) -> Self:
        """As Frame's; the reason can steer no terminal."""
        fields, tail = cls._fields(body)
        (length,) = _LENGTH.unpack_from(tail)
        words = tail[_LENGTH.size :]
        if len(words) != length:
            raise ValueError(f"{len(words)} bytes are no reason of {length}")
        reason = plain(words.decode(errors="replace"), MOST_REASON)
        return cls(Code(fields["code"]), reason, fields["request"], fields["session"])


def _text(data: bytes, most: int) -> tuple[str, bytes]:
    """A text that comes after its length, and what comes after it."""
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    if length > most or end > len(data):
        raise ValueError(f"a text of {length} bytes")
    return data[_LENGTH.size : end].decode(), data[end:]
