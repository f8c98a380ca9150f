"""Why a network must not be set up as the inventory says: found before anything is touched, all of it at once."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from smolcluster.network.found import FoundHost, FoundInterface
from smolcluster.network.types import Conflict, HostWanted, Interface, NetworkWanted

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def conflicts(
    wanted: NetworkWanted, found: Iterable[FoundHost], devices: Mapping[tuple[str, str], str] | None = None
) -> tuple[Conflict, ...]:
    """Everything that speaks against it.

    `devices` says which device of a machine is on which wire, by (node, network), as far as that is known: what carries
    SSH must be none of those whose address would change.
    """
    seen = list(found)
    known = devices or {}
    told: list[Conflict] = []
    for host in seen:
        mine = wanted.host(host.node)
        told += _taken(wanted, mine, host, known)
        told += _over_ssh(mine, host, known)
    return (*told, *_used_twice(wanted, seen))


def _taken(
    wanted: NetworkWanted, mine: HostWanted, host: FoundHost, devices: Mapping[tuple[str, str], str]
) -> list[Conflict]:
    """A wire's subnet is that of another network the machine is on already: the home router's, say."""
    own = {wire.network: wire.address for wire in mine.interfaces if wire.managed}
    told = []
    for network, subnet in _subnets(wanted).items():
        for interface, address in _addresses(host):
            if not address.network.overlaps(subnet):
                continue
            # On its own wire an address within the subnet is what is wanted, or gives way to it.
            there = devices.get((host.node, network), interface.device) == interface.device
            if network in own and there and (str(address.ip) == own[network] or not interface.carries_ssh):
                continue
            what = f"{interface.device} is in {address.network} already, which overlaps {subnet} of {network}"
            told.append(Conflict(node=host.node, what=what, fix=f"give {network} another subnet in the inventory"))
    return told


def _over_ssh(mine: HostWanted, host: FoundHost, devices: Mapping[tuple[str, str], str]) -> list[Conflict]:
    """The interface that carries SSH is never touched."""
    told = []
    carriers = {interface.device: interface for interface in host.interfaces if interface.carries_ssh}
    for wire in mine.interfaces:
        device = devices.get((host.node, wire.network), "")
        if not wire.managed or device not in carriers:
            continue
        if f"{wire.address}/{wire.prefix}" in carriers[device].addresses or not _would_lose(carriers[device], wire):
            continue
        what = f"SSH comes in over {device}, whose address {wire.network} would change"
        fix = f"reach {host.node} another way (`host` in the inventory), or set {wire.address} there by hand"
        told.append(Conflict(node=host.node, what=what, fix=fix))
    return told


def _would_lose(carrier: FoundInterface, wire: Interface) -> bool:
    """Whether setting the wire's address takes one away that a session may run over: a link-local one stays."""
    subnet = ipaddress.ip_interface(f"{wire.address}/{wire.prefix}")
    return any(not each.ip.is_link_local and each.version == subnet.version for each in carrier.interfaces())


def _used_twice(wanted: NetworkWanted, seen: Sequence[FoundHost]) -> list[Conflict]:
    """An address that one machine shall have is another's."""
    told = []
    for mine in wanted.hosts:
        for interface in mine.interfaces:
            if not interface.managed:
                continue
            for other in seen:
                if other.node != mine.node and interface.address in other.addresses():
                    what = f"has {interface.address}, which is {mine.node}'s on {interface.network}"
                    fix = f"take it off {other.node}, or change one of the two in the inventory"
                    told.append(Conflict(node=other.node, what=what, fix=fix))
    return told


def _subnets(wanted: NetworkWanted) -> dict[str, IPNetwork]:
    """The subnets of all wires that are ours to set up."""
    return {
        interface.network: ipaddress.ip_interface(f"{interface.address}/{interface.prefix}").network
        for host in wanted.hosts
        for interface in host.interfaces
        if interface.managed
    }


def _addresses(host: FoundHost) -> list[tuple[FoundInterface, IPInterface]]:
    return [
        (interface, address)
        for interface in host.interfaces
        for address in interface.interfaces()
        if not address.ip.is_loopback
    ]
