"""A wire: one connected socket, never blocking, with deadlines and byte counters of its own.

The same class drives plain TCP and TLS. Payloads are never copied here: `recv` fills the caller's memory, `send` reads
from it. The kernel calls release the GIL; assignments to memoryviews would not.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
from collections.abc import Sequence

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError, HandshakeError, PeerLostError

# Below this a header and its payload are copied into one buffer where the system has no gathering send.
_JOIN_BYTES = 16 * 1024
# Payloads that nobody has made room for are given memory as they come, this much at first.
FIRST_BYTES = 1 << 20
LARGEST_STEP_BYTES = 64 << 20
# poll counts milliseconds in a C int: a group's timeout of a month would not fit. Whoever waits asks again.
_LONGEST_WAIT_S = 3600.0
_BLOCKED = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class HungUpError(HandshakeError):
    """The other end ended the connection during the introduction and gave no reason: it may have been too busy."""


class Wire:
    """One socket. `who` names the other end in errors; `bytes` counts what was moved, headers included."""

    __slots__ = ("_gathers", "_wants_write", "bytes", "sock", "who")

    def __init__(self, sock: socket.socket, who: str) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.who = who
        self.bytes = 0
        self._gathers = not isinstance(sock, ssl.SSLSocket)
        self._wants_write = False

    def send(self, head: memoryview | bytes, body: memoryview | None = None) -> int:
        """Hand the kernel what it takes of head and then body; how many bytes it took, 0 when it takes none now.

        PeerLostError when the connection is gone.
        """
        try:
            if body is None:
                sent = self.sock.send(head)
            elif sys.platform != "win32" and self._gathers:
                sent = self.sock.sendmsg((head, body))
            elif len(body) <= _JOIN_BYTES:
                sent = self.sock.send(b"".join((head, body)))
            else:
                sent = self.sock.send(head)
        except _BLOCKED as error:
            self._wants_write = not isinstance(error, ssl.SSLWantReadError)
            return 0
        except (OSError, ValueError) as error:
            raise PeerLostError(f"the connection to {self.who} broke while sending: {_reason(error)}") from error
        self.bytes += sent
        return sent

    def recv(self, into: memoryview) -> int:
        """Fill as much of `into` as has arrived; 0 when nothing has. PeerLostError at the end of the connection."""
        try:
            got = self.sock.recv_into(into)
        except _BLOCKED as error:
            self._wants_write = isinstance(error, ssl.SSLWantWriteError)
            return 0
        except (OSError, ValueError) as error:
            raise PeerLostError(f"the connection to {self.who} broke while receiving: {_reason(error)}") from error
        if got == 0:
            raise PeerLostError(f"{self.who} was lost: it closed the connection")
        self.bytes += got
        return got

    def send_all(self, head: memoryview | bytes, body: memoryview | None, deadline: Deadline) -> None:
        """Send everything. DeadlineError when the other end does not take it in time."""
        total = len(head) + (len(body) if body is not None else 0)
        sent = 0
        while sent < total:
            if sent < len(head):
                moved = self.send(memoryview(head)[sent:], body)
            else:
                assert body is not None
                moved = self.send(body[sent - len(head) :])
            sent += moved
            if moved:
                deadline.moved()
            else:
                await_ready(None, self, deadline)

    def recv_all(self, into: memoryview, deadline: Deadline) -> None:
        """Fill `into` completely. DeadlineError when that much does not come in time."""
        got = 0
        while got < len(into):
            moved = self.recv(into[got:])
            got += moved
            if moved:
                deadline.moved()
            else:
                await_ready(self, None, deadline)

    def recv_growing(self, length: int, deadline: Deadline) -> bytearray:
        """The next `length` bytes. Memory grows with what arrives: a length that is only announced costs nothing."""
        payload = bytearray(min(length, FIRST_BYTES))
        got = 0
        while got < length:
            if got == len(payload):
                payload.extend(bytes(min(got, LARGEST_STEP_BYTES, length - got)))
            self.recv_all(memoryview(payload)[got:], deadline)
            got = len(payload)
        return payload

    def has_room(self) -> bool:
        """Whether the kernel takes at least a small frame now."""
        try:
            return self.sock.fileno() >= 0 and _poll_room(self.sock.fileno())
        except (OSError, ValueError):
            return True  # broken: sending tells how

    def awaits_room(self, reading: bool) -> bool:
        """Whether to wait until it can be written: TLS may have to write to read, and the other way round."""
        return self._wants_write if isinstance(self.sock, ssl.SSLSocket) else not reading

    def fd(self) -> int:
        """The socket's number. PeerLostError once it is closed: the number may be somebody else's by then."""
        number = self.sock.fileno()
        if number < 0:
            raise PeerLostError(f"the connection to {self.who} was closed")
        return number

    def shutdown(self) -> None:
        """End the connection now, from any thread: whoever waits on this wire wakes and finds it gone."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the socket go; nobody may use the wire any more."""
        self.sock.close()


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def await_ready(reader: Wire | None, writer: Wire | None, deadline: Deadline) -> None:
    """`await_any` for one wire of each kind, or none."""
    await_any((reader,) if reader else (), (writer,) if writer else (), deadline)


