"""How a connection comes about: `dial` an app that listens, or a `Door` that a browser's page dials.

Either end of the protocol may do either; what is given out has proven itself. The door has room for one other end: the
newest one counts, since a tablet that comes back has lost its former connection, whatever that looks like from here.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import DeadlineError, PeerError, PeerLostError
from smolcluster.tablet.channel import CLOSE_S, REPLACED, Channel
from smolcluster.tablet.greeting import Self, greet_as_dialler, greet_as_listener
from smolcluster.tablet.listening import Listening, needs_websockets
from smolcluster.tablet.messages import MOST_SMALL

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection

log = logging.getLogger("smolcluster.tablet")
PATH = "/tablet"
# How long a stranger has for greeting and proof, and how many may be at it at once.
GREETING_S = 10.0
STRANGERS = 8
_LOOK_S = 0.25


def dial(where: Endpoint, me: Self, deadline: Deadline, tls: ssl.SSLContext | None = None, path: str = PATH) -> Channel:
    """A connection to whoever listens there, proven on both sides. PeerError tells why there is none."""
    needs_websockets()
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    who = f"the tablet at {where}" if me.role == "cluster" else f"the cluster at {where}"
    try:
        connection = connect(
            f"{'ws' if tls is None else 'wss'}://{where}{path}",
            ssl=tls,
            proxy=None,  # a machine of the home network: no proxy of the environment lies between
            compression=None,
            open_timeout=deadline.left(),
            ping_interval=None,  # the protocol has its own: a page that sleeps would answer these
            close_timeout=CLOSE_S,
            max_size=MOST_SMALL,
            legacy=True,  # it outlives this function
        )
    except TimeoutError as error:
        raise DeadlineError(f"{who} did not answer within {deadline.seconds:g} s") from error
    except (OSError, WebSocketException) as error:
        raise PeerLostError(f"{who} cannot be reached: {error}") from error
    channel = Channel(connection, who)
    try:
        greet_as_dialler(channel, me, deadline)
    except BaseException:
        channel.close()
        raise
    return channel


class Door:
    """Listens on exactly these own addresses; on none, others bring what they have accepted (`come_in`). PeerError when
    it cannot; nothing is said to who has no proof.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        port: int,
        me: Self,
        tls: ssl.SSLContext | None = None,
        greeting_s: float = GREETING_S,
    ) -> None:
        self.me = me
        self._greeting_s = greeting_s
        self._changed = threading.Condition()
        self._waiting: Channel | None = None
        self._current: Channel | None = None
        self._closing = threading.Event()
        self._strangers = threading.BoundedSemaphore(STRANGERS)
        self._listening = Listening(hosts, port, self.come_in, _only_here, tls, greeting_s)
        self.endpoints = self._listening.endpoints

    def take(self, deadline: Deadline) -> Channel:
        """The newest connection that nobody took yet; waited for. DeadlineError; PeerLostError once it is closed."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting is not None or self._closing.is_set(), deadline.left()):
                raise DeadlineError(f"no {self._other} has come within {deadline.seconds:g} s")
            channel, self._waiting = self._waiting, None
        if channel is None:
            raise PeerLostError("the door is closed")
        return channel

    def close(self) -> None:
        """Cut every connection and stop listening. Idempotent."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
            current = self._current
        if current is not None:
            current.abort()
        self._listening.close()

    @property
    def _other(self) -> str:
        return "tablet" if self.me.role == "cluster" else "cluster"

    def come_in(self, connection: ServerConnection) -> None:
        """A WebSocket that was accepted, here or by a TabletSite. In a thread of its own, which ends with it."""
        host, port = connection.remote_address[:2]
        channel = Channel(connection, f"the {self._other} at {Endpoint(host, port)}")
        if not self._strangers.acquire(blocking=False):
            connection.close(1013)  # try again later
            return
        try:
            greet_as_listener(channel, self.me, Deadline(self._greeting_s))
        except PeerError as error:
            log.warning("%s", error)
            with contextlib.suppress(PeerError):
                channel.close()
            return
        finally:
            self._strangers.release()
        with self._changed:
            former, self._current, self._waiting = self._current, channel, channel
            self._changed.notify_all()
            closing = self._closing.is_set()
        if former is not None:
            # It may be a page that is still there, and must not come back to take the place of this one.
            former.close(REPLACED)
        if closing:
            channel.abort()
        # Whoever took it reads; this thread only holds the connection open.
        while not channel.wait_closed(_LOOK_S) and not self._closing.is_set():
            pass
        with self._changed:
            if self._waiting is channel:
                self._waiting = None
            if self._current is channel:
                self._current = None


def _only_here(connection: ServerConnection, request: Request) -> Response | None:
    return None if request.path == PATH else connection.respond(404, "not found\n")
