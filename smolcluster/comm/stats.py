"""What a link looks like from here: rate, round trip, what waits in the kernel. For metrics, every few steps."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from smolcluster.comm.link import Link

# Linux, struct tcp_info: smoothed round trip in microseconds; include/uapi/linux/tcp.h.
_TCPI_RTT_AT = 68
_TCPI_BYTES_ACKED_AT = 120
_TCPI_BYTES_RECEIVED_AT = 128
_SIOCOUTQ = 0x5411
_INTERNET = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True)
class LinkStats:
    """`mbps`: bits per second both ways since the last look, in millions. `rtt_ms` and `buffered` (bytes not yet
    acknowledged) come from the kernel; 0 where it does not tell (macOS, Windows).
    """

    peer: int
    mbps: float
    rtt_ms: float
    buffered: int


def stats_of(links: Iterable[Link], meter: MutableMapping[str, tuple[int, float]]) -> tuple[LinkStats, ...]:
    """Links summed up per peer. `meter` remembers the last look; the caller keeps it."""
    now = time.monotonic()
    moved: dict[int, int] = {}
    rtt: dict[int, float] = {}
    buffered: dict[int, int] = {}
    for link in links:
        if link.closed:
            continue
        moved[link.peer] = moved.get(link.peer, 0) + link.bytes_out + link.bytes_in
        rtt[link.peer] = max(rtt.get(link.peer, 0.0), _rtt_ms(link.out.sock))
        buffered[link.peer] = buffered.get(link.peer, 0) + _unsent(link.out.sock)
    result = []
    for peer in sorted(moved):
        before, then = meter.get(f"peer/{peer}", (0, now))
        meter[f"peer/{peer}"] = (moved[peer], now)
        seconds = now - then
        mbps = 8e-6 * max(0, moved[peer] - before) / seconds if seconds > 0 else 0.0
        result.append(LinkStats(peer, mbps, rtt[peer], buffered[peer]))
    return tuple(result)


def _rtt_ms(sock: socket.socket) -> float:
    if not sys.platform.startswith("linux"):
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except OSError:
        return 0.0
    microseconds = struct.unpack_from("I", info, _TCPI_RTT_AT)[0] if len(info) >= _TCPI_RTT_AT + 4 else 0
    return float(microseconds) / 1000


def _unsent(sock: socket.socket) -> int:
    if not sys.platform.startswith("linux"):
        return 0
    import fcntl

    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0\0\0\0"))[0])
    except (OSError, ValueError):  # ValueError: another thread has closed it
        return 0


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
