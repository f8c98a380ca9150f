"""What the kernel tells of a connected socket, each system in its own way. None is what it does not tell.

Linux and macOS are asked with getsockopt and ioctl; Windows answers such questions by a call that Python's sockets do
not have, so nothing is known there.
"""

from __future__ import annotations

import array
import socket
import struct
import sys

# Linux, struct tcp_info: smoothed round trip in microseconds; include/uapi/linux/tcp.h.
_TCPI_RTT_AT, _TCPI_BYTES = 68, 104
_SIOCOUTQ, _FIONREAD = 0x5411, 0x541B
# macOS, struct tcp_connection_info: smoothed round trip in milliseconds; bsd/netinet/tcp.h. The options are those of
# bsd/sys/socket.h: bytes that can be read, and bytes that are not sent yet.
_TCP_CONNECTION_INFO, _SRTT_AT, _CONNECTION_BYTES = 0x106, 44, 112
_SO_NREAD, _SO_NWRITE = 0x1020, 0x1024


def rtt_ms(sock: socket.socket) -> float | None:
    """The round trip that TCP goes by, in milliseconds. macOS counts whole ones."""
    if sys.platform.startswith("linux"):
        microseconds = _field(sock, socket.TCP_INFO, _TCPI_BYTES, _TCPI_RTT_AT)
        return microseconds / 1000 if microseconds else None
    if sys.platform == "darwin":
        milliseconds = _field(sock, _TCP_CONNECTION_INFO, _CONNECTION_BYTES, _SRTT_AT)
        return float(milliseconds) if milliseconds else None
    return None


def unsent(sock: socket.socket) -> int | None:
    """Bytes that were written and that the other end has not acknowledged."""
    if sys.platform.startswith("linux"):
        return _asked(sock, _SIOCOUTQ)
    return _option(sock, _SO_NWRITE) if sys.platform == "darwin" else None


def unread(sock: socket.socket) -> int | None:
    """Bytes that have come and were not read. Of TLS those that are still encrypted."""
    if sys.platform.startswith("linux"):
        return _asked(sock, _FIONREAD)
    return _option(sock, _SO_NREAD) if sys.platform == "darwin" else None


def _field(sock: socket.socket, option: int, size: int, at: int) -> int:
    """An unsigned field of the structure that a TCP option gives; 0 where it has none."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, size)
    except OSError:  # no TCP, or closed by another thread
        return 0
    return int(struct.unpack_from("I", info, at)[0]) if len(info) >= at + 4 else 0


def _option(sock: socket.socket, option: int) -> int | None:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, option)
    except OSError:
        return None


if sys.platform != "win32":
    import fcntl

    def _asked(sock: socket.socket, request: int) -> int | None:
        answer = array.array("i", [0])
        try:
            fcntl.ioctl(sock.fileno(), request, answer)
        except (OSError, ValueError):  # ValueError: another thread has closed it
            return None
        return answer[0]

else:

    def _asked(_sock: socket.socket, _request: int) -> int | None:
        return None
