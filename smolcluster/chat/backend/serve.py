"""The API on its sockets: uvicorn in a thread of its own, for the API's port and the page's."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

import uvicorn
from fastapi import FastAPI

from smolcluster.chat.backend.connections import new_loop, protocols
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.comm.endpoint import Endpoint, listen
from smolcluster.errors import ConfigError, PeerError, Problem, SmolError

log = logging.getLogger("smolcluster.chat")
# So long requests may go on after a stop; then they are told, and then cut.
LEAVE_S = 1.0
_CUT_S = 1
_ENDS_S = 5.0
_START_S = 30.0
# More connections than that at once are refused: a file descriptor each.
_MOST_CONNECTIONS = 512
_KEYS = {"api": "web_interface.api_port", "page": "web_interface.frontend_port"}


def bind(hosts: Sequence[str], ports: Mapping[str, int]) -> dict[str, list[socket.socket]]:
    """Listening sockets on these own addresses for "api" and "page"; one set for both where they share a port.

    Port 0 is any free one. ConfigError for a port that is taken says what to do; PeerError for an address that is not
    this machine's. Nothing is left open then.
    """
    bound: dict[str, list[socket.socket]] = {}
    try:
        for name, port in ports.items():
            twin = next((other for other in bound if port and ports[other] == port), None)
            bound[name] = bound[twin] if twin is not None else listen(tuple(hosts), port)
    except PeerError as error:
        close(bound)
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            key, port = _KEYS[name], ports[name]
            short = f", --port {port + 1}" if name == "api" else ""
            fix = (
                f"end what holds it, or take another port (0: any free one): -e override={key}={port + 1} of "
                f"inference.yml, --override {key}={port + 1}{short} of `python -m smolcluster serve`"
            )
            what = f"port {port} is in use on {', '.join(hosts)}"
            raise ConfigError([Problem("cluster_config_inference.yaml", 0, key, what, fix)]) from error
        raise
    return bound


def close(bound: Mapping[str, Sequence[socket.socket]]) -> None:
    """Close them all."""
    for sockets in bound.values():
        for opened in sockets:
            opened.close()


def urls(bound: Mapping[str, Sequence[socket.socket]], tls: bool = False) -> dict[str, str]:
    """Where each is found, by its first address; with `tls` by https."""
    scheme = "https" if tls else "http"
    return {name: f"{scheme}://{Endpoint(*sockets[0].getsockname()[:2])}" for name, sockets in bound.items()}


class Left(Protocol):
    """What an app has as `app.state.service`: how it is served, and how it hears that it no longer is."""

    @property
    def settings(self) -> ApiSettings:
        """What it was told."""
        ...

    def leave(self) -> None:
        """The server is being stopped: whoever waits is told so."""
        ...


class Serving:
    """An app on bound sockets, which it closes; by HTTPS where there is a context for it. A context manager: inside it
    answers.
    """

    def __init__(
        self,
        app: FastAPI,
        bound: Mapping[str, Sequence[socket.socket]],
        leave_s: float = LEAVE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._bound = bound
        self._service: Left = app.state.service
        self._leave_s = leave_s
        settings = self._service.settings
        http, websocket = protocols(settings.body_s, settings.send_s)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=http,
                ws=websocket,
                # Its access log would have the one-time key of GET /?key=...; requests.jsonl has what there is to know.
                access_log=False,
                log_config=None,
                log_level="warning",
                # Who says that somebody else is asking must be somebody whom we asked to say so.
                proxy_headers=False,
                server_header=False,
                ws_max_size=settings.body_bytes,
                ws_per_message_deflate=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=int(leave_s) + _CUT_S,
                ssl_context_factory=None if tls is None else lambda *_: tls,
            ),
            settings.handshake_s,
        )
        self._thread = threading.Thread(target=self._run, name="smol-api", daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._server.ready.wait(_START_S) or self._failure is not None:
            self.stop()
            raise SmolError(f"the API did not start: {self._failure or f'not within {_START_S:g} s'}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether it answers still; if not, its log says why."""
        return self._thread.is_alive()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        """No new requests; those under way have `leave_s`, then they are told. Returns when all is closed."""
        self._server.leave(self._service, self._leave_s)
        self._thread.join(self._leave_s + _CUT_S + _ENDS_S)
        close(self._bound)

    def _run(self) -> None:
        try:
            # A socket that is there twice would be accepted on twice.
            sockets = list(dict.fromkeys(opened for sockets in self._bound.values() for opened in sockets))
            self._server.run(sockets=sockets)
        except BaseException as error:
            log.exception("the API ended")
            self._failure = error
        finally:
            self._server.ready.set()


class _Server(uvicorn.Server):
    """Tells when it answers, and can be asked to leave from another thread."""

    def __init__(self, config: uvicorn.Config, handshake_s: float) -> None:
        super().__init__(config)
        self._handshake_s = handshake_s
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Until it is asked to leave, on a loop of its own."""
        with asyncio.Runner(loop_factory=lambda: new_loop(self._handshake_s)) as runner:
            runner.run(self.serve(sockets=sockets))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready.set()

    def leave(self, service: Left, after_s: float) -> None:
        """Stop accepting now; tell those who are left after so long."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.call_later, after_s, service.leave)
