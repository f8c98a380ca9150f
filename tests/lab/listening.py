"""What listens on a host of a lab: looked at from outside, again and again, while something goes on there."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

from .host import Host


@dataclass(frozen=True)
class Listener:
    """A TCP socket in state LISTEN."""

    address: str
    port: int

    @property
    def everywhere(self) -> bool:
        return ipaddress.ip_address(self.address).is_unspecified


class Watch:
    """What listens on each host, looked at again and again while the context is open."""

    def __init__(self, hosts: list[Host]) -> None:
        self.seen: dict[str, set[Listener]] = {host.name: set() for host in hosts}
        self._hosts = hosts
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.2):
            for host in self._hosts:
                self.seen[host.name] |= _listeners(host)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def _listeners(host: Host) -> set[Listener]:
    """What listens in a host's network namespace now."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{host.pid}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                address, port = local.split(":")
                found.add(Listener(_address(address), int(port, 16)))
    return found


def _address(text: str) -> str:
    """An address as /proc/net/tcp writes it: words of four bytes, each in the machine's order."""
    words = [struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8)]
    packed = b"".join(words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
