"""The control link's two ends: the supervisor's server on loopback, and `ask`, the client."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from smolcluster.errors import HandshakeError, PeerError, PeerLostError, ProtocolError
from smolcluster.files import read_replaced
from smolcluster.jobs.types import CONTROL_DEADLINE_S
from smolcluster.jobs.wire import (
    CONTROL_SCHEMA,
    ControlFile,
    Line,
    LineSocket,
    Reply,
    Request,
    check,
    fresh,
    prove,
)
from smolcluster.runtime.runfolder import write_atomic

_HOST = "127.0.0.1"
_MAX_TALKS = 16
_LOOK_UP_S = 0.2
_log = logging.getLogger("smolcluster.supervisor")

Handler = Callable[[Request], Reply]


class ControlServer:
    """Listens on a free loopback port and announces it in control.json. A context manager; a thread for each talk.

    `handle(request)` runs on that thread and may take until the job has ended (stop does).
    """

    def __init__(self, path: Path, handle: Handler, deadline_s: float = CONTROL_DEADLINE_S) -> None:
        self._path = path
        self._handle = handle
        self._deadline_s = deadline_s
        self._token = secrets.token_hex(32)
        self._closing = threading.Event()
        self._talks: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._socket = socket.create_server((_HOST, 0), backlog=_MAX_TALKS)
        self.port: int = self._socket.getsockname()[1]
        # Closing a socket does not wake a thread that accepts on it everywhere, so accepting looks up now and then.
        self._socket.settimeout(_LOOK_UP_S)
        self._acceptor = threading.Thread(target=self._accept, name="control", daemon=True)

    def __enter__(self) -> ControlServer:
        file = ControlFile(port=self.port, token=self._token)
        write_atomic(self._path, file.model_dump_json(by_alias=True) + "\n", mode=0o600)
        self._acceptor.start()
        return self

    def withdraw(self) -> None:
        """Remove control.json: nobody new finds the way here. Talks under way go on."""
        self._path.unlink(missing_ok=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop listening and let answers under way go out."""
        if kind is not None:
            self.withdraw()
        self._closing.set()
        self._acceptor.join(2.0)
        self._socket.close()
        with self._lock:
            talks = tuple(self._talks)
        for talk in talks:
            talk.join(self._deadline_s)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:  # it hung up before we came to it, or there is no descriptor left
                _log.warning("control link: %s", error)
                self._closing.wait(_LOOK_UP_S)
                continue
            with self._lock:
                if len(self._talks) >= _MAX_TALKS:
                    connection.close()
                    continue
                talk = threading.Thread(target=self._talk, args=(connection,), name="control-talk", daemon=True)
                try:
                    talk.start()
                except RuntimeError as error:  # the system gives no more threads
                    _log.warning("control link: %s", error)
                    connection.close()
                    continue
                self._talks.add(talk)

    def _talk(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._converse(LineSocket(connection, self._deadline_s))
        except PeerError as error:
            _log.warning("control link: %s", error)
        finally:
            with self._lock:
                self._talks.discard(threading.current_thread())

    def _converse(self, lines: LineSocket) -> None:
        challenge = fresh()
        lines.send(Line(schema=CONTROL_SCHEMA, challenge=challenge))
        line = lines.receive()
        if line.nonce is None or line.request is None:
            raise ProtocolError("a control request without nonce or text")
        try:
            check(line.proof, prove(self._token, "request", challenge, line.nonce, line.request))
            request = Request.model_validate_json(line.request)
        except HandshakeError as error:
            lines.send(Line(refused="the proof of the token is wrong"))
            raise error
        except ValidationError as error:
            lines.send(Line(refused="this request is not known here"))
            raise ProtocolError(f"a control request that is none of ours: {line.request[:80]!r}") from error
        text = self._handle(request).model_dump_json(by_alias=True)
        lines.extend(self._deadline_s)
        proof = prove(self._token, "reply", challenge, line.nonce, text)
        lines.send(Line(reply=text, proof=proof))


def ask(path: Path, request: Request, deadline_s: float = CONTROL_DEADLINE_S) -> Reply:
    """Ask the supervisor whose control.json is at path. PeerError if it is gone, silent or not who it should be."""
    try:
        file = ControlFile.model_validate_json(read_replaced(path))
    except FileNotFoundError as error:
        raise PeerLostError(f"no supervisor listens for this run (there is no {path})") from error
    except (OSError, ValidationError) as error:
        raise ProtocolError(f"{path} cannot be used: {error}") from error
    try:
        connection = socket.create_connection((_HOST, file.port), timeout=deadline_s)
    except OSError as error:
        raise PeerLostError(f"no supervisor answers on {_HOST}:{file.port}: {error}") from error
    with contextlib.closing(connection):
        return _ask(LineSocket(connection, deadline_s), file.token, request)


def _ask(lines: LineSocket, token: str, request: Request) -> Reply:
    hello = lines.receive()
    if hello.schema_ != CONTROL_SCHEMA or hello.challenge is None:
        raise ProtocolError(f"the supervisor speaks version {hello.schema_} of the control link, not {CONTROL_SCHEMA}")
    nonce, text = fresh(), request.model_dump_json()
    lines.send(Line(nonce=nonce, request=text, proof=prove(token, "request", hello.challenge, nonce, text)))
    line = lines.receive()
    if line.refused is not None or line.reply is None:
        raise HandshakeError(f"the supervisor refused: {line.refused or 'no reason given'}")
    check(line.proof, prove(token, "reply", hello.challenge, nonce, line.reply))
    try:
        return Reply.model_validate_json(line.reply)
    except ValidationError as error:
        raise ProtocolError("the supervisor's answer is none of this version of smolcluster") from error
