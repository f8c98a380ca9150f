"""Where a packet goes in a network as it should be: hop by hop over addresses and routes, as the kernels would send it.

It knows nothing of how the routes were found, so it is also what they are tested with.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.network.values import Wanted, WantedHost, WantedRoute
from smolcluster.spec.cluster import ClusterSpec, Network
from smolcluster.spec.values import ip_of
from smolcluster.topology import Topology

_MOST_HOPS = 32


@dataclass(frozen=True)
class Journey:
    """The machines a packet passed, the sender first. `lost` tells why it did not arrive, and is empty if it did.

    `source` is the address it was sent from.
    """

    hops: tuple[str, ...]
    source: str
    lost: str = ""


@dataclass(frozen=True)
class _Place:
    """An address and the subnet it lies in; for a name only the subnet is known, or not even that."""

    text: str
    network: str
    subnet: ipaddress.IPv4Network | None


class Packets:
    """Pure: follows packets through one network."""

    def __init__(self, cluster: ClusterSpec, wanted: Wanted) -> None:
        self._topology = Topology(cluster)
        self._hosts = {host.node: host for host in wanted.hosts}
        self._places: dict[str, list[_Place]] = {host.node: [] for host in wanted.hosts}
        for network in cluster.networks:
            for node, text in network.members.items():
                if self._hosts[node].fabric == "routed" and network.medium == "thunderbolt":
                    subnet: ipaddress.IPv4Network | None = ipaddress.IPv4Network(f"{text}/32")
                else:
                    subnet = _subnet(network)
                self._places[node].append(_Place(text, network.name, subnet))
        for host in wanted.hosts:
            self._places[host.node] += [
                _Place(address.ip, f"{address.network}/{address.subnet}", address.subnet)
                for address in host.addresses
                if address.peer is not None
            ]

    def there(self, src: str, dst: str) -> Journey:
        """A packet from src to the address it dials for dst. NoRouteError where none is meant to lead."""
        return self.send(src, self._topology.address_of(src, dst))

    def there_and_back(self, src: str, dst: str) -> tuple[Journey, Journey]:
        """The packet and its answer, which goes to the address the packet was sent from; none leaves a machine for one
        that has the same address, as nodes that share a machine have."""
        out = self.there(src, dst)
        return out, out if out.lost or not out.source else self.send(dst, out.source)

    def send(self, src: str, text: str) -> Journey:
        """A packet from src to an address."""
        owner, place = self._owner(text)
        node, hops, source = src, [src], ""
        while node != owner:
            if node != src and not self._hosts[node].forwards:
                return Journey(tuple(hops), source, f"{node} does not forward")
            if len(hops) > _MOST_HOPS:
                return Journey(tuple(hops), source, "goes round")
            step = self._next(node, owner, place)
            if step is None:
                return Journey(tuple(hops), source, f"{node} has no route to {text}")
            node, leaves = step
            source = source or leaves
            hops.append(node)
        return Journey(tuple(hops), source)

    def _owner(self, text: str) -> tuple[str, _Place]:
        for node, places in self._places.items():
            for place in places:
                if place.text == text:
                    return node, place
        raise KeyError(text)

    def _next(self, node: str, owner: str, place: _Place) -> tuple[str, str] | None:
        """The next machine, and the own address on the wire it is reached over."""
        for mine in self._places[node]:
            if mine.network == place.network and (mine.subnet is None or mine.subnet.prefixlen < 32):
                return owner, mine.text
        route = _best(self._hosts[node], place)
        if route is None:
            return None
        via = ip_of(route.via)
        for mine in self._places[node]:
            # A name is on the route's wire; an address on the wire, or the cable of it, whose subnet it lies in.
            near = mine.network == route.network if via is None else mine.subnet is not None and via in mine.subnet
            if near:
                return route.gateway, mine.text
        return None


def _subnet(network: Network) -> ipaddress.IPv4Network | None:
    if network.subnet is None or ipaddress.ip_network(network.subnet).version != 4:
        return None
    return ipaddress.IPv4Network(network.subnet)


def _best(host: WantedHost, place: _Place) -> WantedRoute | None:
    """The route with the longest prefix that holds the address, or the whole subnet where there is only a name."""
    where = ipaddress.IPv4Network(f"{place.text}/32") if ip_of(place.text) is not None else place.subnet
    if where is None:
        return None
    # Where nobody can set routes there are none.
    routes: Sequence[WantedRoute] = host.routes if host.managed else ()
    fitting = [route for route in routes if where.subnet_of(ipaddress.IPv4Network(route.destination))]
    return max(fitting, key=lambda r: ipaddress.IPv4Network(r.destination).prefixlen, default=None)
