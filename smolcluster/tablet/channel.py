"""A WebSocket between a tablet and the cluster, as messages: waits have deadlines, ends are errors of ours."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError, PeerError, PeerLostError, ProtocolError
from smolcluster.tablet.messages import MOST_SMALL, Code, Failure, Message, VersionError, decode, encode
from smolcluster.tablet.sending import SendWatch

if TYPE_CHECKING:
    from websockets.sync.connection import Connection

# How long a farewell may take.
CLOSE_S = 1.0
# What a WebSocket is closed with when a newer connection has taken its place. Of the numbers that are free to use.
REPLACED = 4001
_TOO_BIG = 1009


class Channel:
    """One connection. One thread receives; any may send. Until `admit` only small messages come in."""

    def __init__(self, connection: Connection, who: str) -> None:
        self.who = who
        self._connection = connection
        self._sends = SendWatch(self.abort)
        connection.protocol.max_message_size = MOST_SMALL

    def admit(self, most_bytes: int) -> None:
        """The other end has proven itself: hidden states may come."""
        self._connection.protocol.max_message_size = most_bytes

    def send(self, message: Message, deadline: Deadline) -> None:
        """Send it. PeerLostError, DeadlineError: the connection is over."""
        self.send_bytes(encode(message), deadline)

    def send_bytes(self, data: bytes, deadline: Deadline) -> None:
        """The same of bytes that are a message already."""
        from websockets.exceptions import ConnectionClosed

        try:
            # It blocks while the other end does not read, and nothing of websockets ends that.
            with self._sends.within(deadline):
                self._connection.send(data)
        except ConnectionClosed as error:
            if deadline.expired:
                raise DeadlineError(f"{self.who} took nothing for {deadline.seconds:g} s") from error
            raise PeerLostError(f"{self.who} has gone: {error}") from error

    def receive(self, deadline: Deadline) -> Message:
        """The next message. DeadlineError, PeerLostError; ProtocolError for what is none."""
        return decode(self.receive_bytes(deadline), self.who)

    def receive_bytes(self, deadline: Deadline) -> bytes:
        """The same as its bytes."""
        from websockets.exceptions import ConnectionClosed

        try:
            data = self._connection.recv(deadline.left())
        except TimeoutError as error:
            raise DeadlineError(f"{self.who} said nothing for {deadline.seconds:g} s") from error
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == _TOO_BIG and not error.rcvd_then_sent:
                raise ProtocolError(f"{self.who} sent a message that is too large") from error
            raise PeerLostError(f"{self.who} has gone: {error}") from error
        if isinstance(data, str):
            raise ProtocolError(f"{self.who} sent text; the protocol of tablets is binary")
        return data

    def refuse(self, error: PeerError, code: Code = Code.BAD_MESSAGE) -> None:
        """Say why, if it still listens, and hang up."""
        code = Code.VERSION if isinstance(error, VersionError) else code
        with contextlib.suppress(PeerError):
            self.send(Failure(code, str(error)), Deadline(CLOSE_S))
        self.close()

    def close(self, code: int = 1000) -> None:
        """Take leave, for a moment at most. Idempotent."""
        watch = threading.Timer(2 * CLOSE_S, self.abort)
        watch.daemon = True
        watch.start()
        try:
            self._connection.close(code)
        finally:
            watch.cancel()
            self._sends.close()

    def abort(self) -> None:
        """Cut it, from any thread: whoever waits on it wakes."""
        self._sends.close()
        with contextlib.suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)

    def wait_closed(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        return self._connection.wait_closed(seconds)