def await_any(readers: Sequence[Wire], writers: Sequence[Wire], deadline: Deadline) -> None:
    """Wait until a reader can be read or a writer written, or for an hour: look again, with the same deadline.

    DeadlineError at the deadline, naming whom it waited for.
    """
    try:
        if _poll(readers, writers, min(deadline.left(), _LONGEST_WAIT_S)):
            return
    except (OSError, ValueError) as error:  # Windows: closed by another thread while we waited
        who = " and ".join(dict.fromkeys(wire.who for wire in (*readers, *writers)))
        raise PeerLostError(f"the connection to {who} was closed: {_reason(error)}") from error
    if not deadline.expired:
        return
    waited_for, verb = (readers, "sent nothing") if readers else (writers, "took nothing")
    who = " and ".join(dict.fromkeys(wire.who for wire in waited_for))
    raise DeadlineError(f"{who} {verb} for {deadline.seconds:g} s")


def await_readable(readers: Sequence[Wire], waker: socket.socket, wait_s: float) -> None:
    """Wait until one of the wires, or the waker, can be read, at most `wait_s`. Empties the waker."""
    try:
        if _poll_many(readers, waker, wait_s):
            while waker.recv(4096):
                continue
    except BlockingIOError:
        return
    except (OSError, ValueError) as error:  # closed by another thread while we waited
        who = " and ".join(dict.fromkeys(wire.who for wire in readers)) or "this rank"
        raise PeerLostError(f"the connection to {who} was closed: {_reason(error)}") from error


if sys.platform != "win32":

    def _poll_many(readers: Sequence[Wire], waker: socket.socket, wait_s: float) -> bool:
        """Whether the waker was called."""
        poller = select.poll()
        poller.register(waker, select.POLLIN)
        for reader in readers:
            poller.register(reader.fd(), select.POLLOUT if reader.awaits_room(reading=True) else select.POLLIN)
        return any(number == waker.fileno() for number, _ in poller.poll(int(wait_s * 1000) + 1))

    def _poll(readers: Sequence[Wire], writers: Sequence[Wire], wait_s: float) -> bool:
        poller = select.poll()
        for wire in readers:
            poller.register(wire.fd(), select.POLLOUT if wire.awaits_room(reading=True) else select.POLLIN)
        for wire in writers:
            poller.register(wire.fd(), select.POLLOUT if wire.awaits_room(reading=False) else select.POLLIN)
        # Rounded up: a wait of 0.4 ms must not become a busy loop.
        return bool(poller.poll(int(wait_s * 1000) + 1))

    def _poll_room(number: int) -> bool:
        poller = select.poll()
        poller.register(number, select.POLLOUT)
        return bool(poller.poll(0))

else:

    def _poll_many(readers: Sequence[Wire], waker: socket.socket, wait_s: float) -> bool:
        write = [wire.fd() for wire in readers if wire.awaits_room(reading=True)]
        read = [waker.fileno(), *(wire.fd() for wire in readers if not wire.awaits_room(reading=True))]
        return waker.fileno() in select.select(read, write, read[1:] + write, wait_s)[0]

    def _poll(readers: Sequence[Wire], writers: Sequence[Wire], wait_s: float) -> bool:
        sides = [(wire, True) for wire in readers] + [(wire, False) for wire in writers]
        write = [wire.fd() for wire, reading in sides if wire.awaits_room(reading)]
        read = [wire.fd() for wire, reading in sides if not wire.awaits_room(reading)]
        return any(select.select(read, write, read + write, wait_s))

    def _poll_room(number: int) -> bool:
        return any(select.select([], [number], [number], 0))
