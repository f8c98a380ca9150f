"""Linux with NetworkManager (Raspberry Pi OS among them): `ip -j`, `nmcli -t`, sysctl."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smolcluster.network.found import InterfaceKind, Ipv4, KeptRoute, LiveRoute, Method
from smolcluster.network.parse import FormatError

_METHODS: dict[str, Method] = {"auto": "dhcp", "manual": "manual", "disabled": "off"}
_ROUTE = re.compile(r"(\d+(?:\.\d+){3}/\d+)(?:,\s*nh\s*=\s*|\s+)(\d+(?:\.\d+){3})")
_KINDS: dict[str, InterfaceKind] = {"bridge": "bridge", "wlan": "wifi"}


@dataclass(frozen=True)
class Link:
    """An interface of `ip -j addr`; `-d` adds what it is."""

    device: str
    kind: InterfaceKind
    up: bool
    mtu: int
    mac: str
    addresses: tuple[str, ...]
    master: str


@dataclass(frozen=True)
class Connection:
    """A line of `nmcli -t -f UUID,NAME,TYPE,DEVICE connection show`. `device` is empty where it is not in force."""

    uuid: str
    name: str
    type: str
    device: str


def links(text: str) -> tuple[Link, ...]:
    """`ip -j -d addr` (or `ip -j addr`, `ip -j link`). Carrier is operstate UP, or UNKNOWN with the flag LOWER_UP."""
    found = []
    for entry in _listed(text, "ip -j addr"):
        flags = entry.get("flags", [])
        state = entry.get("operstate", "")
        found.append(
            Link(
                device=entry["ifname"],
                kind=_kind(entry),
                up=state == "UP" or (state == "UNKNOWN" and "LOWER_UP" in flags),
                mtu=int(entry.get("mtu", 1500)),
                mac=str(entry.get("address", "")).lower(),
                addresses=tuple(f"{a['local']}/{a['prefixlen']}" for a in entry.get("addr_info", ()) if "local" in a),
                master=str(entry.get("master", "")),
            )
        )
    return tuple(found)


def routing_table(text: str) -> tuple[LiveRoute, ...]:
    """`ip -j route`: of several next hops the first, IPv4 only; blackholes and the like are no ways."""
    found = []
    for entry in _listed(text, "ip -j route"):
        if entry.get("type", "unicast") != "unicast":
            continue
        hop = (entry.get("nexthops") or [entry])[0]
        destination = _network(str(entry.get("dst", "")))
        device = hop.get("dev")
        if destination is not None and device is not None:
            found.append(LiveRoute(destination=destination, device=device, via=hop.get("gateway")))
    return tuple(found)


def connections(text: str) -> tuple[Connection, ...]:
    """`nmcli -t -f UUID,NAME,TYPE,DEVICE connection show`."""
    rows = [_split(line) for line in text.splitlines() if line.strip()]
    if any(len(row) != 4 for row in rows):
        raise FormatError("nmcli connection show", "a line does not have the four fields that were asked for")
    return tuple(Connection(*row) for row in rows)


def settings(text: str) -> dict[str, str]:
    """`nmcli -t -f ... connection show UUID`: one `property:value` a line; only the value is escaped."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found[key.strip()] = re.sub(r"\\(.)", r"\1", value).strip()
    return found


def ipv4_of(values: Mapping[str, str]) -> Ipv4:
    """The IPv4 part of a connection. Of several addresses the first is taken as the configured one."""
    method = _METHODS.get(values.get("ipv4.method", ""), "other")
    address = values.get("ipv4.addresses", "").split(",")[0].strip()
    router = values.get("ipv4.gateway", "").strip()
    client = values.get("ipv4.dhcp-client-id", "").strip()
    return Ipv4(
        method=method,
        address=address if address and method == "manual" else None,
        router=router if router not in ("", "--") else None,
        client_id=client if client not in ("", "--") and method == "dhcp" else None,
    )


def routes_of(values: Mapping[str, str]) -> tuple[KeptRoute, ...]:
    """`ipv4.routes`, as `10.0.0.0/24 10.1.1.1` or, of older versions, `{ ip = 10.0.0.0/24, nh = 10.1.1.1 }`."""
    return tuple(KeptRoute(destination=dst, via=via) for dst, via in _ROUTE.findall(values.get("ipv4.routes", "")))


def mtu_of(values: Mapping[str, str]) -> int | None:
    """`802-3-ethernet.mtu`; auto is the default."""
    text = values.get("802-3-ethernet.mtu", "auto")
    return int(text) if text.isdecimal() and text != "0" else None


def forwarding(text: str) -> bool:
    """`sysctl net.ipv4.ip_forward`."""
    found = re.search(r"net\.ipv4\.ip_forward\s*=\s*(\d)", text)
    if found is None:
        raise FormatError("sysctl net.ipv4.ip_forward", f"says {text.strip()!r}")
    return found[1] != "0"


def _listed(text: str, tool: str) -> Sequence[dict[str, Any]]:
    try:
        entries = json.loads(text or "[]")
    except ValueError:
        raise FormatError(tool, "is no JSON") from None
    if not isinstance(entries, list):
        raise FormatError(tool, "is no list")
    # `ip -j` prints an empty object for what a filter left out.
    return [entry for entry in entries if isinstance(entry, dict) and entry]


def _kind(entry: Mapping[str, Any]) -> InterfaceKind:
    if entry.get("link_type") == "loopback" or "LOOPBACK" in entry.get("flags", ()):
        return "loopback"
    device = str(entry["ifname"])
    info = str(entry.get("linkinfo", {}).get("info_kind", ""))
    if info in _KINDS:
        return _KINDS[info]
    if device.startswith(("wl", "wifi")):
        return "wifi"
    if device.startswith("thunderbolt"):
        return "thunderbolt"
    # veth: a cable between two containers or namespaces.
    return "ethernet" if entry.get("link_type") == "ether" and info in ("", "veth") else "other"


def _network(text: str) -> str | None:
    if text == "default":
        return "0.0.0.0/0"
    try:
        return str(ipaddress.IPv4Network(text))
    except ValueError:
        return None


def _split(line: str) -> list[str]:
    """The fields of a terse line: separated by colons, a colon inside one escaped."""
    return [re.sub(r"\\(.)", r"\1", field) for field in re.split(r"(?<!\\):", line)]
