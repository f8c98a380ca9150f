"""Which address to use where there are several. Everything here is a guess; a person's word goes before it."""

from __future__ import annotations

import ipaddress
import socket

from smolcluster.comm.endpoint import Endpoint, is_literal, own_address
from smolcluster.errors import PeerError


def is_loopback(host: str) -> bool:
    """Whether only this machine can dial it."""
    if is_literal(host):
        return _parsed(host).is_loopback
    return host.partition(".")[0] == "localhost"


def address_towards(where: Endpoint) -> str:
    """This machine's own address on the route to `where`; nothing is sent. PeerError if there is no route, or if the
    name there means this machine by an address that nobody else reaches.
    """
    family, address = own_address(where.host, where.port or 1)
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(address)
        except OSError as error:
            raise PeerError(f"{where} cannot be reached: {error.strerror or error}") from error
        return str(asking.getsockname()[0])


def nearest(hosts: tuple[str, ...], own: tuple[str, ...]) -> str:
    """Of a peer's addresses the one that shares most leading bits with one of ours: probably on a wire of both.

    The first of them if none is better. "" if there is none.
    """
    return max(hosts, key=lambda host: max((_shared_bits(host, mine) for mine in own), default=0), default="")


def _shared_bits(one: str, other: str) -> int:
    if not (is_literal(one) and is_literal(other)):
        return 0
    a, b = _parsed(one), _parsed(other)
    return a.max_prefixlen - (int(a) ^ int(b)).bit_length() if a.version == b.version else 0


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(host.partition("%")[0])
