"""What somebody found on a machine: its interfaces, its routes, and whether it forwards. Roles gather it."""

from __future__ import annotations

import ipaddress

from smolcluster.spec.base import Frozen


class FoundInterface(Frozen):
    """An interface by its device, with its addresses as address/prefix. `carries_ssh`: Ansible came in over it."""

    device: str
    addresses: tuple[str, ...]
    mtu: int | None = None
    carries_ssh: bool = False

    def interfaces(self) -> tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]:
        """The addresses as values."""
        return tuple(ipaddress.ip_interface(address) for address in self.addresses)


class FoundRoute(Frozen):
    """A route through a gateway."""

    subnet: str
    via: str
    device: str = ""


class FoundHost(Frozen):
    """One machine as it was found."""

    node: str
    interfaces: tuple[FoundInterface, ...]
    forwards: bool
    routes: tuple[FoundRoute, ...]

    def addresses(self) -> frozenset[str]:
        """All its addresses, without prefixes."""
        return frozenset(str(each.ip) for interface in self.interfaces for each in interface.interfaces())
