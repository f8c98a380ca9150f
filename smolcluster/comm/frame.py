"""The frame: a fixed header of 32 bytes, then at most MAX_PAYLOAD bytes. All numbers are big-endian.

     0  magic    4s   b"SMOL"
     4  version  u8   PROTOCOL_VERSION; the header's layout never changes, so that any version can refuse any other
     5  kind     u8   Kind
     6  dtype    u8   code of the payload's element type (backend/arithmetic.py), 0 for plain bytes
     7  op       u8   which operation of that kind
     8  seq      u32  the sender's count of operations on this link: two ends that drift apart are told so; of a
                      message: how many pieces it has
    12  part     u32  which piece of the operation
    16  tag      i64  the caller's tag, or a request's number
    24  length   u64  payload bytes that follow

It knows nothing of sockets.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from smolcluster.errors import HandshakeError, ProtocolError

MAGIC = b"SMOL"
PROTOCOL_VERSION = 1
_LAYOUT = struct.Struct("!4sBBBBIIqQ")
HEADER_BYTES = _LAYOUT.size
MAX_PAYLOAD = 1 << 30
MAX_HANDSHAKE = 4096
MAX_STORE = 16 << 20


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    REFUSE = 5
    DATA = 16
    MESSAGE = 17
    REQUEST = 18
    REPLY = 19
    ROLL = 20
    HEARTBEAT = 32
    ABORT = 33
    FIN = 34
    FIN_ACK = 35


_KINDS = {int(kind): kind for kind in Kind}


class Header(NamedTuple):
    """A header that was read and found sane."""

    kind: Kind
    dtype: int
    op: int
    seq: int
    part: int
    tag: int
    length: int


def pack(kind: Kind, length: int, dtype: int = 0, op: int = 0, seq: int = 0, part: int = 0, tag: int = 0) -> bytes:
    """The 32 bytes of a header. `seq` wraps at 2**32."""
    return _LAYOUT.pack(MAGIC, PROTOCOL_VERSION, kind, dtype, op, seq & 0xFFFFFFFF, part, tag, length)


def unpack(data: bytes | bytearray | memoryview, limit: int, who: str) -> Header:
    """Read a header from `who`. ProtocolError: not ours, or longer than `limit`. HandshakeError: another version."""
    try:
        magic, version, kind, dtype, op, seq, part, tag, length = _LAYOUT.unpack_from(data)
    except struct.error as error:
        raise ProtocolError(f"{who} sent {len(data)} bytes where a header of {HEADER_BYTES} was due") from error
    if magic != MAGIC:
        raise ProtocolError(
            f"{who} sent garbage instead of a frame: it begins with {bytes(magic)!r}, not {MAGIC!r}. "
            "Fix: check that the port belongs to smolcluster."
        )
    if version != PROTOCOL_VERSION:
        raise HandshakeError(
            f"{who} speaks protocol version {version}, this side {PROTOCOL_VERSION}. "
            "Fix: install the same version of smolcluster on every machine (ansible-playbook setup.yml)."
        )
    known = _KINDS.get(kind)
    if known is None:
        raise ProtocolError(f"{who} sent a frame of the unknown kind {kind}")
    if length > limit:
        raise ProtocolError(f"{who} announced a frame of {length} bytes; at most {limit} are allowed here")
    return Header(known, dtype, op, seq, part, tag, length)
