"""Addresses, and the sockets made from them. Nothing here listens on all interfaces.

Differences of operating systems live here: Windows needs SO_EXCLUSIVEADDRUSE (its REUSEADDR lets a stranger steal the
port), macOS refuses buffers above kern.ipc.maxsockbuf, Linux caps them silently and stops growing by itself.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from smolcluster.comm.clock import Deadline
from smolcluster.errors import DeadlineError, PeerError, PeerLostError

SMALLEST_BUFFER_BYTES = 64 * 1024
_MOST_HOST, _MOST_PORT = 255, 65535
# A free port must be free on every address of a host; another process may take it between two binds.
PORT_TRIES = 20
# Connections that wait to be accepted; the system may allow fewer. Beyond it a rank's first packet is dropped, and its
# kernel tries again only after a second.
BACKLOG = 1024
# How often a refused dial is tried again: the peer's process may still be starting. Nothing can announce that a process
# on another machine began to listen, so this is a bounded poll.
REDIAL_S = 0.1
# How long a name that nobody knows or a host that no route reaches is tried: a sleeping machine, a late mDNS answer.
UNREACHABLE_S = 15.0
_NO_ROUTE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}
# A cable that was pulled between two ranks makes no sound: the kernel asks the other end's kernel on an idle wire.
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_PROBES = 10, 5, 6


@dataclass(frozen=True, order=True)
class Endpoint:
    """A host (IPv4, IPv6 or a name) and a TCP port. `str` gives what a person would type: [::1]:65432."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint_of(fields: Mapping[str, object]) -> Endpoint:
    """The endpoint that a file or a card tells of. ValueError, KeyError or TypeError if it is none."""
    host, port = fields["host"], fields["port"]
    if not isinstance(host, str) or len(host) > _MOST_HOST or not host.isprintable():
        raise ValueError("host is no name or address")
    if type(port) is not int or not 0 <= port <= _MOST_PORT:
        raise ValueError(f"{port!r:.40} is no port")
    return Endpoint(host, port)


def listen(hosts: tuple[str, ...], port: int, patience: Deadline | None = None) -> list[socket.socket]:
    """Listening sockets on exactly these own addresses, all with one port (0: any that is free on all of them).

    PeerError names address, port and remedy when an address is not ours, or taken, or would mean all interfaces. A
    port that is taken is tried again until `patience` is over: an earlier start of this rank may still be dying.
    """
    for host in hosts:
        refuse_wildcard(host)
    while True:
        try:
            return _listen(hosts, port)
        except PeerError as error:
            taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if not taken or port == 0 or patience is None or patience.left() <= REDIAL_S:
                raise
        # Nothing announces that a port is free again.
        threading.Event().wait(REDIAL_S)


def _listen(hosts: tuple[str, ...], port: int) -> list[socket.socket]:
    for attempt in range(PORT_TRIES):
        sockets: list[socket.socket] = []
        try:
            chosen = port
            for host in hosts:
                opened = _listen_on(host, chosen)
                sockets.append(opened)
                chosen = opened.getsockname()[1]
        except PeerError:
            for opened in sockets:
                opened.close()
            if port != 0 or not sockets or attempt == PORT_TRIES - 1:
                raise
        else:
            return sockets
    raise AssertionError("unreachable: the last attempt returns or raises")


def refuse_wildcard(host: str) -> None:
    """PeerError if this host would mean every interface of the machine."""
    try:
        everywhere = not host or ipaddress.ip_address(host.partition("%")[0]).is_unspecified
    except ValueError:
        everywhere = False  # a name
    if everywhere:
        raise PeerError(
            f"refusing to listen on {host or 'an empty address'!s}: that is every interface of this machine. "
            "Fix: give this machine's own address on the cluster's wire."
        )


def _listen_on(host: str, port: int) -> socket.socket:
    where = Endpoint(host, port)
    family, address = own_address(host, port)
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Only skips TIME_WAIT of an earlier run on POSIX: two listeners on one port stay impossible.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        raise PeerError(_bind_message(where, error)) from error
    return opened


