"""ClusterSpec (and how the Macs are cabled) -> the network as it should be: every address, every route, every way back.

The guide's own set, a route from each Pi to the Thunderbolt network, is not enough: an answer needs a way too, and so
do packets that come from another wire. Here each pair of machines that may talk is walked, both ways, and each machine
on the way gets the route it is found to need.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from smolcluster.network.fabric import RoutedFabric, has_cycle, routed_fabric
from smolcluster.network.values import DEFAULT_MTU, Cable, Fabric, Wanted, WantedAddress, WantedHost, WantedRoute
from smolcluster.network.ways import Ways
from smolcluster.spec.cluster import ClusterSpec, Network, Node
from smolcluster.spec.values import ip_of
from smolcluster.topology import NoRouteError, Topology


@dataclass
class _Needs:
    """What one machine was found to need: the wires it must reach, with the wire and the gateway to take."""

    wires: dict[str, tuple[str, str]] = field(default_factory=dict)


def is_set_here(network: Network) -> bool:
    """Whether network.yml sets the addresses of a wire: only on a private cable whose IPv4 subnet is given."""
    if network.medium not in ("thunderbolt", "ethernet") or not network.private or network.subnet is None:
        return False
    return ipaddress.ip_network(network.subnet).version == 4


def can_be_set(node: Node) -> bool:
    """Whether anything can be set on a machine: a tablet, and whatever nobody logs into, is left as it is."""
    return node.connection != "none" and node.kind != "ipados"


def wanted_network(
    cluster: ClusterSpec,
    cables: Sequence[Cable] | None = None,
    taken: Sequence[ipaddress.IPv4Network] = (),
) -> Wanted:
    """The network as it should be. `cables`: the Thunderbolt cables, None when nobody has looked (a chain is assumed).

    `taken` are subnets in use beside the inventory's (a home router's), which cables are not numbered from.
    """
    notes: list[str] = []
    fabrics = _fabrics(cluster, cables, taken, notes)
    notes += _left_alone(cluster)
    needs = _needs(cluster)
    _unreachable(cluster, needs, notes)
    relays = {hop_gateway for need in needs.values() for _, hop_gateway in need.wires.values()}
    hosts = tuple(_host(node, cluster, fabrics, needs, relays, cables) for node in cluster.nodes)
    return Wanted(cluster=cluster.name, hosts=hosts, notes=tuple(dict.fromkeys(notes)))


def _fabrics(
    cluster: ClusterSpec,
    cables: Sequence[Cable] | None,
    taken: Sequence[ipaddress.IPv4Network],
    notes: list[str],
) -> dict[str, RoutedFabric]:
    """The Thunderbolt wires that are cycles."""
    fabrics: dict[str, RoutedFabric] = {}
    used = [ipaddress.IPv4Network(n.subnet) for n in cluster.networks if n.subnet and ":" not in n.subnet]
    for network in cluster.networks:
        if network.medium != "thunderbolt" or not is_set_here(network):
            continue
        if cables is None:
            notes.append(
                f"network {network.name}: nobody has looked how it is cabled; taken for a chain, on one bridge"
            )
            continue
        mine = [c for c in cables if c.a.node in network.members and c.b.node in network.members]
        if not has_cycle(mine):
            continue
        fabric = routed_fabric(network, mine, (*used, *taken))
        if fabric is None:
            notes.append(f"network {network.name}: is cabled as a cycle, and no subnet near {network.subnet} is free")
            continue
        notes.append(f"network {network.name}: is cabled as a cycle, so it is routed; its cables lie in {fabric.pool}")
        used.append(fabric.pool)
        fabrics[network.name] = fabric
    return fabrics


def _left_alone(cluster: ClusterSpec) -> list[str]:
    """Addresses on private cables that nobody sets."""
    notes: list[str] = []
    for network in cluster.networks:
        cable = network.private and network.medium in ("thunderbolt", "ethernet")
        if cable and not is_set_here(network):
            notes.append(f"network {network.name}: has no IPv4 subnet, so its addresses are left as they are")
        for node, text in network.members.items() if cable and is_set_here(network) else ():
            if ip_of(text) is None:
                notes.append(
                    f"network {network.name}: {node} is known by a name there, so its address is left as it is"
                )
    return notes


def _needs(cluster: ClusterSpec) -> dict[str, _Needs]:
    """Walk every pair that may talk, there and back."""
    ways, topology = Ways(cluster), Topology(cluster)
    needs = {node.name: _Needs() for node in cluster.nodes}

    def lay(src: str, target: str) -> str | None:
        """Lay the way from src to a wire; the wire it leaves on."""
        first: str | None = None
        for hop in ways.walk(src, target):
            first = first or hop.network
            needs[hop.node].wires[target] = (hop.network, hop.gateway)
        return first

    for src in needs:
        for dst in needs:
            if src == dst:
                continue
            try:
                route = topology.route(src, dst)
            except NoRouteError:
                continue
            leaves = lay(src, route.networks[-1])
            if leaves is not None:
                # The answer goes to the address src sent from, which is the one on the wire it left on.
                lay(dst, leaves)
    return needs


def _unreachable(cluster: ClusterSpec, needs: dict[str, _Needs], notes: list[str]) -> None:
    """Say which routes cannot be given."""
    networks = {network.name: network for network in cluster.networks}
    for node in cluster.nodes:
        missing = sorted(name for name in needs[node.name].wires if networks[name].subnet is not None)
        if missing and not can_be_set(node):
            notes.append(
                f"{node.name}: nobody can set routes on it, so it and {', '.join(missing)} do not reach each other"
            )
        notes += [
            f"network {name}: has no subnet, so {node.name} cannot be given a route to it; add `subnet:`"
            for name in sorted(needs[node.name].wires)
            if networks[name].subnet is None
        ]


def _host(
    node: Node,
    cluster: ClusterSpec,
    fabrics: dict[str, RoutedFabric],
    needs: dict[str, _Needs],
    relays: set[str],
    cables: Sequence[Cable] | None,
) -> WantedHost:
    addresses: list[WantedAddress] = []
    fabric: Fabric | None = None
    kept: str | None = None
    for network in cluster.networks:
        own = network.members.get(node.name)
        if own is None or not is_set_here(network) or ip_of(own) is None:
            continue
        mtu = network.mtu or DEFAULT_MTU
        if network.name in fabrics:
            fabric, kept = "routed", own
            addresses += _cable_addresses(node.name, fabrics[network.name], mtu)
            continue
        if network.medium == "thunderbolt" and node.kind == "macos":
            fabric = "bridged"
        subnet = ipaddress.IPv4Network(str(network.subnet))
        addresses.append(
            WantedAddress(
                network=network.name,
                medium=network.medium,
                address=f"{own}/{subnet.prefixlen}",
                mtu=mtu,
                device=network.interfaces.get(node.name),
            )
        )
    routes = [*_fabric_routes(node.name, cluster, fabrics), *_routes(node.name, cluster, fabrics, needs)]
    ports = sorted({c.end(node.name).device for c in cables or () if node.name in (c.a.node, c.b.node)})
    return WantedHost(
        node=node.name,
        kind=node.kind,
        managed=can_be_set(node),
        forwards=node.name in relays or fabric == "routed",
        addresses=tuple(addresses),
        routes=tuple(sorted(routes, key=lambda r: (ipaddress.IPv4Network(r.destination), r.via))),
        fabric=fabric,
        kept_address=kept,
        bridge_ports=tuple(ports) if fabric is not None else (),
    )


def _cable_addresses(node: str, fabric: RoutedFabric, mtu: int) -> list[WantedAddress]:
    return [
        WantedAddress(
            network=fabric.network,
            medium="thunderbolt",
            address=f"{cable.address(node)}/{cable.subnet.prefixlen}",
            mtu=mtu,
            device=cable.cable.end(node).device,
            peer=cable.cable.other(node).node,
        )
        for cable in fabric.of(node)
    ]


def _fabric_routes(node: str, cluster: ClusterSpec, fabrics: dict[str, RoutedFabric]) -> list[WantedRoute]:
    """On a cycle: to every other Mac's kept address, and to every cable that is not plugged in here."""
    routes: list[WantedRoute] = []
    for network in cluster.networks:
        fabric = fabrics.get(network.name)
        if fabric is None or node not in network.members:
            continue
        for other, address in network.members.items():
            if other != node:
                routes += _over_cable(node, f"{address}/32", [other], fabric)
        for cable in fabric.cables:
            ends = (cable.cable.a.node, cable.cable.b.node)
            if node not in ends:
                routes += _over_cable(node, str(cable.subnet), ends, fabric)
    return routes


