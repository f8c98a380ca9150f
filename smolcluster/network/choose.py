"""Which interface of a machine is on a wire of the inventory. Nothing is guessed: what several could be is asked."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from smolcluster.network.boot import BRIDGE
from smolcluster.network.found import FoundHost, Interface, LiveRoute
from smolcluster.network.read import own_device
from smolcluster.network.values import WantedAddress
from smolcluster.spec.cluster import ClusterSpec, Network
from smolcluster.spec.problems import listed

# What a router joins into one LAN.
_ROUTED = ("wifi", "ethernet")


class UnclearError(LookupError):
    """No interface, or several, would do. `fix` is the way out."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


def device_for(wanted: WantedAddress, found: FoundHost, others: Collection[str]) -> Interface:
    """The interface that an address belongs on. `others` are taken by other wires. UnclearError."""
    if wanted.device is not None:
        named = found.interface(wanted.device)
        if named is None:
            raise UnclearError(f"{found.node} has no interface {wanted.device}", f"it has {_names(found)}")
        default = found.default
        # A login over it is told by the plan, in its own words.
        logged_in = found.ssh_device == named.device and not found.login_stays
        taken = default is not None and default.device == named.device and not _on_the_wire(default, wanted)
        # A bridge of Thunderbolt cables may have caught a lease: there the default route is to go.
        if taken and not logged_in and wanted.medium != "thunderbolt":
            fix = "plug the cable into another interface, or take the default route away from this one first"
            raise UnclearError(f"{named.device} of {found.node} carries its default route", fix)
        return named
    if wanted.medium == "thunderbolt" and found.kind == "macos":
        bridge = found.interface(BRIDGE)
        if bridge is None:
            fix = "add it in System Settings, Network, Manage Virtual Interfaces, with the Thunderbolt ports as members"
            raise UnclearError(f"{found.node} has no Thunderbolt Bridge ({BRIDGE})", fix)
        return bridge
    fitting = [one for one in found.interfaces if one.kind == wanted.medium and one.device not in others]
    mine = [one for one in fitting if one.has(wanted.address) or _is_ours(one, wanted)]
    login = None if found.login_stays else found.ssh_device
    busy = {login, found.default.device if found.default else None}
    free = [one for one in fitting if one.device not in busy]
    for candidates in (mine, [one for one in free if one.up], free):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            what = f"{found.node} has several interfaces for it: {listed(one.device for one in candidates)}"
            raise UnclearError(
                what, f"write `interfaces: {{{found.node}: {candidates[0].device}}}`, or whichever it is"
            )
    seen = f"{found.node} has no {wanted.medium} interface that is free ({_names(found)})"
    if fitting:
        carries = f"{listed(one.device for one in fitting)} carries its default route or the login to it"
        raise UnclearError(
            f"{seen}: {carries}", "plug the cable into another interface, or take that away from it first"
        )
    raise UnclearError(seen, f"plug the cable in, or write `interfaces: {{{found.node}: ...}}`")


def device_on(network: Network, found: FoundHost) -> Interface | None:
    """The interface on a wire whose addresses a router hands out: by its address, else the only one of the kind."""
    subnet = ipaddress.ip_network(network.subnet) if network.subnet is not None else None
    if isinstance(subnet, ipaddress.IPv4Network):
        inside = [one for one in found.interfaces if one.kind != "loopback" and one.ipv4_in(subnet)]
        if len(inside) == 1:
            return inside[0]
    named = network.interfaces.get(found.node)
    if named is not None:
        return found.interface(named)
    kind = [one for one in found.interfaces if one.kind == network.medium and one.up]
    return kind[0] if len(kind) == 1 else None


def address_on(network: Network, found: FoundHost) -> str | None:
    """The address a machine has on such a wire right now."""
    one = device_on(network, found)
    if one is None:
        return None
    return _first_ipv4(one)


def dialled_on(network: Network, found: FoundHost, cluster: ClusterSpec) -> str | None:
    """The address where a machine is looked for on such a wire, to be dialled or measured; never one to be configured.

    As `address_on`; where neither subnet nor kind tells one, that of the interface with its default route, or else of
    the login: a router's Ethernet and its Wi-Fi are one LAN. Only if that is the one network of a router that the
    machine is on, and the interface on no other wire of the inventory.
    """
    address = address_on(network, found)
    if address is not None or network.subnet is not None or found.node in network.interfaces:
        return address
    mine = [one for one in cluster.networks if found.node in one.members]
    if [one for one in mine if one.medium == "wifi" or (one.medium == "ethernet" and not one.private)] != [network]:
        return None
    default = found.default
    for device in (default.device if default is not None else None, found.ssh_device):
        one = found.interface(device) if device is not None else None
        if one is not None and one.kind in _ROUTED and not any(_belongs(one, other, found.node) for other in mine):
            return _first_ipv4(one)
    return None


def _belongs(one: Interface, network: Network, node: str) -> bool:
    """Whether an interface is on a wire by the inventory's word: its device, or its subnet."""
    subnet = ipaddress.ip_network(network.subnet) if network.subnet is not None else None
    inside = isinstance(subnet, ipaddress.IPv4Network) and one.ipv4_in(subnet) is not None
    return inside or network.interfaces.get(node) == one.device


def _first_ipv4(one: Interface) -> str | None:
    addresses = [ipaddress.ip_interface(text.partition("%")[0]) for text in one.addresses]
    return next((str(a.ip) for a in addresses if a.version == 4 and not a.is_link_local), None)


def _on_the_wire(default: LiveRoute, wanted: WantedAddress) -> bool:
    return default.via is not None and ipaddress.IPv4Address(default.via) in wanted.subnet


def _is_ours(one: Interface, wanted: WantedAddress) -> bool:
    return any(own_device(p.name) == one.device and p.ipv4.address == wanted.address for p in one.profiles)


def _names(found: FoundHost) -> str:
    return listed(f"{one.device} ({one.kind})" for one in found.interfaces if one.kind != "loopback")
