"""An SSH connection with deadlines, and one command over it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smolcluster.commands.enrolling.types import COMMAND_DEADLINE_S, CONNECT_DEADLINE_S, EnrollError, Target

if TYPE_CHECKING:
    import paramiko

_MAX_OUTPUT_BYTES = 64 * 1024


@dataclass(frozen=True)
class Ran:
    """What a remote command said and left with."""

    code: int
    output: str
    errors: str


@contextlib.contextmanager
def connect(target: Target, prefer: Sequence[str] = ()) -> Iterator[paramiko.Transport]:
    """A transport after the key exchange and before any login: the host has shown its key, the person nothing.

    `prefer` are the types of host key to ask for first. EnrollError with words if nobody answers.
    """
    import paramiko

    try:
        sock = socket.create_connection((target.host, target.port), timeout=CONNECT_DEADLINE_S)
    except OSError as error:
        raise EnrollError(_unreachable(target, error)) from error
    transport: paramiko.Transport | None = None
    try:
        # A fabricated server could hold us for ever, so each part has its time limit.
        transport = paramiko.Transport(sock)
        transport.banner_timeout = CONNECT_DEADLINE_S
        transport.auth_timeout = COMMAND_DEADLINE_S
        _prefer(transport, prefer)
        transport.start_client(timeout=CONNECT_DEADLINE_S)
        yield transport
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise EnrollError(f"the SSH connection failed: {error or type(error).__name__}") from error
    finally:
        if transport is not None:
            transport.close()
        sock.close()


def run(transport: paramiko.Transport, command: str, given: str = "") -> Ran:
    """Run a command with `given` on its stdin. EnrollError if it takes too long or says too much."""
    channel = transport.open_session(timeout=CONNECT_DEADLINE_S)
    end = time.monotonic() + COMMAND_DEADLINE_S
    with contextlib.closing(channel):
        channel.settimeout(COMMAND_DEADLINE_S)
        channel.exec_command(command)
        channel.sendall(given.encode())
        channel.shutdown_write()
        output = _read(channel.recv, end)
        errors = _read(channel.recv_stderr, end)
        if not channel.status_event.wait(max(0.0, end - time.monotonic())):
            raise EnrollError(f"the remote command did not end within {COMMAND_DEADLINE_S:g} s")
        return Ran(channel.recv_exit_status(), output, errors)


def _read(receive: Callable[[int], bytes], end: float) -> str:
    data = bytearray()
    while time.monotonic() < end and len(data) < _MAX_OUTPUT_BYTES:
        try:
            piece = receive(4096)
        except TimeoutError as error:
            raise EnrollError(f"the remote command did not answer within {COMMAND_DEADLINE_S:g} s") from error
        if not piece:
            return data.decode("utf-8", errors="replace")
        data += piece
    raise EnrollError("the remote command did not come to an end")


def _prefer(transport: paramiko.Transport, types: Sequence[str]) -> None:
    options = transport.get_security_options()
    # An RSA host key is announced as ssh-rsa and negotiated as rsa-sha2-*.
    names = {*types, *(("rsa-sha2-512", "rsa-sha2-256") if "ssh-rsa" in types else ())}
    wanted = [name for name in options.key_types if name in names]
    options.key_types = (*wanted, *(name for name in options.key_types if name not in wanted))


def _unreachable(target: Target, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"nobody knows the name {target.host}; is the machine on, and on this network? ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return (
            f"nothing listens on port {target.port}; turn SSH on there (macOS: System Settings, Sharing, Remote Login; "
            "Raspberry Pi: raspi-config; Windows: the optional feature OpenSSH Server)"
        )
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_DEADLINE_S:g} s; is the machine on, and on this network?"
    return f"cannot be reached: {error.strerror or error}"
