"""The inventory's wires -> what every machine needs: addresses, forwarding, and the routes there *and back*.

A packet that finds its way is half of a connection; the answer needs a route too, on a machine that may be two wires
away. So every machine gets a way to every wire that one of the declared gateways leads to, by the same choice as
`Topology.route` makes for those that dial: fewest gateways, then the fastest slowest wire.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from itertools import permutations

from smolcluster.network.types import Gap, HostWanted, Interface, NetworkWanted, RouteWanted
from smolcluster.spec.cluster import ClusterSpec, Network, Node
from smolcluster.spec.values import ip_of
from smolcluster.topology import NoRouteError, Topology


def wanted_network(
    cluster: ClusterSpec, *, between_edges: bool = True, addresses: Mapping[str, str] | None = None
) -> NetworkWanted:
    """The wanted state. `addresses` are what names of the inventory (mini1.local) were found to be.

    `between_edges` says whether machines at the ends (a Pi behind a Mac) may reach the ends behind other machines.
    """
    topology = Topology(cluster)
    known = addresses or {}
    forwarding = {gateway for network in cluster.networks for gateway in network.gateways.values()}
    hosts = tuple(
        HostWanted(
            node=node.name,
            kind=node.kind,
            interfaces=tuple(_interfaces(cluster, node.name, known)),
            forwards=node.name in forwarding,
            routes=tuple(_routes(cluster, topology, node.name, between_edges, known)),
        )
        for node in cluster.nodes
        if _can_be_set_up(node)
    )
    gaps = _gaps(cluster, topology, hosts, between_edges)
    return NetworkWanted(cluster=cluster.name, hosts=hosts, gaps=tuple(gaps))


def edges(cluster: ClusterSpec) -> frozenset[str]:
    """The wires at the ends: declared gateways lead out of them and nothing leads through them."""
    through = {target for network in cluster.networks for target in network.gateways}
    return frozenset(network.name for network in cluster.networks if network.gateways and network.name not in through)


def _can_be_set_up(node: Node) -> bool:
    """A tablet, or whoever nobody logs into, keeps the network it has."""
    return node.kind != "ipados" and node.connection != "none"


def _interfaces(cluster: ClusterSpec, node: str, known: Mapping[str, str]) -> list[Interface]:
    found = []
    for network in cluster.networks:
        if node not in network.members or network.medium == "loopback":
            continue
        said = network.members[node]
        # A private wire is a cable between one's own machines: nobody else hands addresses out there.
        managed = network.private and network.subnet is not None and ip_of(said) is not None
        prefix = ipaddress.ip_network(network.subnet).prefixlen if network.subnet is not None else None
        found.append(
            Interface(
                network=network.name,
                medium=network.medium,
                address=known.get(said, said),
                prefix=prefix,
                managed=managed,
            )
        )
    return found


def _routes(
    cluster: ClusterSpec, topology: Topology, node: str, between_edges: bool, known: Mapping[str, str]
) -> list[RouteWanted]:
    ends = edges(cluster)
    apart = not between_edges and _at_an_end(cluster, node)
    found = []
    for network in cluster.networks:
        if node in network.members or network.subnet is None or network.medium == "loopback":
            continue
        if apart and network.name in ends:
            continue
        way = topology.way_to(node, network.name)
        if way is None:
            continue
        wires, gateways = way
        said = _network(cluster, wires[0]).members[gateways[0]]
        found.append(
            RouteWanted(
                network=network.name,
                subnet=network.subnet,
                over=wires[0],
                via=known.get(said, said),
                gateway=gateways[0],
            )
        )
    return found


def _at_an_end(cluster: ClusterSpec, node: str) -> bool:
    """Whether all wires of a machine are at the ends: a Pi's are, those of the Mac that it is plugged into are not."""
    mine = [network.name for network in cluster.networks if node in network.members]
    return bool(mine) and edges(cluster).issuperset(mine)


def _gaps(cluster: ClusterSpec, topology: Topology, hosts: tuple[HostWanted, ...], between_edges: bool) -> list[Gap]:
    """Pairs with a way in the inventory that no set of routes makes work both ways; not those kept apart on purpose."""
    by_name = {host.node: host for host in hosts}
    found = []
    for src, dst in permutations([node.name for node in cluster.nodes], 2):
        try:
            route = topology.route(src, dst)
        except NoRouteError:
            continue
        if not route.gateways or (not between_edges and _at_an_end(cluster, src) and _at_an_end(cluster, dst)):
            continue
        why = _broken(cluster, by_name, src, dst, route.networks)
        if why:
            found.append(Gap(src=src, dst=dst, why=why))
    return found


def _broken(cluster: ClusterSpec, hosts: Mapping[str, HostWanted], src: str, dst: str, wires: tuple[str, ...]) -> str:
    """Why a packet over these wires, or its answer, does not arrive; empty when both do."""
    for node, wire in ((src, wires[-1]), (dst, wires[0])):
        network = _network(cluster, wire)
        if node in network.members:
            continue
        if network.subnet is None:
            return f"the network {wire} has no subnet, so no route to it can be set"
        if node not in hosts:
            return f"{node} cannot be given a route to {wire}, because nobody logs into it"
        if wire not in {route.network for route in hosts[node].routes}:
            return f"{node} has no route to {wire}"
    return ""


def _network(cluster: ClusterSpec, name: str) -> Network:
    return next(network for network in cluster.networks if network.name == name)
