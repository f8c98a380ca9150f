"""The page that makes a tablet's browser a stage, and the WebSocket that it computes over: one small site.

    GET /tablet            the page; its files are below /tablet/
    WS  /tablet/socket     for the Door, which asks for the proof

The WebSocket server answers the page too, for it alone holds a stranger to small messages until the proof. The page's
files are the same for everybody and hold no secret: the key is in the fragment of the address, which no browser sends.
"""

from __future__ import annotations

import functools
import gzip
import html
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from smolcluster.comm.endpoint import Endpoint
from smolcluster.errors import ConfigError, Problem
from smolcluster.tablet.door import GREETING_S, PATH, Door
from smolcluster.tablet.listening import Listening

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection

FOLDER = Path(__file__).with_name("page")
SOCKET = f"{PATH}/socket"
_FIRST = "tablet.html"
# The page learns from it which run it speaks to.
_RUN = b'name="smolcluster-run" content=""'
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
_YEAR_S = 365 * 24 * 3600
# Who takes longer for one file is cut off.
_SEND_S = 120.0
_HOST = re.compile(r"[\w.:\[\]-]+", re.ASCII)
_PORTS = {"http": 80, "https": 443}
_HEADERS = {
    "Cross-Origin-Embedder-Policy": "require-corp",  # with the next one: threads for WebAssembly
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}


@dataclass(frozen=True)
class _File:
    """A file of the page, as it is sent. One whose name has a hash of what is in it never changes."""

    content: bytes
    kind: str
    hashed: bool


class TabletSite:
    """On one own address, by HTTPS where there is a context for it; what has come in is the door's, which is the
    caller's. `start` it before its address is asked for. Port 0 is any free one.
    """

    def __init__(self, door: Door, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._door = door
        self._host = host
        self._port = port
        self._tls = tls
        self._files = read_page(door.me.run)
        self._listening: Listening | None = None

    def start(self) -> None:
        """Serve from now on. PeerError when it cannot listen there."""
        self._listening = Listening((self._host,), self._port, self._door.come_in, self._answer, self._tls, GREETING_S)

    @property
    def address(self) -> str:
        """Where a browser finds the page. The key is not in it: `address#key=...` is what a person is given."""
        assert self._listening is not None, "start it first"
        where = Endpoint(self._host, self._listening.endpoints[0].port)
        return f"{self._scheme}://{str(where).removesuffix(f':{_PORTS[self._scheme]}')}{PATH}"

    def close(self) -> None:
        """Stop listening. Returns when the last connection has ended, so close the door first. Idempotent."""
        if self._listening is not None:
            self._listening.close()

    @property
    def _scheme(self) -> str:
        return "http" if self._tls is None else "https"

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        # A machine has more names than are ours to know, so the page may be opened by any: what it may not be is
        # another site's page that asks here.
        host = ",".join(request.headers.get_all("Host")).lower()
        policy = self._policy(host)
        if request.method != "GET":
            return _response(policy, 405, b"the page is only read\n", {"Allow": "GET"})
        path = request.path.partition("?")[0]
        if path == SOCKET:
            # A browser always says the page's origin; programs need none.
            said = request.headers.get_all("Origin")
            if said and [origin.lower() for origin in said] != [f"{self._scheme}://{host}"]:
                return _response(policy, 403, b"pages of other origins get no socket\n")
            return None
        file = self._files.get(path)
        if file is None:
            return _response(policy, 404, b"not found\n")
        # websockets takes an answer for a farewell, which has a second: too short for the runtime in a home's Wi-Fi.
        connection.close_timeout = _SEND_S
        keep = f"public, max-age={_YEAR_S}, immutable" if file.hashed else "no-cache"
        headers = {"Cache-Control": keep, "Vary": "Accept-Encoding"}
        if "gzip" in ",".join(request.headers.get_all("Accept-Encoding")):
            return _response(policy, 200, _packed(file), {**headers, "Content-Encoding": "gzip"}, file.kind)
        return _response(policy, 200, file.content, headers, file.kind)

    def _policy(self, host: str) -> str:
        # 'self' is the socket too, but older Safaris take it for http alone.
        socket = f" {self._scheme.replace('http', 'ws', 1)}://{host}" if _HOST.fullmatch(host) else ""
        return (
            f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
            f"img-src 'self'; connect-src 'self'{socket}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )


@functools.lru_cache(maxsize=64)
def _packed(file: _File) -> bytes:
    """The runtime is a fourth of itself then. Once, though a machine may have several sites."""
    return gzip.compress(file.content, 6, mtime=0)


def _response(
    policy: str,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    kind: str = "text/plain; charset=utf-8",
) -> Response:
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    told = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    told |= {"Content-Security-Policy": policy, **_HEADERS, **(headers or {})}
    return Response(status, HTTPStatus(status).phrase, Headers(told), body)


def read_page(run: str, folder: Path = FOLDER) -> dict[str, _File]:
    """The page's files by their paths; there is no way from a path to any other file. ConfigError: it is not built."""
    files: dict[str, _File] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in _KINDS:
            name = path.relative_to(folder).as_posix()
            content = path.read_bytes()
            if name == _FIRST:
                content = content.replace(_RUN, _RUN[:-1] + html.escape(run).encode() + b'"')
            where = PATH if name == _FIRST else f"{PATH}/{name}"
            files[where] = _File(content, _KINDS[path.suffix], path.parent.name == "assets")
    if PATH not in files:
        raise ConfigError([Problem(str(folder), 0, "", "the tablets' page is not there", "build it: make page")])
    return files
