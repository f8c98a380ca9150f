"""Routes between machines: the fastest wire both share, else through declared gateways.

It knows the wires of the inventory and nothing of the machines' real routing tables: that a gateway forwards, and that
the way back is known there, is what network.yml sets up and verifies.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from smolcluster.spec.cluster import ClusterSpec, Medium, Network
from smolcluster.spec.machines import is_raspberry_pi

_LOCAL_HOST = "127.0.0.1"
_LOCAL_MBPS = 10000.0


class NoRouteError(LookupError):
    """No wire joins two machines, and no gateway leads from one to the other, or none may. `fix` is the way out."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


@dataclass(frozen=True)
class Route:
    """How `src` reaches `dst`: the host it dials, the wires passed in order, the gateways between them.

    `speed_mbps` is the slowest wire's; `exposed` are the wires that others may be on; `medium` is the last one's.
    """

    src: str
    dst: str
    host: str
    networks: tuple[str, ...]
    gateways: tuple[str, ...]
    speed_mbps: float
    exposed: tuple[str, ...]
    medium: Medium

    @property
    def private(self) -> bool:
        """Whether nobody else is on any wire of the way."""
        return not self.exposed


class Topology:
    """Reachability of one cluster. Pure: the same cluster gives the same routes."""

    def __init__(self, cluster: ClusterSpec) -> None:
        self._networks = {network.name: network for network in cluster.networks}
        self._nodes = {node.name for node in cluster.nodes}
        self._forwards = forwards(cluster.networks)
        self._apart = _pis(cluster) if not cluster.pis_reach_each_other else frozenset()

    def address_of(self, src: str, dst: str) -> str:
        """The address `src` dials to reach `dst`. NoRouteError when there is none, KeyError for an unknown machine."""
        return self.route(src, dst).host

    def route(self, src: str, dst: str) -> Route:
        """The best route: fewest gateways, then the fastest slowest wire, then the inventory's order of names."""
        for name in (src, dst):
            if name not in self._nodes:
                raise KeyError(name)
        if src == dst:
            return self._within(src)
        best = self._search(src, dst)
        if best is None:
            what = f"no wire joins {src} and {dst}, and no gateway leads from one to the other"
            raise NoRouteError(what, "put both on a network, or give a network `gateways: {other_network: machine}`")
        wires, gateways = best
        if gateways and {src, dst} <= self._apart:
            what = f"{src} and {dst} may not reach each other: network.pis_reach_each_other is false"
            raise NoRouteError(what, "write `network: {pis_reach_each_other: true}`")
        passed = [self._networks[name] for name in wires]
        return Route(
            src=src,
            dst=dst,
            host=passed[-1].members[dst],
            networks=wires,
            gateways=gateways,
            speed_mbps=min(wire.speed_mbps for wire in passed),
            exposed=tuple(wire.name for wire in passed if not wire.private),
            medium=passed[-1].medium,
        )

    def _within(self, node: str) -> Route:
        """Ranks of one machine talk over its loopback."""
        loopbacks = [n for n in self._networks.values() if n.medium == "loopback" and node in n.members]
        host = loopbacks[0].members[node] if loopbacks else _LOCAL_HOST
        names = tuple(network.name for network in loopbacks[:1])
        return Route(node, node, host, names, (), _LOCAL_MBPS, (), "loopback")

    def _search(self, src: str, dst: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Dijkstra over wires by (number of wires, -slowest speed, names): deterministic, and short ways first."""
        heap: list[tuple[int, float, tuple[str, ...], tuple[str, ...]]] = []
        for network in self._networks.values():
            if src in network.members:
                heapq.heappush(heap, (1, -network.speed_mbps, (network.name,), ()))
        while heap:
            count, slowest, wires, gateways = heapq.heappop(heap)
            here = wires[-1]
            if dst in self._networks[here].members:
                return wires, gateways
            for target, gateway in self._forwards.get(here, ()):
                if target not in wires and gateway not in (src, *gateways):
                    speed = max(slowest, -self._networks[target].speed_mbps)
                    heapq.heappush(heap, (count + 1, speed, (*wires, target), (*gateways, gateway)))
        return None


def _pis(cluster: ClusterSpec) -> frozenset[str]:
    return frozenset(node.name for node in cluster.nodes if is_raspberry_pi(node.name, node.kind))


def forwards(networks: tuple[Network, ...]) -> dict[str, tuple[tuple[str, str], ...]]:
    """For every wire the wires it leads to and through whom. A gateway forwards both ways."""
    pairs: dict[str, set[tuple[str, str]]] = {}
    for network in networks:
        for target, gateway in network.gateways.items():
            pairs.setdefault(network.name, set()).add((target, gateway))
            pairs.setdefault(target, set()).add((network.name, gateway))
    return {name: tuple(sorted(found)) for name, found in pairs.items()}
