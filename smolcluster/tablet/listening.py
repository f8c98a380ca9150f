"""WebSocket servers on own addresses, each in a thread: what a Door and a TabletSite stand on."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from smolcluster.comm.endpoint import Endpoint, listen
from smolcluster.errors import InputError, Problem
from smolcluster.tablet.channel import CLOSE_S
from smolcluster.tablet.messages import MOST_SMALL

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import Server, ServerConnection

    # What is said to a request instead of making it a WebSocket; None: it becomes one.
    Answer = Callable[[ServerConnection, Request], Response | None]

INSTALL = "pip install 'smolcluster[serve]'"
# Beyond so many connections on one address the next one is closed: a thread each.
MOST_CONNECTIONS = 64


class Listening:
    """Serves on exactly these own addresses from now on; `handle` has a thread for each WebSocket, which ends with it.

    PeerError when it cannot listen there. Frames are small until a channel says otherwise, and are not compressed.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        port: int,
        handle: Callable[[ServerConnection], None],
        answer: Answer,
        tls: ssl.SSLContext | None = None,
        open_s: float = 10.0,
    ) -> None:
        needs_websockets()
        from websockets.sync.server import serve

        self._lock = threading.Lock()
        self._held: WeakSet[ServerConnection] = WeakSet()
        self._closing = False
        sockets = listen(tuple(hosts), port)
        self.endpoints = tuple(Endpoint(*one.getsockname()[:2]) for one in sockets)
        self._servers: list[Server] = [
            serve(
                handle,
                sock=one,
                ssl=tls,
                process_request=answer,
                compression=None,
                server_header=None,
                open_timeout=open_s,
                ping_interval=None,  # the protocol has its own: a page that sleeps would answer these
                close_timeout=CLOSE_S,
                max_size=MOST_SMALL,
                logger=_silent(),
                create_connection=self._few(),
            )
            for one in sockets
        ]
        self._threads = [
            threading.Thread(target=server.serve_forever, name="smol-door", daemon=True) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Cut every connection, stop listening, and wait until their threads have ended. Idempotent."""
        with self._lock:
            self._closing, held = True, list(self._held)
        # websockets waits for whoever is still at its request, or reads a file: a phone that fell asleep over one would
        # hold up the end of a run.
        for connection in held:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for server in self._servers:
            server.shutdown()
        for thread in self._threads:
            thread.join()

    def _few(self) -> type[ServerConnection]:
        """A connection that is refused where there are too many, and can be cut."""
        from websockets.sync.server import ServerConnection

        listening = self

        class Few(ServerConnection):
            def __init__(self, sock: Any, protocol: Any, server: Server, **options: Any) -> None:
                with listening._lock:
                    if listening._closing or len(server.handler_threads) > MOST_CONNECTIONS:
                        raise ConnectionRefusedError("too many connections")  # websockets closes its socket
                    super().__init__(sock, protocol, server, **options)
                    listening._held.add(self)

        return Few


def needs_websockets() -> None:
    """InputError where the package is not installed."""
    try:
        import websockets  # noqa: F401
    except ImportError as error:
        what = "computing layers on a tablet needs websockets, which is not installed here"
        raise InputError([Problem("", 0, "", what, INSTALL)]) from error


def _silent() -> logging.Logger:
    """websockets logs a traceback for every stranger that hangs up; what matters is told by who uses this."""
    logger = logging.getLogger("smolcluster.tablet.websockets")
    logger.setLevel(logging.CRITICAL + 1)
    return logger
