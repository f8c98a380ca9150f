"""A node's figures over HTTP, for Prometheus: GET /metrics on the addresses that its ranks listen on.

One per node and not one per rank: ranks are started again and come and go, and what they leave in metrics.jsonl is all
that is told. So a scrape costs the ranks nothing. Beyond loopback every request needs the run's metrics key.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from smolcluster.observe.exposition import NodeFigures
from smolcluster.plan.exporters import Exporter
from smolcluster.runtime.growing import Growing
from smolcluster.runtime.metricsfile import HardwareRecord, LinkRecord, StepRecord, ValidationRecord
from smolcluster.spec.values import is_loopback

_log = logging.getLogger("smolcluster.supervisor")
# Who connects and asks for nothing, or for it a letter at a time, holds up the next one, and our end, for so long.
_REQUEST_S = 2.0
_LOOK_S = 0.5


class RankFigures:
    """The metrics.jsonl of a node's ranks, into NodeFigures as they grow. From any thread."""

    def __init__(self, figures: NodeFigures, files: Mapping[int, Path]) -> None:
        self._figures = figures
        self._files = {rank: Growing(path) for rank, path in files.items()}
        self._lock = threading.Lock()

    def read(self) -> None:
        """Take what has come since the last call. A damaged line is skipped: whoever reads the run says so."""
        with self._lock:
            for rank, file in self._files.items():
                for line in file.read().lines:
                    with contextlib.suppress(ValueError, ValidationError):
                        record = _record(json.loads(line))
                        if record is not None:
                            self._figures.take(rank, record)


def _record(value: Any) -> StepRecord | LinkRecord | ValidationRecord | None:
    """The record that goes into figures; None for the others."""
    if not isinstance(value, dict) or "norms" in value:
        return None
    if "peer" in value:
        return LinkRecord.model_validate(value)
    return (StepRecord if "loss" in value else ValidationRecord).model_validate(value)


class MetricsServer:
    """Answers while it lives. An address that cannot be had is told in the log: figures are no reason to end a run."""

    def __init__(self, where: Exporter, key: str, ranks: RankFigures, text: Callable[[], bytes]) -> None:
        """`key`: what has to be said beyond loopback."""
        self._servers: list[_Server] = []
        self._threads: list[threading.Thread] = []
        self._ranks = ranks
        for address in where.addresses:
            try:
                server = _Server(address, where.port, key if where.asks_for_key else "", self._answer(text))
            except OSError as error:
                _log.warning("no metrics on %s port %d: %s", address, where.port, error.strerror or error)
                continue
            thread = threading.Thread(target=server.serve_forever, args=(_LOOK_S,), name="metrics", daemon=True)
            thread.start()
            self._servers.append(server)
            self._threads.append(thread)
            _log.info("metrics for Prometheus: %s", url_of(address, server.server_address[1]))

    def read(self, _: HardwareRecord) -> None:
        """Take up what the ranks have left, before their files are thinned; called with every look at the machine."""
        self._ranks.read()

    def close(self) -> None:
        """Stop listening; join. Idempotent."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()
        self._servers, self._threads = [], []

    def _answer(self, text: Callable[[], bytes]) -> Callable[[], bytes]:
        def answer() -> bytes:
            self._ranks.read()
            return text()

        return answer


def url_of(host: str, port: int) -> str:
    """Where somebody asks."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


class _Server(HTTPServer):
    """One address. One request at a time, each with a deadline: figures are asked for a few times a minute."""

    def __init__(self, host: str, port: int, key: str, text: Callable[[], bytes]) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self.key = key
        self.text = text
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the network for the machine's name, which may take seconds and is used by nobody.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, *_: object) -> None:
        """Who hangs up in the middle is no news; a bug of ours is."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("the metrics could not be told")


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_S
    server: _Server
    protocol_version = "HTTP/1.0"  # a connection is for one request, and then the next one's turn
    server_version, sys_version = "smolcluster", ""

    def handle(self) -> None:
        """One request. The time above is the socket's, for each wait; all of them together get no more."""
        over = threading.Timer(_REQUEST_S, self._hang_up)
        over.daemon = True
        over.start()
        try:
            super().handle()
        finally:
            over.cancel()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._say(404, b"the figures are at /metrics\n")
        elif not self.server.key and not self._named_as_here():
            self._say(403, b"ask this machine by its address or as localhost\n")
        elif self.server.key and not self._has_key():
            self._say(401, b"say the key in runs/latest/prometheus/key: Authorization: Bearer KEY\n")
        else:
            self._say(200, self.server.text(), CONTENT_TYPE_LATEST)

    def _named_as_here(self) -> bool:
        """Where no key is asked for: a page of elsewhere may have its own name mean this machine, and read us then."""
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            return False
        return not name or is_loopback(name)

    def _has_key(self) -> bool:
        said = self.headers.get("Authorization", "")
        return hmac.compare_digest(said.encode(errors="replace"), f"Bearer {self.server.key}".encode())

    def _say(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape is no news either."""
