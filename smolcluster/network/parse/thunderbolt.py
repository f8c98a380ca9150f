"""`system_profiler SPThunderboltDataType -json`: which socket is cabled to which machine's.

Every socket has a domain of its own, and names the domain at the other end of its cable when that is a computer. The
device (en2) is the hardware port `Thunderbolt N` with the socket's number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from smolcluster.network.found import FoundHost, ThunderboltPort
from smolcluster.network.parse import FormatError
from smolcluster.network.parse.macos import HardwarePort
from smolcluster.network.values import Cable, CableEnd

_TOOL = "system_profiler SPThunderboltDataType -json"


def thunderbolt_ports(text: str, ports: Sequence[HardwarePort]) -> tuple[ThunderboltPort, ...]:
    """The sockets that have a network device. Docks and displays at the other end are no peers."""
    devices = {port.name: port.device for port in ports if port.kind == "thunderbolt"}
    try:
        buses = json.loads(text or "{}").get("SPThunderboltDataType", [])
    except (ValueError, AttributeError):
        raise FormatError(_TOOL, "is no JSON object") from None
    found = []
    for bus in buses:
        number = _socket(bus)
        device = devices.get(f"Thunderbolt {number}") if number is not None else None
        if device is not None and isinstance(bus.get("domain_uuid_key"), str):
            found.append(ThunderboltPort(device=device, domain=bus["domain_uuid_key"], peer=_peer(bus)))
    return tuple(found)


def cables_between(hosts: Sequence[FoundHost]) -> tuple[Cable, ...]:
    """The cables between machines that were asked. One end's word is enough: the other's may be a moment old."""
    owners = {port.domain: CableEnd(node=host.node, device=port.device) for host in hosts for port in host.thunderbolt}
    found: set[tuple[CableEnd, CableEnd]] = set()
    for host in hosts:
        for port in host.thunderbolt:
            other = owners.get(port.peer or "")
            if other is not None and other.node != host.node:
                ends = sorted((owners[port.domain], other), key=lambda end: (end.node, end.device))
                found.add((ends[0], ends[1]))
    return tuple(
        Cable(a=a, b=b) for a, b in sorted(found, key=lambda p: (p[0].node, p[1].node, p[0].device, p[1].device))
    )


def _socket(bus: Mapping[str, Any]) -> str | None:
    """The number of the socket: its section's name has a number of its own on some Macs."""
    for key, value in bus.items():
        if key.startswith("receptacle_") and isinstance(value, Mapping):
            number = value.get("receptacle_id_key")
            if number is not None:
                return str(number)
    return None


def _peer(bus: Mapping[str, Any]) -> str | None:
    for item in bus.get("_items") or ():
        if isinstance(item, Mapping) and isinstance(item.get("domain_uuid_key"), str):
            return str(item["domain_uuid_key"])
    return None
