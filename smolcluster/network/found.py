"""What a machine has: its interfaces, what is configured on them to stay, and what is in force right now."""

from __future__ import annotations

import ipaddress
from typing import Literal

from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import Kind

InterfaceKind = Literal["ethernet", "wifi", "thunderbolt", "bridge", "loopback", "other"]
Method = Literal["dhcp", "manual", "manual_dhcp_router", "bootp", "off", "other"]


class Ipv4(Frozen):
    """How an interface comes by its address, as configured. `address` is `10.10.0.1/24` where it is set by hand."""

    method: Method
    address: str | None = None
    router: str | None = None
    client_id: str | None = None

    @property
    def ip(self) -> str | None:
        """The address without its prefix."""
        return self.address.partition("/")[0] if self.address is not None else None

    def __str__(self) -> str:
        words = [self.method.replace("_", " ")]
        words += [self.address] if self.address else []
        words += [f"router {self.router}"] if self.router else []
        words += [f"client id {self.client_id}"] if self.client_id else []
        return " ".join(words)


class KeptRoute(Frozen):
    """A route that survives a reboot: a subnet, and the next hop's address."""

    destination: str
    via: str

    def __str__(self) -> str:
        return f"{self.destination} via {self.via}"


class Profile(Frozen):
    """What the OS keeps for an interface: a Mac's network service, NetworkManager's connection, a Windows adapter.

    `id` is what commands name it by. `active` tells whether it is in force. `mtu` None: the default.
    """

    id: str
    name: str
    active: bool
    ipv4: Ipv4
    routes: tuple[KeptRoute, ...] = ()
    mtu: int | None = None


class Interface(Frozen):
    """One interface now. `up`: there is a carrier. `addresses` are in force, with prefix, IPv6 too.

    `members` of a bridge; `port` is the hardware's own name (Thunderbolt 1).
    """

    device: str
    kind: InterfaceKind
    up: bool
    port: str = ""
    mac: str = ""
    mtu: int | None = None
    addresses: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()

    @property
    def profile(self) -> Profile | None:
        """The profile in force, else the first."""
        active = [profile for profile in self.profiles if profile.active]
        return (*active, *self.profiles, None)[0]

    def has(self, address: str) -> bool:
        """Whether `10.10.0.1/24` is in force."""
        return address in self.addresses

    def ipv4_in(self, subnet: ipaddress.IPv4Network) -> str | None:
        """Its address in a subnet, without prefix."""
        for text in self.addresses:
            ip = ipaddress.ip_interface(text.partition("%")[0]).ip
            if ip.version == 4 and ip in subnet:
                return str(ip)
        return None


class LiveRoute(Frozen):
    """A line of the routing table. `via` is None on the wire itself."""

    destination: str
    device: str
    via: str | None = None


class ThunderboltPort(Frozen):
    """A Thunderbolt socket: its own domain, and the one of the machine at the other end of the cable."""

    device: str
    domain: str
    peer: str | None = None


class FoundHost(Frozen):
    """One machine. `boot_text` is what our own file of settings for the next boot holds, None if there is none.

    `manager`: what keeps its settings runs there (NetworkManager; the others always have theirs).
    `ssh_address` is the own address that somebody is logged in at, `ssh_client` where from; None when nobody is.
    """

    node: str
    kind: Kind
    interfaces: tuple[Interface, ...]
    routes: tuple[LiveRoute, ...] = ()
    forwarding: bool = False
    boot_text: str | None = None
    manager: bool = True
    ssh_address: str | None = None
    ssh_client: str | None = None
    thunderbolt: tuple[ThunderboltPort, ...] = ()

    def interface(self, device: str) -> Interface | None:
        """The interface of that device."""
        return next((one for one in self.interfaces if one.device == device), None)

    @property
    def ssh_device(self) -> str | None:
        """The device that carries the login."""
        if self.ssh_address is None:
            return None
        address, _, zone = self.ssh_address.partition("%")
        wanted = ipaddress.ip_address(address)
        for one in self.interfaces:
            mine = [ipaddress.ip_interface(text.partition("%")[0]).ip for text in one.addresses]
            if (zone and one.device == zone) or (not zone and wanted in mine):
                return one.device
        return None

    @property
    def login_stays(self) -> bool:
        """Whether the login goes on when its interface gets other IPv4 settings: it came in at the address that the
        interface gives itself, and that stays. On Linux only one made from the MAC does, in any connection of ours."""
        device = self.interface(self.ssh_device) if self.ssh_device is not None else None
        if device is None or self.ssh_address is None:
            return False
        address = ipaddress.ip_address(self.ssh_address.partition("%")[0])
        if not isinstance(address, ipaddress.IPv6Address) or not address.is_link_local:
            return False
        return self.kind == "macos" or (self.kind == "linux" and address == _from_mac(device.mac))

    @property
    def default(self) -> LiveRoute | None:
        """The default route."""
        return next((route for route in self.routes if route.destination == "0.0.0.0/0"), None)

    def has_route(self, destination: str, via: str) -> bool:
        """Whether a route is in force."""
        return any(route.destination == destination and route.via == via for route in self.routes)


def _from_mac(mac: str) -> ipaddress.IPv6Address | None:
    """The link-local address that is made from a MAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    if len(octets) != 6:
        return None
    middle = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + middle)
