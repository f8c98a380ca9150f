"""One message on its way in: read off a peer's wire into its place, or into memory of its own when nobody waits yet.

A message is one frame, or several of MAX_PAYLOAD: `seq` of its headers says how many, `part` which.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from smolcluster.comm.backend.arithmetic import CODES, dtype_name
from smolcluster.comm.backend.flat import Flat
from smolcluster.comm.backend.schedule import bytes_of
from smolcluster.comm.frame import HEADER_BYTES, MAX_PAYLOAD, Header, Kind, unpack
from smolcluster.comm.wire import FIRST_BYTES, LARGEST_STEP_BYTES, Wire
from smolcluster.errors import ProtocolError

if TYPE_CHECKING:
    from smolcluster.comm.backend.receive import Receive


def pieces(memory: memoryview) -> list[memoryview]:
    """What a message's frames carry; an empty message is one empty frame."""
    return [memory[at : at + MAX_PAYLOAD] for at in range(0, max(1, len(memory)), MAX_PAYLOAD)]


class Incoming:
    """A place for a message. `source` is the group rank that sent it, once it is known."""

    __slots__ = ("dtype", "owner", "part", "source", "tag", "views")

    def __init__(self, part: Flat, tag: int) -> None:
        self.part = part
        self.tag = tag
        self.source = -1
        self.dtype = CODES.get(part.numbers.dtype, 0)
        self.views = pieces(bytes_of(part.numbers))
        self.owner: Receive | None = None  # whose it is, once its message has begun to come

    def place(self, header: Header, who: str) -> memoryview:
        """Where a frame's payload goes. ProtocolError if it is not of the size and dtype that is waited for."""
        expected = self.views[header.part] if header.part < len(self.views) else memoryview(b"")
        if (header.seq, header.length, header.dtype) != (len(self.views), len(expected), self.dtype):
            size = sum(len(view) for view in self.views)
            count = header.length if header.seq == 1 else f"{header.seq} pieces of up to {MAX_PAYLOAD}"
            raise ProtocolError(
                f"{who} sent {count} bytes of {dtype_name(header.dtype)} with tag {header.tag}, "
                f"this rank expected {size} bytes of {dtype_name(self.dtype)}"
            )
        return expected


class Early:
    """A message that came before anybody asked for it. Its memory grows with what arrives: a length that is only
    announced costs nothing.
    """

    __slots__ = ("bytes", "frames", "tag")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.bytes = 0  # announced so far
        self.frames: list[tuple[Header, list[bytearray]]] = []

    def place(self, header: Header, _: str) -> memoryview:
        """Memory for the beginning of a frame's payload."""
        self.bytes += HEADER_BYTES + header.length
        self.frames.append((header, []))
        return self.more()

    def more(self) -> memoryview:
        """Memory for what follows."""
        header, chunks = self.frames[-1]
        got = sum(map(len, chunks))
        chunks.append(bytearray(min(max(got, FIRST_BYTES), LARGEST_STEP_BYTES, header.length - got)))
        return memoryview(chunks[-1])

    def give(self, place: Incoming, who: str) -> None:
        """Copy it to its place. ProtocolError if it does not fit."""
        for header, chunks in self.frames:
            view = place.place(header, who)
            for chunk in chunks if header.length else ():
                # torch copies without the GIL
                torch.frombuffer(view[: len(chunk)], dtype=torch.uint8).copy_(
                    torch.frombuffer(chunk, dtype=torch.uint8)
                )
                view = view[len(chunk) :]


class Stream:
    """A peer's wire as a sequence of messages. `take(peer, tag)` gives a place for one that begins; `arrived` tells of
    one that is whole. `moved` is when the last byte came, `ended` whether the peer has said that it sends no more.
    """

    def __init__(
        self,
        peer: int,
        wire: Wire,
        take: Callable[[int, int], Incoming | None],
        arrived: Callable[[int, Incoming | Early], None],
    ) -> None:
        self.peer = peer
        self.wire = wire
        self.moved = time.monotonic()
        self.ended = False
        self._take = take
        self._arrived = arrived
        self._head = bytearray(HEADER_BYTES)
        self._header: Header | None = None
        self.kept = 0  # bytes of messages that nobody has asked for yet
        self._got = 0  # bytes of the header, or of the payload's view once the header is there
        self._left = 0  # bytes of the payload beyond the view
        self._view = memoryview(b"")
        self._message: Incoming | Early | None = None

    @property
    def who(self) -> str:
        """The peer, for messages."""
        return self.wire.who

    def pump(self) -> bool:
        """Read what has come, up to the end of one message. Whether anything had. ProtocolError, PeerLostError."""
        anything = False
        while not self.ended:
            target = self._view[self._got :] if self._header else memoryview(self._head)[self._got :]
            count = self.wire.recv(target) if len(target) else 0
            if not count and len(target):
                break
            anything = True
            self._got += count
            if count < len(target):
                continue
            if self._header is None:
                self._begin(unpack(self._head, MAX_PAYLOAD, self.who))
                if self.ended or len(self._view):
                    continue
            if self._left:
                assert isinstance(self._message, Early)
                self._place(self._message.more(), self._left)
            elif self._complete():
                break
        if anything:
            self.moved = time.monotonic()
        return anything

    def abandon(self) -> None:
        """The message that is under way will not be finished."""
        self._message = None

    def _begin(self, header: Header) -> None:
        if header.kind is Kind.FIN:
            self.ended = True
            return
        if header.kind is not Kind.MESSAGE:
            raise ProtocolError(f"{self.who} sent {header.kind.name} where a message was due")
        if header.part == 0:
            self._message = self._take(self.peer, header.tag) or Early(header.tag)
        if self._message is None:
            raise ProtocolError(f"{self.who} sent piece {header.part} of a message without its beginning")
        if isinstance(self._message, Early):
            self.kept += HEADER_BYTES + header.length
            if self.kept > MAX_PAYLOAD:
                raise ProtocolError(
                    f"{self.who} sent {self.kept} bytes that nobody has asked for: at most {MAX_PAYLOAD} wait. "
                    "Fix: post the receives earlier, or let the sender wait for an answer now and then."
                )
        self._header = header
        self._place(self._message.place(header, self.who), header.length)

    def _place(self, view: memoryview, length: int) -> None:
        """The next of `length` bytes go into `view`."""
        self._view, self._got, self._left = view, 0, length - len(view)

    def _complete(self) -> bool:
        """A frame is whole; whether its message is."""
        header, message = self._header, self._message
        assert header is not None
        assert message is not None
        self._header, self._got, self._view = None, 0, memoryview(b"")
        if header.part + 1 < header.seq:
            return False
        self._message = None
        self._arrived(self.peer, message)
        return True
