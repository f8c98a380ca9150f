"""What makes a network impossible before anything is planned: collisions, gateways that cannot forward, loose cables.

What the inventory alone shows (an address twice, a gateway that is not on both wires, wires that overlap) is refused
when it is read (spec/addresses.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from smolcluster.errors import Problem
from smolcluster.network.boot import unbridged_by
from smolcluster.network.fabric import uncabled
from smolcluster.network.found import FoundHost
from smolcluster.network.values import Cable
from smolcluster.network.wanted import can_be_set, is_set_here
from smolcluster.spec.cluster import ClusterSpec, Network
from smolcluster.spec.document import Document
from smolcluster.spec.problems import listed


def refuse(
    cluster: ClusterSpec, document: Document, found: Mapping[str, FoundHost], cables: Sequence[Cable] | None
) -> list[Problem]:
    """Everything wrong with the network as a whole, as Problems of the inventory's document."""
    problems = _gateways(cluster, document)
    for network in cluster.networks:
        if is_set_here(network):
            problems += _router(network, cluster, document, found)
            problems += _strangers(network, document, found)
    problems += _cabling(cluster, document, found, cables)
    return problems


def router_subnets(found: Mapping[str, FoundHost], cluster: ClusterSpec) -> dict[ipaddress.IPv4Network, str]:
    """The LANs of routers that machines have their default route to, with where each was seen.

    A machine of the inventory that shares its Internet connection over a cable is no router of this kind.
    """
    members = {text for network in cluster.networks if is_set_here(network) for text in network.members.values()}
    seen: dict[ipaddress.IPv4Network, str] = {}
    for host in found.values():
        default = host.default
        interface = host.interface(default.device) if default is not None else None
        if default is None or interface is None or default.via is None or default.via in members:
            continue
        for text in interface.addresses:
            mine = ipaddress.ip_interface(text.partition("%")[0])
            if isinstance(mine, ipaddress.IPv4Interface) and ipaddress.IPv4Address(default.via) in mine.network:
                seen.setdefault(mine.network, f"{host.node}'s {default.device}")
    return seen


def _gateways(cluster: ClusterSpec, document: Document) -> list[Problem]:
    problems = []
    for network in cluster.networks:
        for target, name in network.gateways.items():
            node = cluster.node(name)
            if not can_be_set(node) or node.kind == "windows":
                what = f"{name} cannot forward: " + (
                    "a Windows machine is not made a router here"
                    if node.kind == "windows"
                    else "nobody can log into it"
                )
                fix = "name a Mac or a Linux machine that is on both wires"
                problems.append(document.problem(("networks", network.name, "gateways", target), what, fix))
    return problems


def _router(
    network: Network, cluster: ClusterSpec, document: Document, found: Mapping[str, FoundHost]
) -> list[Problem]:
    subnet = ipaddress.IPv4Network(str(network.subnet))
    problems = []
    seen = router_subnets(found, cluster)
    for lan, where in seen.items():
        if lan.overlaps(subnet):
            what = f"{subnet} collides with the router's own network, {lan} (seen on {where})"
            free = _free(cluster, seen)
            fix = f"give the cable another subnet, {free} is free" if free else "give the cable another subnet"
            problems.append(document.problem(("networks", network.name, "subnet"), what, fix))
    return problems


def _free(cluster: ClusterSpec, seen: Mapping[ipaddress.IPv4Network, str]) -> ipaddress.IPv4Network | None:
    taken = [ipaddress.IPv4Network(n.subnet) for n in cluster.networks if n.subnet and ":" not in n.subnet]
    candidates = ipaddress.IPv4Network("192.168.0.0/16").subnets(new_prefix=24)
    return next((c for c in candidates if c.network_address.packed[2] >= 50 and not _any(c, [*taken, *seen])), None)


def _any(one: ipaddress.IPv4Network, others: Sequence[ipaddress.IPv4Network]) -> bool:
    return any(one.overlaps(other) for other in others)


def _strangers(network: Network, document: Document, found: Mapping[str, FoundHost]) -> list[Problem]:
    """An address of one machine that another has from a router: nothing we set could take it away."""
    problems = []
    for node, text in network.members.items():
        for host in found.values():
            for interface in host.interfaces if host.node != node else ():
                profile = interface.profile
                leased = profile is None or profile.ipv4.method not in ("manual", "off")
                if leased and any(address.partition("/")[0] == text for address in interface.addresses):
                    what = f"{text} is in use: {host.node}'s {interface.device} has it from a router"
                    fix = f"give {node} another address, or the cable another subnet"
                    problems.append(document.problem(("networks", network.name, "members", node), what, fix))
    return problems


def _cabling(
    cluster: ClusterSpec, document: Document, found: Mapping[str, FoundHost], cables: Sequence[Cable] | None
) -> list[Problem]:
    """Macs of a Thunderbolt wire that were asked, and that no cable joins to the first one."""
    if cables is None:
        return []
    problems = []
    for network in cluster.networks:
        if network.medium != "thunderbolt" or not is_set_here(network):
            continue
        members = [node for node in network.members if node in found and found[node].kind == "macos"]
        silent = [node for node in network.members if node not in found and cluster.node(node).kind == "macos"]
        routed = [node for node in members if unbridged_by(found[node].boot_text)]
        if silent and routed:
            # Without the silent one's cables a cycle looks like a chain; bridged as one, it would storm.
            what = f"is a cycle of cables on {listed(routed)}, and nobody knows whether it still is one: "
            what += f"{listed(silent)} was not asked"
            fix = "switch it on, or ask all Macs of this wire (-e nodes=)"
            problems.append(document.problem(("networks", network.name, "members", silent[0]), what, fix))
        loose = uncabled(cables, members)
        for node in loose:
            others = [member for member in members if member not in loose]
            what = f"no Thunderbolt cable joins {node} to {listed(others)}"
            fix = "plug one in (a Thunderbolt cable, not one for charging), or take it off this wire"
            problems.append(document.problem(("networks", network.name, "members", node), what, fix))
    return problems
