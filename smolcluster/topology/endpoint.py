"""A host and a port as one value."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Endpoint:
    """Where something listens. `host` is an IPv4 or IPv6 address without brackets, or a name.

    >>> str(Endpoint("fd00::1", 65432))
    '[fd00::1]:65432'
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.host or any(mark in self.host for mark in "[] /"):
            raise ValueError(f"not a host: {self.host!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"not a port: {self.port}")
        if ":" in self.host:
            ipaddress.IPv6Address(self.host)

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """`10.10.0.1:65432`, `[fd00::1]:65432` or `mini1.local:65432`. ValueError for anything else."""
        host, colon, port = text.rpartition(":")
        if not colon or not (port.isascii() and port.isdecimal()):
            raise ValueError(f"not host:port: {text!r}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            ipaddress.IPv6Address(host)
        elif ":" in host:
            raise ValueError(f"an IPv6 address stands in brackets, [{host}]:{port}: {text!r}")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
