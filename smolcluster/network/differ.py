"""Wanted against found: what has to be done. Nothing where all is as it should be, so a second run changes nothing.

It asks for no more than the inventory does: an address, a route or forwarding that is there besides stays, unless a
state that was set up before (`before`) had it and the wanted one has not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from smolcluster.network.found import FoundHost
from smolcluster.network.types import Change, HostWanted, Interface, NetworkWanted, RouteWanted


def changes(
    wanted: NetworkWanted, found: Iterable[FoundHost], before: NetworkWanted | None = None
) -> tuple[Change, ...]:
    """What has to be done on the machines that were looked at, in the inventory's order, addresses first.

    KeyError for a machine that the wanted state does not have.
    """
    seen = {host.node: host for host in found}
    for node in seen:
        wanted.host(node)
    old = {host.node: host for host in before.hosts} if before is not None else {}
    return tuple(
        change
        for host in wanted.hosts
        if host.node in seen
        for change in _host_changes(host, seen[host.node], old.get(host.node))
    )


def _host_changes(wanted: HostWanted, found: FoundHost, before: HostWanted | None) -> list[Change]:
    todo = [change for interface in wanted.interfaces for change in _address(wanted.node, interface, found)]
    todo += _stale_addresses(wanted, found, before)
    if wanted.forwards != found.forwards and (wanted.forwards or (before is not None and before.forwards)):
        words = {True: "on", False: "off"}
        todo.append(_change(wanted.node, "forwarding", "IPv4", words[wanted.forwards], words[found.forwards]))
    todo += [change for route in wanted.routes for change in _route(wanted.node, route, found)]
    return todo + _stale_routes(wanted, found, before)


def _address(node: str, interface: Interface, found: FoundHost) -> list[Change]:
    if not interface.managed:
        return []
    asked = f"{interface.address}/{interface.prefix}"
    subnet = ipaddress.ip_interface(asked).network
    there = [str(each) for device in found.interfaces for each in device.interfaces()]
    if asked in there:
        return []
    # Another address on the same wire, or this one with another mask, is what has to give way.
    near = [each for each in there if ipaddress.ip_interface(each).ip in subnet]
    return [_change(node, "address", interface.network, asked, near[0] if near else "")]


def _stale_addresses(wanted: HostWanted, found: FoundHost, before: HostWanted | None) -> list[Change]:
    """Addresses that were set up before on wires that the machine is no longer on."""
    kept = {interface.network for interface in wanted.interfaces}
    there = [str(each) for device in found.interfaces for each in device.interfaces()]
    return [
        _change(wanted.node, "address", interface.network, "", f"{interface.address}/{interface.prefix}")
        for interface in (before.interfaces if before is not None else ())
        if interface.managed and interface.network not in kept and f"{interface.address}/{interface.prefix}" in there
    ]


def _route(node: str, route: RouteWanted, found: FoundHost) -> list[Change]:
    there = [each.via for each in found.routes if _same(each.subnet, route.subnet)]
    if route.via in there:
        return []
    return [_change(node, "route", route.subnet, f"via {route.via}", f"via {there[0]}" if there else "")]


def _stale_routes(wanted: HostWanted, found: FoundHost, before: HostWanted | None) -> list[Change]:
    """Routes that were set up before to wires that the machine shall no longer reach."""
    kept = {route.subnet for route in wanted.routes}
    return [
        _change(wanted.node, "route", route.subnet, "", f"via {route.via}")
        for route in (before.routes if before is not None else ())
        if route.subnet not in kept
        and any(_same(each.subnet, route.subnet) and each.via == route.via for each in found.routes)
    ]


def _same(one: str, other: str) -> bool:
    return ipaddress.ip_network(one, strict=False) == ipaddress.ip_network(other, strict=False)


def _change(node: str, what: str, key: str, wanted: str, found: str) -> Change:
    return Change.model_validate({"node": node, "what": what, "key": key, "wanted": wanted, "found": found})
