"""macOS: networksetup, ifconfig, netstat, route, sysctl.

Services are found by their device, never by their name: names are translated, and people change them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from smolcluster.network.found import InterfaceKind, Ipv4, KeptRoute, LiveRoute, Method
from smolcluster.network.parse import FormatError

_IPV4 = r"\d{1,3}(?:\.\d{1,3}){3}"
_SERVICE = re.compile(r"^\((\*|\d+)\) (\*?)(.*)$")
_SERVICE_DEVICE = re.compile(r"^\(Hardware Port: (.*), Device: ?(.*)\)$")
_METHODS: tuple[tuple[str, Method], ...] = (
    ("DHCP Configuration", "dhcp"),
    ("Manually Using DHCP Router Configuration", "manual_dhcp_router"),
    ("Manual Using DHCP Router Configuration", "manual_dhcp_router"),
    ("Manual Configuration", "manual"),
    ("BOOTP Configuration", "bootp"),
)
_EMPTY = ("", "none", "(null)")


@dataclass(frozen=True)
class HardwarePort:
    """A line of -listallhardwareports: `Thunderbolt 1` is en2."""

    name: str
    device: str
    mac: str

    @property
    def kind(self) -> InterfaceKind:
        """What it is. A Thunderbolt-to-Ethernet adapter is Ethernet."""
        if self.device.startswith("bridge"):
            return "bridge"
        if re.fullmatch(r"Thunderbolt \d+", self.name):
            return "thunderbolt"
        if self.name in ("Wi-Fi", "AirPort"):
            return "wifi"
        return "ethernet" if self.device.startswith("en") else "other"


@dataclass(frozen=True)
class Service:
    """A network service and the device it belongs to."""

    name: str
    device: str
    enabled: bool


@dataclass(frozen=True)
class Link:
    """An interface as ifconfig shows it."""

    device: str
    up: bool
    mtu: int
    mac: str
    addresses: tuple[str, ...]
    members: tuple[str, ...]


def hardware_ports(text: str) -> tuple[HardwarePort, ...]:
    """`networksetup -listallhardwareports`."""
    ports = re.findall(r"^Hardware Port: (.*)\nDevice: ?(.*)\nEthernet Address: ?(.*)$", text, flags=re.M)
    found = [HardwarePort(name.strip(), device.strip(), mac.strip().lower()) for name, device, mac in ports]
    return tuple(HardwarePort(p.name, p.device, "" if p.mac == "n/a" else p.mac) for p in found if p.device)


def services(text: str) -> tuple[Service, ...]:
    """`networksetup -listnetworkserviceorder`. A disabled one has a star for its number, or before its name."""
    found: list[Service] = []
    name: re.Match[str] | None = None
    for line in text.splitlines():
        device = _SERVICE_DEVICE.match(line.strip())
        if device is not None and name is not None:
            if device[2].strip():
                found.append(Service(name[3].strip(), device[2].strip(), name[1] != "*" and not name[2]))
            name = None
        elif device is None:
            name = _SERVICE.match(line.strip()) or name
    return tuple(found)


def service_info(text: str) -> Ipv4:
    """`networksetup -getinfo SERVICE`. Without a word on IPv4 it is off."""
    method: Method = next((method for words, method in _METHODS if text.lstrip().startswith(words)), "off")
    if method == "off":
        return Ipv4(method="off")
    values = {
        key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in text.splitlines()) if colon
    }
    address, mask = values.get("IP address", ""), values.get("Subnet mask", "")
    router, client = values.get("Router", ""), values.get("Client ID", "")
    if method not in ("manual", "manual_dhcp_router"):
        return Ipv4(method=method, client_id=None if client in _EMPTY else client)
    if address in _EMPTY:
        raise FormatError("networksetup -getinfo", f"a manual configuration without an address: {text.strip()!r}")
    prefix = _prefix(mask) if mask not in _EMPTY else 32
    mine = None if router in _EMPTY or method == "manual_dhcp_router" else router
    return Ipv4(method=method, address=f"{address}/{prefix}", router=mine)


def additional_routes(text: str) -> tuple[KeptRoute, ...]:
    """`networksetup -getadditionalroutes SERVICE`: destination, mask, gateway; or a sentence that there are none."""
    triples = re.findall(rf"^\s*({_IPV4})\s+({_IPV4})\s+({_IPV4})\s*$", text, flags=re.M)
    return tuple(KeptRoute(destination=f"{dst}/{_prefix(mask)}", via=via) for dst, mask, via in triples)


def links(text: str) -> tuple[Link, ...]:
    """`ifconfig`, of all interfaces. An interface without a `status:` line has a carrier if it is running."""
    found = []
    for block in re.split(r"^(?=\S)", text, flags=re.M):
        head = re.match(r"^([^\s:]+): flags=[0-9a-fx]+<([^>]*)>.*?\bmtu (\d+)", block)
        if head is None:
            continue
        flags = head[2].split(",")
        status = re.search(r"^\s+status: (\S+)", block, flags=re.M)
        mac = re.search(r"^\s+ether ([0-9a-f:]+)", block, flags=re.M)
        v4 = [
            f"{ip}/{int(mask, 16).bit_count()}"
            for ip, mask in re.findall(rf"^\s+inet ({_IPV4})(?: --> \S+)? netmask (0x[0-9a-f]+)", block, flags=re.M)
        ]
        v6 = [f"{ip}/{n}" for ip, n in re.findall(r"^\s+inet6 ([0-9a-f:]+)\S* prefixlen (\d+)", block, flags=re.M)]
        members = tuple(re.findall(r"^\s+member: (\S+)", block, flags=re.M))
        up = status[1] == "active" if status is not None else "RUNNING" in flags
        found.append(Link(head[1], up, int(head[3]), mac[1] if mac else "", (*v4, *v6), members))
    return tuple(found)


def routing_table(text: str) -> tuple[LiveRoute, ...]:
    """`netstat -rn -f inet`. Cloned host entries of neighbours (flag W or L) are no routes."""
    found: list[LiveRoute] = []
    columns: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words[:2] == ["Destination", "Gateway"]:
            columns = words
            continue
        if not columns or len(words) < 4:
            continue
        # Refs and Use are columns of older versions: the device stands under Netif.
        device = words[columns.index("Netif")] if len(words) > columns.index("Netif") else words[-1]
        destination = _destination(words[0])
        if destination is None or "W" in words[2] or "L" in words[2]:
            continue
        via = words[1] if re.fullmatch(_IPV4, words[1]) else None
        found.append(LiveRoute(destination=destination, device=device, via=via if "G" in words[2] else None))
    return tuple(found)


def forwarding(text: str) -> bool:
    """`sysctl net.inet.ip.forwarding`."""
    found = re.search(r"net\.inet\.ip\.forwarding\s*[:=]\s*(\d)", text)
    if found is None:
        raise FormatError("sysctl net.inet.ip.forwarding", f"says {text.strip()!r}")
    return found[1] != "0"


def _prefix(mask: str) -> int:
    return ipaddress.IPv4Network(f"0.0.0.0/{mask}").prefixlen


def _destination(text: str) -> str | None:
    """netstat leaves out zeros at the end, and the prefix where it is that of the octets shown: `192.168.50`."""
    if text == "default":
        return "0.0.0.0/0"
    base, _, prefix = text.partition("/")
    octets = base.split(".")
    if not all(octet.isdecimal() for octet in octets) or len(octets) > 4:
        return None
    length = int(prefix) if prefix.isdecimal() else 8 * len(octets)
    return f"{'.'.join([*octets, '0', '0', '0'][:4])}/{length}"
