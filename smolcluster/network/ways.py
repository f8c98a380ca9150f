"""Next hops: from every machine to every wire, over the declared gateways, by the shortest path.

All machines use the same tree towards a wire, so hop after hop the distance falls: a packet cannot go round.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from smolcluster.spec.cluster import ClusterSpec
from smolcluster.topology.network import forwards

# Fewest gateways first, then the fastest slowest wire, then names: as Topology chooses an address.
_Cost = tuple[int, float, tuple[str, ...]]


@dataclass(frozen=True)
class Hop:
    """`node` sends over the wire `network` to `gateway`."""

    node: str
    network: str
    gateway: str


class Ways:
    """Pure: the same cluster gives the same ways."""

    def __init__(self, cluster: ClusterSpec) -> None:
        self._networks = {network.name: network for network in cluster.networks}
        self._forwards = forwards(cluster.networks)
        self._trees = {name: self._tree(name) for name in self._networks}

    def walk(self, src: str, target: str) -> Iterator[Hop]:
        """The hops from a machine to a wire; none if it is on it, or if nothing leads there."""
        node = src
        while node not in self._networks[target].members:
            hop = self._hop(node, target)
            if hop is None:
                return
            yield hop
            node = hop.gateway

    def _hop(self, node: str, target: str) -> Hop | None:
        tree = self._trees[target]
        mine = [
            (tree[name][0], name)
            for name, network in self._networks.items()
            if node in network.members and name in tree
        ]
        if not mine:
            return None
        _, network = min(mine)
        return Hop(node, network, tree[network][1])

    def _tree(self, target: str) -> dict[str, tuple[_Cost, str]]:
        """For every wire that leads to the target: what it costs, and the gateway to take from it."""
        found: dict[str, tuple[_Cost, str]] = {}
        speed = {name: network.speed_mbps for name, network in self._networks.items()}
        heap: list[tuple[_Cost, str]] = [((0, -speed[target], (target,)), "")]
        while heap:
            cost, gateway = heapq.heappop(heap)
            count, slowest, path = cost
            here = path[0]
            if here in found:
                continue
            found[here] = (cost, gateway)
            for name, through in self._forwards.get(here, ()):
                if name not in found:
                    heapq.heappush(heap, ((count + 1, max(slowest, -speed[name]), (name, *path)), through))
        return found
