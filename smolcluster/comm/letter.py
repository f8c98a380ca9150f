"""A letter: what ranks of a star send each other, any time, in either direction. A few words, and perhaps numbers.

It travels as one MESSAGE frame, `op` and `tag` of whose header are the letter's, then its body in DATA frames of at
most PIECE_BYTES, so that a heartbeat fits between two of them. The payload of the first, numbers big-endian:

    0  version  u8   LETTER_VERSION
    1  body     u64  bytes of the body, all of its pieces
    9  words    ...  a flat JSON object of numbers, texts, truths and lists of numbers; at most MOST_WORDS bytes

Nothing of it is ever executed. It knows nothing of who is there: see mailbox.py and caller.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.errors import PeerLostError, ProtocolError

LETTER_VERSION = 1
PIECE_BYTES = 1 << 20
MOST_WORDS = 64 << 10
_HEAD = struct.Struct("!BQ")
# No float holds a whole number as large as that.
_BEYOND_FLOAT = 1 << 1023

Value = bool | int | float | str | list[int] | list[float]
Kept = TypeVar("Kept", bool, int, float, str)


def no_body() -> Tensor:
    """Of a letter that is words alone."""
    return torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class Letter:
    """`op` (0 to 199) is the strategy's own; `number` is for matching answers with questions. `body`: 1-D uint8, CPU.

    Whoever sends one must not write to its body before it has been answered, or the link is lost.
    """

    op: int
    number: int = 0
    words: Mapping[str, Value] = field(default_factory=dict)
    body: Tensor = field(default_factory=no_body)

    def say(self, key: str, kind: type[Kept]) -> Kept:
        """The word of that name. ProtocolError if it is missing or of another kind; whole numbers pass for floats."""
        value = self.words.get(key)
        if kind is float and type(value) is int and abs(value) < _BEYOND_FLOAT:
            value = float(value)
        if type(value) is not kind:  # not isinstance: True would pass for 1
            raise ProtocolError(f"a letter's {key!r} is {str(value)[:40]!r}, no {kind.__name__}")
        return value

    def numbers(self, key: str) -> list[int]:
        """The list of whole numbers of that name. ProtocolError if it is none."""
        value = self.words.get(key)
        if not isinstance(value, list) or not all(type(one) is int for one in value):
            raise ProtocolError(f"a letter's {key!r} is {str(value)[:40]!r}, no list of whole numbers")
        return [int(one) for one in value]


def send_letter(link: Link, letter: Letter) -> None:
    """Send it whole. One letter at a time on a link. DeadlineError, PeerLostError as for Link.send."""
    words = json.dumps(dict(letter.words), separators=(",", ":")).encode()
    if len(words) > MOST_WORDS:
        raise ValueError(f"a letter of {len(words)} bytes of words; at most {MOST_WORDS} can be sent")
    view = letter.body.numpy().data
    link.send(Kind.MESSAGE, _HEAD.pack(LETTER_VERSION, len(view)) + words, op=letter.op, tag=letter.number)
    for at in range(0, len(view), PIECE_BYTES):
        link.send(Kind.DATA, view[at : at + PIECE_BYTES])


def receive_letter(link: Link, silence_s: float, most_bytes: int) -> Letter | None:
    """The next letter; None: the peer has said goodbye. `most_bytes` is what a body may have.

    DeadlineError: the peer is silent; PeerLostError: it is gone, or memory is short; ProtocolError: what it sent is no
    letter.
    """
    message = link.receive(silence_s, _HEAD.size + MOST_WORDS)
    if message.header.kind in (Kind.FIN, Kind.FIN_ACK):
        return None
    if message.header.kind is not Kind.MESSAGE:
        raise ProtocolError(f"{link.who} sent {message.header.kind.name} where a letter was due")
    words, length = _opened(bytes(message.payload), link.who)
    if length > most_bytes:
        raise ProtocolError(f"{link.who} announced a letter with {length} bytes; at most {most_bytes} are allowed here")
    try:
        body = torch.empty(length, dtype=torch.uint8)
    except (MemoryError, RuntimeError) as error:
        raise PeerLostError(f"{link.who} is let go: there is no memory for a letter of {length} bytes") from error
    room = body.numpy().data
    got = 0
    while got < length:
        got += link.receive_into(room[got : got + PIECE_BYTES], silence_s)
    return Letter(message.header.op, message.header.tag, words, body)


def _opened(payload: bytes, who: str) -> tuple[dict[str, Value], int]:
    try:
        version, length = _HEAD.unpack_from(payload)
    except struct.error as error:
        raise ProtocolError(f"{who} sent {len(payload)} bytes where a letter was due") from error
    if version != LETTER_VERSION:
        raise ProtocolError(
            f"{who} writes letters of version {version}, this side {LETTER_VERSION}. "
            "Fix: install the same version of smolcluster on every machine (ansible-playbook setup.yml)."
        )
    try:
        words = json.loads(payload[_HEAD.size :])
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{who} sent a letter whose words are no JSON") from error
    if not isinstance(words, dict) or not all(map(_is_value, words.values())):
        raise ProtocolError(f"{who} sent a letter whose words are no flat object")
    return words, length


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        return all(type(one) in (int, float) for one in value)
    return type(value) in (bool, int, float, str)
