"""The control link's messages: lines of JSON on a loopback socket, each proven with the token, which is never sent.

    server  {"schema": 1, "challenge": C}
    client  {"nonce": N, "request": TEXT, "proof": HMAC(token, "request", C, N, TEXT)}
    server  {"reply": TEXT, "proof": HMAC(token, "reply", C, N, TEXT)}     or {"refused": why}

Both sides prove themselves: a port left by a dead supervisor may be anybody's by now, and what it says is not believed.
TEXT is JSON in a string, so that what is proven is exactly the bytes that were sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
import time
from typing import Literal

from pydantic import Field, ValidationError

from smolcluster.errors import DeadlineError, HandshakeError, PeerLostError, ProtocolError
from smolcluster.jobs.types import MAX_GRACE_S
from smolcluster.runtime.runfolder import JobState
from smolcluster.spec.base import Frozen

CONTROL_SCHEMA = 1
MAX_LINE_BYTES = 64 * 1024


class Request(Frozen):
    """What can be asked. `poll` renews the lease only with `renew`; `stop` answers when the job has ended."""

    command: Literal["poll", "renew", "stop", "status"]
    renew: bool = False
    reason: str = ""
    grace_s: float | None = Field(default=None, ge=0, le=MAX_GRACE_S)


class Reply(Frozen):
    """The answer to every command: the job as it is now. `lease_s` is what is left of the lease, None without one."""

    job: JobState
    lease_s: float | None = None


class ControlFile(Frozen):
    """control.json (mode 0600): where the supervisor listens and the token that proves the right to ask."""

    schema_: int = Field(default=CONTROL_SCHEMA, alias="schema", serialization_alias="schema")
    port: int = Field(gt=0, le=65535)
    token: str = Field(min_length=32)


class Line(Frozen):
    """Any line on the wire; which fields are there depends on its place in the talk."""

    schema_: int | None = Field(default=None, alias="schema", serialization_alias="schema")
    challenge: str | None = None
    nonce: str | None = None
    request: str | None = None
    reply: str | None = None
    proof: str | None = None
    refused: str | None = None


def fresh() -> str:
    """128 random bits in hex: a challenge or a nonce."""
    return secrets.token_hex(16)


def prove(token: str, role: Literal["request", "reply"], challenge: str, nonce: str, text: str) -> str:
    """The proof, in hex, that whoever wrote `text` in this talk knows the token."""
    message = json.dumps([role, challenge, nonce, text]).encode()
    return hmac.new(token.encode(), message, hashlib.sha256).hexdigest()


def check(proof: str | None, expected: str) -> None:
    """HandshakeError unless the proof is right. Takes the same time for every wrong one."""
    if proof is None or not hmac.compare_digest(proof.encode(), expected.encode()):
        raise HandshakeError("the control link's other end does not know the token of this run")


class LineSocket:
    """Lines on a connected socket, all within one deadline of deadline_s seconds from now, each of capped length."""

    def __init__(self, sock: socket.socket, deadline_s: float) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self.extend(deadline_s)

    def extend(self, deadline_s: float) -> None:
        """Set the deadline anew, deadline_s from now."""
        self._deadline_s = deadline_s
        self._end = time.monotonic() + deadline_s

    def send(self, line: Line) -> None:
        """Send one line. DeadlineError, PeerLostError; ProtocolError for one that is too long."""
        data = line.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n"
        if len(data) > MAX_LINE_BYTES:
            raise ProtocolError(f"a control line of {len(data)} bytes is too long (at most {MAX_LINE_BYTES})")
        try:
            self._sock.settimeout(self._left_s())
            self._sock.sendall(data)
        except TimeoutError as error:
            raise self._late() from error
        except OSError as error:
            raise PeerLostError(f"the control link ended while it was written to: {error}") from error

    def receive(self) -> Line:
        """Receive one line. DeadlineError, PeerLostError, or ProtocolError for garbage or a line that is too long."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) >= MAX_LINE_BYTES:
                raise ProtocolError(f"a control line of more than {MAX_LINE_BYTES} bytes")
            self._buffer += self._read()
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return Line.model_validate_json(raw)
        except ValidationError as error:
            raise ProtocolError(f"a control line that is none of ours: {raw[:80]!r}") from error

    def _read(self) -> bytes:
        try:
            self._sock.settimeout(self._left_s())
            data = self._sock.recv(4096)
        except TimeoutError as error:
            raise self._late() from error
        except OSError as error:
            raise PeerLostError(f"the control link ended while it was read: {error}") from error
        if not data:
            raise PeerLostError("the control link's other end closed it")
        return data

    def _left_s(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> DeadlineError:
        return DeadlineError(f"no answer on the control link within {self._deadline_s:g} s")