def _bind_message(where: Endpoint, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen on {where}: port {where.port} is in use on {where.host}. "
            "Fix: stop the run that holds it (ansible-playbook stop.yml), or set another `port` (0 takes any free one)."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"cannot listen on {where}: {where.host} is not an address of this machine now. "
            "Fix: check the cable and this machine's address in the inventory's networks."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"cannot listen on {where}: not allowed ({error.strerror}). Fix: use a port above 1023."
    return f"cannot listen on {where}: {error.strerror or error}. Fix: check the address in the inventory."


_Address = tuple[socket.AddressFamily, tuple[str | int | bytes, ...]]


def own_address(host: str, port: int) -> _Address:
    """Where to listen for those who dial `host`, this machine's own address or name.

    Debian and Raspberry Pi OS map a machine's own name to 127.0.1.1, where nobody else could reach us: PeerError.
    """
    found = _resolved(host, port)
    if is_literal(host) or host.partition(".")[0] == "localhost":
        return found[0]
    beyond = [entry for entry in found if not ipaddress.ip_address(str(entry[1][0]).partition("%")[0]).is_loopback]
    if not beyond:
        raise PeerError(
            f"cannot listen on {host}: here that name means {found[0][1][0]!s}, which no other machine reaches. "
            "Fix: write this machine's address in the inventory's networks, or take the name out of its hosts file."
        )
    return beyond[0]


def is_literal(host: str) -> bool:
    """Whether it is an address and no name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _resolve(host: str, port: int) -> _Address:
    return _resolved(host, port)[0]


def _resolved(host: str, port: int) -> list[_Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: it cannot even be a name
        raise PeerError(
            f"the name {host!s} cannot be resolved ({getattr(error, 'strerror', None) or error}). "
            "Fix: write its address in the inventory, "
            "or check that the machine is on and in the same network."
        ) from error
    # IPv4 first: names of home networks resolve to link-local IPv6 addresses that need a scope to be dialled.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return [(family, address) for family, _, _, _, address in found]


def dial(where: Endpoint, deadline: Deadline, who: str, stop: threading.Event | None = None) -> socket.socket:
    """A connected, blocking socket. Tries until the deadline while nobody listens there yet, or until `stop` is set.

    DeadlineError names `who`; PeerLostError or PeerError tells of a network that cannot reach it, or of a name that
    nobody knows, after UNREACHABLE_S: it may be waking up.
    """
    patience = Deadline(min(UNREACHABLE_S, deadline.left()))
    stop = stop or threading.Event()
    while not stop.is_set():
        try:
            family, address = _resolve(where.host, where.port)
        except PeerError:
            if patience.left() <= REDIAL_S:
                raise
            stop.wait(REDIAL_S)
            continue
        opened = _opened(family)
        try:
            opened.settimeout(max(0.001, deadline.left()))
            opened.connect(address)
            if _met_itself(opened):
                raise ConnectionRefusedError("nobody listens there: the connection led back to itself")
        except TimeoutError as error:
            opened.close()
            raise DeadlineError(
                f"{who} at {where} did not answer within {deadline.seconds:g} s. "
                "Fix: check that the machine is on, its address, and its firewall."
            ) from error
        except (ConnectionRefusedError, ConnectionResetError, ConnectionAbortedError) as error:
            opened.close()
            if deadline.left() <= REDIAL_S:
                raise DeadlineError(
                    f"nobody listens for {who} at {where} after {deadline.seconds:g} s. "
                    "Fix: look at that rank's log: it may not have started."
                ) from error
            stop.wait(REDIAL_S)
        except OSError as error:
            opened.close()
            if error.errno in _NO_ROUTE and patience.left() > REDIAL_S:
                stop.wait(REDIAL_S)
                continue
            raise PeerLostError(
                f"{who} at {where} cannot be reached: {error.strerror or error}. Fix: check cable, address and route."
            ) from error
        except BaseException:
            opened.close()
            raise
        else:
            return opened
    raise PeerLostError(f"{who} at {where} was not reached: the run has failed meanwhile")


def _met_itself(opened: socket.socket) -> bool:
    """A dial on one machine may be given the very port it dials as its own, and TCP then connects it to itself."""
    try:
        return bool(opened.getsockname() == opened.getpeername())
    except OSError:
        return False


def _opened(family: socket.AddressFamily) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # too many open files
        raise PeerError(
            f"no socket can be opened: {error.strerror or error}. Fix: raise the limit (ulimit -n)."
        ) from error


def tune(opened: socket.socket, buffer_bytes: int) -> None:
    """No Nagle, keepalive; kernel buffers of `buffer_bytes` where the system grants them, else the largest half."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _keep_alive(opened)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        if sys.platform.startswith("linux"):
            # Linux grows the buffers itself up to tcp_wmem and tcp_rmem, and stops doing so once they are set.
            # Set ones are capped by wmem_max, usually much lower.
            continue
        size = buffer_bytes
        while size >= SMALLEST_BUFFER_BYTES:
            try:
                opened.setsockopt(socket.SOL_SOCKET, option, size)
                break
            except OSError:
                size //= 2


def _keep_alive(opened: socket.socket) -> None:
    """Have the kernel break a connection whose other end is out of reach, idle or not: in 40 s with these numbers.

    A rank that computes for long is alive all the same: its kernel answers for it.
    """
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    silence_ms = (KEEPALIVE_IDLE_S + KEEPALIVE_EVERY_S * KEEPALIVE_PROBES) * 1000
    wanted = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
        "TCP_KEEPALIVE": KEEPALIVE_IDLE_S,  # macOS's name for it
        "TCP_KEEPINTVL": KEEPALIVE_EVERY_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": silence_ms,  # Linux: also for bytes that were sent and never acknowledged
    }
    for name, value in wanted.items():
        option = getattr(socket, name, None)
        if option is not None:
            # An old Windows has the name and not the option; its own keepalive of two hours is then all there is.
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.IPPROTO_TCP, option, value)


def granted_buffers(opened: socket.socket) -> tuple[int, int]:
    """(send, receive) buffer bytes the kernel really gives."""
    return (
        opened.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
    )