def _over_cable(node: str, destination: str, targets: Sequence[str], fabric: RoutedFabric) -> list[WantedRoute]:
    first = fabric.first_cable(node, targets)
    if first is None:
        return []
    other = first.cable.other(node).node
    return [
        WantedRoute(
            destination=destination,
            network=fabric.network,
            gateway=other,
            via=first.address(other),
            device=first.cable.end(node).device,
        )
    ]


def _routes(
    node: str, cluster: ClusterSpec, fabrics: dict[str, RoutedFabric], needs: dict[str, _Needs]
) -> list[WantedRoute]:
    """To the wires this machine is not on. A way over a cycle goes from Mac to Mac, each of which needs the route."""
    networks = {network.name: network for network in cluster.networks}
    mine = dict(needs[node].wires)
    for name in fabrics:
        if node in networks[name].members:
            for other in networks[name].members:
                for target, (over, gateway) in needs[other].wires.items():
                    # Whoever sends over the cycle may send through here.
                    if over == name and gateway != node and node not in networks[target].members:
                        mine.setdefault(target, (over, gateway))
    routes: list[WantedRoute] = []
    for target, (over, gateway) in mine.items():
        subnet = networks[target].subnet
        if subnet is None or ipaddress.ip_network(subnet).version != 4:
            continue
        destinations = [subnet]
        if target in fabrics:
            destinations.append(str(fabrics[target].pool))
        for destination in destinations:
            if over in fabrics:
                routes += _over_cable(node, destination, [gateway], fabrics[over])
            else:
                via = networks[over].members[gateway]
                routes.append(WantedRoute(destination=destination, network=over, gateway=gateway, via=via))
    return routes
