"""transport gloo: torch's own backend, kept off interfaces that are not the cluster's. It writes to the
environment: gloo takes its interface from there and from nowhere else that init_process_group offers.
"""

from __future__ import annotations

import os
import socket

import psutil

from smolcluster.comm.endpoint import refuse_wildcard

_VARIABLE = "GLOO_SOCKET_IFNAME"


def bind_gloo(host: str) -> str | None:
    """Make gloo use the interface that holds this own address; gives what was set before, for `unbind_gloo`."""
    refuse_wildcard(host)
    before = os.environ.get(_VARIABLE)
    interface = _interface_of(host)
    if interface is not None:
        os.environ[_VARIABLE] = interface
    return before


def unbind_gloo(before: str | None) -> None:
    """Undo `bind_gloo`."""
    if before is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = before


def _interface_of(host: str) -> str | None:
    address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return str(name)
    if str(address).startswith("127."):  # all of 127/8 is the loopback interface, which lists one address
        return next((str(name) for name, entries in psutil.net_if_addrs().items() if _is_loopback(entries)), None)
    return None


def _is_loopback(entries: list[psutil._common.snicaddr]) -> bool:
    return any(entry.address == "127.0.0.1" for entry in entries)
