"""An SSH host that takes a password, made of paramiko's server: a real sshd would ask PAM.

It runs what it is told with sh, in a home folder of the test's own, and takes the keys of that home's authorized_keys.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

USER, PASSWORD = "somebody", "open sesame"


def host_key(path: Path) -> paramiko.PKey:
    secret = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    path.write_bytes(secret)
    path.chmod(0o600)
    return paramiko.PKey.from_path(path)


class Door(paramiko.ServerInterface):
    def __init__(self, host: PasswordHost) -> None:
        self.host = host

    def get_allowed_auths(self, username: str) -> str:
        return ",".join(self.host.methods)

    def check_auth_password(self, username: str, password: str) -> int:
        self.host.passwords.append(password)
        right = (username, password) == (USER, PASSWORD) and "password" in self.host.methods
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        keys = self.host.authorized_keys
        right = self.host.takes_keys and keys.exists() and key.get_base64() in keys.read_text()
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self.host.execute, args=(channel, command.decode()), daemon=True).start()
        return True


@dataclass
class PasswordHost:
    home: Path
    key: paramiko.PKey
    methods: tuple[str, ...] = ("publickey", "password")
    takes_keys: bool = True
    passwords: list[str] = field(default_factory=list)
    transports: list[paramiko.Transport] = field(default_factory=list)
    port: int = 0

    @property
    def authorized_keys(self) -> Path:
        return self.home / ".ssh" / "authorized_keys"

    def execute(self, channel: paramiko.Channel, command: str) -> None:
        given = channel.makefile("rb").read()
        environment = {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["sh", "-c", command], input=given, capture_output=True, env=environment, timeout=20)
        channel.sendall(done.stdout)
        channel.sendall_stderr(done.stderr)
        channel.send_exit_status(done.returncode)
        channel.close()

    @contextmanager
    def listening(self) -> Iterator[PasswordHost]:
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(0.1)
        self.port = server.getsockname()[1]
        closing = threading.Event()

        def serve() -> None:
            while not closing.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                transport = paramiko.Transport(connection)
                transport.add_server_key(self.key)
                self.transports.append(transport)
                transport.start_server(event=threading.Event(), server=Door(self))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield self
        finally:
            closing.set()
            thread.join(5)
            server.close()
            for transport in self.transports:
                transport.close()
                transport.join(5)
