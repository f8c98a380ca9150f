"""What a link looks like from here: rate, round trip, what waits in the kernel. For metrics, every few steps."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smolcluster.comm import kernel
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh, WireCounters

# Linux, struct tcp_info; include/uapi/linux/tcp.h.
_TCPI_BYTES_ACKED_AT = 120
_TCPI_BYTES_RECEIVED_AT = 128
_INTERNET = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True)
class LinkStats:
    """All that goes to and comes from one peer. Bytes are those of the `seconds` since the last look, over links that
    are closed by now too; `mbps`: both, bits per second in millions. `address`: where the links lead.

    `rtt_ms`: the shortest way there and back since the last look, as pings took it, process to process; where none came
    back, as TCP measured it (`rtt_by`). `buffered`: bytes written and not yet acknowledged; `unread`: come, not yet
    read. None: nobody tells.
    """

    peer: int
    address: str
    seconds: float
    bytes_out: int
    bytes_in: int
    mbps: float
    rtt_ms: float | None
    rtt_by: Literal["ping", "kernel"] | None
    buffered: int | None
    unread: int | None


class LinkMeter:
    """Looks at the links of a mesh; remembers what it saw the last time. For one thread."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._then = time.monotonic()
        self._before: dict[int, WireCounters] = {}

    def look(self) -> tuple[LinkStats, ...]:
        """One entry per peer that there is a link to, or was since the last look."""
        now, then = time.monotonic(), self._then
        moved = self._mesh.counters_by_peer()
        open_links = [link for link in self._mesh.links() if not link.closed]
        before, self._before, self._then = self._before, moved, now
        seen = []
        for peer, total in sorted(moved.items()):
            links = [link for link in open_links if link.peer == peer]
            past = before.get(peer, WireCounters(0, 0))
            out, inward = total.bytes_out - past.bytes_out, total.bytes_in - past.bytes_in
            if links or out or inward:
                seen.append(_stats(peer, links, now - then, out, inward))
        return tuple(seen)


def _stats(peer: int, links: list[Link], seconds: float, bytes_out: int, bytes_in: int) -> LinkStats:
    pings = [trip for link in links if (trip := link.take_trip_ms()) is not None]
    trips = [trip for link in links if (trip := kernel.rtt_ms(link.out.sock)) is not None]
    rtt_by: Literal["ping", "kernel"] | None = "ping" if pings else "kernel" if trips else None
    counted = [link for link in links if link.counts]
    return LinkStats(
        peer=peer,
        address=next((address for link in links if (address := _address(link))), ""),
        seconds=seconds,
        bytes_out=bytes_out,
        bytes_in=bytes_in,
        mbps=8e-6 * (bytes_out + bytes_in) / seconds if seconds > 0 else 0.0,
        rtt_ms=min(pings or trips, default=None),
        rtt_by=rtt_by,
        buffered=_sum(kernel.unsent(link.out.sock) for link in counted),
        unread=_sum(kernel.unread(link.inward.sock) for link in counted),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """Of those that are known; None where none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _address(link: Link) -> str:
    """Where it leads; "" if it was closed meanwhile. The wire that comes in: the other one may lead to a fault."""
    try:
        return str(link.inward.sock.getpeername()[0]) if link.inward.sock.family in _INTERNET else ""
    except OSError:
        return ""


def tcp_counters(hosts: Iterable[str]) -> tuple[int, int] | None:
    """(sent and acknowledged, received) bytes of this process's open TCP connections to `hosts`, whoever opened them.

    For sockets that are not ours: gloo counts nothing. None where the kernel does not tell (all but Linux).
    """
    if not sys.platform.startswith("linux"):
        return None
    wanted = {entry[4][0] for host in set(hosts) for entry in socket.getaddrinfo(host, None)}
    sent = received = 0
    for entry in tuple(Path("/proc/self/fd").iterdir()):
        info = _info_of(int(entry.name), wanted)
        if len(info) >= _TCPI_BYTES_RECEIVED_AT + 8:
            sent += struct.unpack_from("Q", info, _TCPI_BYTES_ACKED_AT)[0]
            received += struct.unpack_from("Q", info, _TCPI_BYTES_RECEIVED_AT)[0]
    return sent, received


def _info_of(descriptor: int, hosts: set[str | int]) -> bytes:
    """The kernel's tcp_info of a descriptor that is a connection to one of `hosts`; empty if it is not."""
    if not sys.platform.startswith("linux"):
        return b""
    try:
        copy = os.dup(descriptor)  # closing the object below must leave the connection alone
    except OSError:
        return b""  # closed meanwhile
    try:
        opened = socket.socket(fileno=copy)
    except OSError:  # no socket
        os.close(copy)
        return b""
    with opened:
        try:
            ours = opened.family in _INTERNET and opened.getpeername()[0] in hosts
            return opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192) if ours else b""
        except OSError:  # not connected
            return b""
