"""A link: this rank and one peer, one socket per direction, frames in both.

Any thread may send (a lock keeps frames whole); one thread at a time may receive. The ring of backend/ drives the two
wires itself, many frames at once; everything else uses `send` and `receive`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from typing import NamedTuple

from smolcluster.comm.clock import Deadline, Patience
from smolcluster.comm.frame import HEADER_BYTES, MAX_STORE, Header, Kind, pack, unpack
from smolcluster.comm.wire import Wire
from smolcluster.errors import DeadlineError, PeerError, PeerLostError, ProtocolError

# How long a goodbye may take to go out.
_FIN_S = 1.0
# How often a link that sounds does so, and what comes back after so long is none of its own.
SOUND_S = 1.0
_LONGEST_TRIP_S = 3600.0


class Beat(IntEnum):
    """What a heartbeat asks for: nothing; to be sent back at once; nothing, it is the answer. Its tag is the sender's
    monotonic clock in nanoseconds, which nobody else can read.
    """

    PLAIN = 0
    SOUND = 1
    ECHO = 2


class Message(NamedTuple):
    """A received frame."""

    header: Header
    payload: bytearray


class Link:
    """Two wires to one peer. `timeout_s` bounds every send. Closed by `close` (politely) or `abort` (at once).

    `counts`: its bytes are the run's. `sounds`: heartbeats are sent back by the peer, so the way there and back is
    known where somebody receives at both ends.
    """

    def __init__(self, peer: int, channel: str, out: Wire, inward: Wire, timeout_s: float) -> None:
        self.peer = peer
        self.channel = channel
        self.out = out
        self.inward = inward
        self.timeout_s = timeout_s
        self.closed = False
        self.counts = True
        self.sounds = False
        self._trip_s: float | None = None
        self._send_lock = threading.Lock()
        self._sent_fin = False
        self._last_sent = time.monotonic()
        self._last_sounding = self._last_sent
        self.last_heard = self._last_sent
        self._head = bytearray(HEADER_BYTES)

    @property
    def who(self) -> str:
        """The peer, for messages."""
        return self.out.who

    @property
    def bytes_out(self) -> int:
        """Payload and headers sent to the peer, handshakes included."""
        return self.out.bytes

    @property
    def bytes_in(self) -> int:
        """Payload and headers received from the peer, handshakes included."""
        return self.inward.bytes

    def send(self, kind: Kind, payload: bytes | memoryview = b"", *, op: int = 0, tag: int = 0) -> None:
        """Send one frame. DeadlineError if the peer takes nothing for `timeout_s`, PeerLostError if it is gone."""
        with self._send_lock:
            self._send(kind, payload, op, tag, Patience(self.timeout_s))

    def offer(
        self, kind: Kind, payload: bytes | memoryview = b"", *, op: int = 0, tag: int = 0
    ) -> Callable[[], None] | None:
        """Begin to send one frame, without waiting. None: all of it is on its way.

        Else another thread has to call what is given: it sends the rest, waiting as `send` does, and nobody else can
        send before. PeerLostError if the peer is gone.
        """
        if not self._send_lock.acquire(blocking=False):
            return partial(self.send, kind, payload, op=op, tag=tag)
        head = pack(kind, len(payload), op=op, tag=tag)
        body = memoryview(payload) if payload else None
        try:
            sent = self.out.send(head, body)
        except BaseException:
            self._send_lock.release()
            raise
        if sent < len(head) + len(payload):
            return partial(self._send_rest, head, body, sent)
        self._last_sent = time.monotonic()
        self._send_lock.release()
        return None

    def _send_rest(self, head: bytes, body: memoryview | None, sent: int) -> None:
        try:
            begun = max(0, sent - len(head))
            rest = body[begun:] if body is not None else None
            self.out.send_all(memoryview(head)[sent:], rest, Patience(self.timeout_s))
            self._last_sent = time.monotonic()
        finally:
            self._send_lock.release()

    def _send(self, kind: Kind, payload: bytes | memoryview, op: int, tag: int, deadline: Deadline) -> None:
        head = pack(kind, len(payload), op=op, tag=tag)
        self.out.send_all(head, memoryview(payload) if payload else None, deadline)
        self._last_sent = time.monotonic()

    def pulse(self, every_s: float) -> None:
        """Send a heartbeat if nothing went out for `every_s`, or if a sounding is due. Never waits: not for a sender
        that is at work, and not for a peer that takes nothing, or one frozen peer would hold up the heartbeats to all
        others.
        """
        now = time.monotonic()
        due = self.sounds and now - self._last_sounding >= SOUND_S
        if (not due and now - self._last_sent < every_s) or not self._send_lock.acquire(blocking=False):
            return
        try:
            if not self._sent_fin and self.out.has_room():
                beat, tag = (Beat.SOUND, time.monotonic_ns()) if self.sounds else (Beat.PLAIN, 0)
                self._send(Kind.HEARTBEAT, b"", beat, tag, Deadline(every_s))
                self._last_sounding = now
        finally:
            self._send_lock.release()

    def take_trip_ms(self) -> float | None:
        """The shortest time that a heartbeat took there and back since the last call; None if none came back."""
        trip_s, self._trip_s = self._trip_s, None
        return trip_s * 1000 if trip_s is not None else None

    def _heed(self, beat: Header) -> None:
        """A heartbeat has come. On the thread that receives, which must not wait: one that cannot be sent back at once
        is not, for it would measure our own sending."""
        if beat.op == Beat.ECHO:
            trip_s = (time.monotonic_ns() - beat.tag) / 1e9
            if 0 < trip_s < _LONGEST_TRIP_S:
                self._trip_s = min(trip_s, self._trip_s or trip_s)
        elif beat.op == Beat.SOUND and self._send_lock.acquire(blocking=False):
            try:
                if not self._sent_fin and self.out.has_room():
                    # Not by `_send`: an answer is no sign of life of our own, and must not keep our heartbeat back.
                    echo = pack(Kind.HEARTBEAT, 0, op=Beat.ECHO, tag=beat.tag)
                    self.out.send_all(echo, None, Deadline(SOUND_S))
            except PeerLostError:
                return  # what the peer said before it went is still to be read
            finally:
                self._send_lock.release()

    def receive(self, silence_s: float, limit: int = MAX_STORE, deadline: Deadline | None = None) -> Message:
        """The next frame that is no heartbeat. Each heartbeat restarts `silence_s`; `deadline` bounds the whole wait.

        DeadlineError names a peer that has been silent; ProtocolError an impossible frame; PeerLostError the end.
        """
        view = memoryview(self._head)
        while True:
            if deadline is not None and deadline.expired:  # heartbeats alone do not prolong it
                raise DeadlineError(f"{self.who} did not say what was due within {deadline.seconds:g} s")
            wait = Deadline(silence_s) if deadline is None else Deadline(min(silence_s, deadline.left()))
            self.inward.recv_all(view, wait)
            self.last_heard = time.monotonic()
            header = unpack(self._head, limit, self.who)
            payload = self.inward.recv_growing(header.length, wait)
            if header.kind is not Kind.HEARTBEAT:
                return Message(header, payload)
            self._heed(header)

    def receive_into(self, room: memoryview, silence_s: float) -> int:
        """The payload of the next frame that is no heartbeat, which has to be DATA, straight into `room`; its length.

        DeadlineError when nothing comes for `silence_s`; the rest as for `receive`.
        """
        head = memoryview(self._head)
        while True:
            self.inward.recv_all(head, Patience(silence_s))
            self.last_heard = time.monotonic()
            header = unpack(self._head, len(room), self.who)
            if header.kind is Kind.HEARTBEAT:
                self.inward.recv_growing(header.length, Patience(silence_s))
                self._heed(header)
                continue
            if header.kind is not Kind.DATA or not header.length:
                raise ProtocolError(f"{self.who} sent {header.kind.name} of {header.length} bytes in a message's body")
            self.inward.recv_all(room[: header.length], Patience(silence_s))
            self.last_heard = time.monotonic()
            return header.length

    def answer_fin(self) -> None:
        """The peer said FIN: acknowledge it, say our own, and let the sockets go. For the thread that receives."""
        with contextlib.suppress(PeerError), self._sending(min(self.timeout_s, _FIN_S)) as deadline:
            self._send(Kind.FIN_ACK, b"", 0, 0, deadline)
            if not self._sent_fin:
                self._sent_fin = True
                self._send(Kind.FIN, b"", 0, 0, deadline)
        self._release()

    def close(self, patience_s: float) -> bool:
        """Say FIN, wait up to `patience_s` until the peer acknowledged it or said its own, close. True if it did.

        For the thread that receives, or when none does any more. Frames that arrive meanwhile are dropped.
        """
        if self.closed:
            return True
        deadline = Deadline(patience_s)
        acknowledged = False
        self.say_fin()
        with contextlib.suppress(PeerError):
            while not acknowledged:
                kind = self.receive(patience_s, deadline=deadline).header.kind
                if kind is Kind.FIN:
                    with self._sending(deadline.left()):
                        self._send(Kind.FIN_ACK, b"", 0, 0, deadline)
                # Both have said FIN: nothing is under way in either direction. Waiting for the acknowledgement as well
                # would let the ranks of a ring, each closing another link first, wait for each other.
                acknowledged = kind in (Kind.FIN, Kind.FIN_ACK)
        self._release()
        return acknowledged

    def tell(self, kind: Kind, payload: bytes, within_s: float, *, op: int = 0, tag: int = 0) -> None:
        """`send`, for those who cannot wait as long: DeadlineError if it does not go out within `within_s`."""
        with self._sending(within_s) as deadline:
            self._send(kind, payload, op, tag, deadline)

    @contextlib.contextmanager
    def _sending(self, within_s: float) -> Iterator[Deadline]:
        """The right to send: not even whoever is stuck in sending to this peer keeps us longer than `within_s`."""
        deadline = Deadline(within_s)
        if not self._send_lock.acquire(timeout=within_s):
            raise DeadlineError(f"{self.who} took nothing for {within_s:g} s")
        try:
            yield deadline
        finally:
            self._send_lock.release()

    def say_fin(self) -> None:
        """Announce the end without waiting; the thread that receives sees the acknowledgement."""
        with contextlib.suppress(PeerError), self._sending(min(self.timeout_s, _FIN_S)) as deadline:
            if not self._sent_fin:
                self._sent_fin = True
                self._send(Kind.FIN, b"", 0, 0, deadline)

    def abort(self) -> None:
        """End the connection at once, from any thread. Whoever waits on it gets PeerLostError."""
        self.out.shutdown()
        self.inward.shutdown()

    def _release(self) -> None:
        self.closed = True
        self.out.close()
        self.inward.close()

    def discard(self) -> None:
        """Close the sockets without a word: after `abort`, once nobody uses them any more."""
        self._release()


def expect(message: Message, who: str, *kinds: Kind) -> Message:
    """ProtocolError if the frame, which came from `who`, is of none of these kinds."""
    if message.header.kind not in kinds:
        wanted = " or ".join(kind.name for kind in kinds)
        raise ProtocolError(f"{who} sent {message.header.kind.name} where {wanted} was due")
    return message
