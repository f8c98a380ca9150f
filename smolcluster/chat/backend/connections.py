"""uvicorn's connections with deadlines: one that asks for nothing, or takes nothing, does not keep its place for ever.

uvicorn waits without end for a request's head, for the rest of a body that was answered already, and for a reader to
take what is left when a connection closes; and asyncio a whole minute for a TLS handshake. With a bounded number of
connections that would lock everybody out, and no key is needed for it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


def new_loop(handshake_s: float) -> asyncio.AbstractEventLoop:
    """The system's own event loop, whose servers end a connection without TLS after `handshake_s`.

    uvicorn makes its servers itself, and has no setting for it.
    """
    loop = asyncio.new_event_loop()
    create_server = loop.create_server

    async def with_deadline(*args: Any, **settings: Any) -> asyncio.Server:
        if settings.get("ssl") is not None:
            settings.setdefault("ssl_handshake_timeout", handshake_s)
        return await create_server(*args, **settings)

    loop.create_server = with_deadline  # type: ignore[method-assign]
    return loop


class Http(H11Protocol):
    """HTTP/1.1. `ask_s`: how long a connection may be without a request; `take_s`: how long a reader may take nothing.

    When the places are all taken, a new connection gets that of the one which has asked for nothing the longest.
    """

    ask_s = take_s = 30.0
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Its time begins to run."""
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency - 1:
            idle = [one for one in self.connections if isinstance(one, Http) and one._late is not None]
            if idle:
                min(idle, key=lambda one: one._late.when() if one._late else 0.0)._hang_up()
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer is left."""
        _off(self._late)
        _off(self._stuck)
        self._late = self._stuck = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Perhaps a request."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Time for the next one."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """The reader is behind."""
        super().pause_writing()
        self._stuck = _on(self._stuck, self.loop, self.take_s, self.transport)

    def resume_writing(self) -> None:
        """It takes again."""
        super().resume_writing()
        _off(self._stuck)
        self._stuck = None

    def _look(self) -> None:
        """Let the time run while there is no request, from when there was none: bytes that are none win nothing."""
        upgraded = self.transport.get_protocol() is not self
        if upgraded or (self.cycle is not None and not self.cycle.response_complete):
            _off(self._late)
            self._late = None
        elif self._late is None and self in self.connections:
            self._late = self.loop.call_later(self.ask_s, self._hang_up)

    def _hang_up(self) -> None:
        _off(self._late)
        self._late = None
        self.connections.discard(self)
        self.transport.abort()


class WebSocket(WebSocketsSansIOProtocol):
    """A WebSocket. `take_s` as for HTTP; whether the other end is alive its pings tell."""

    take_s = 30.0
    _stuck: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer is left."""
        _off(self._stuck)
        self._stuck = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The reader is behind."""
        super().pause_writing()
        self._stuck = _on(self._stuck, self.loop, self.take_s, self.transport)

    def resume_writing(self) -> None:
        """It takes again."""
        super().resume_writing()
        _off(self._stuck)
        self._stuck = None


def protocols(ask_s: float, take_s: float) -> tuple[type[Http], type[WebSocket]]:
    """The two with these deadlines, in seconds."""
    return type("Http", (Http,), {"ask_s": ask_s, "take_s": take_s}), type(
        "WebSocket", (WebSocket,), {"take_s": take_s}
    )


def _on(
    timer: asyncio.TimerHandle | None, loop: asyncio.AbstractEventLoop, take_s: float, transport: asyncio.Transport
) -> asyncio.TimerHandle:
    return timer if timer is not None else loop.call_later(take_s, transport.abort)


def _off(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
