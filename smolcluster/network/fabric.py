"""A Thunderbolt wire as its cables make it.

The Mac's Thunderbolt Bridge has no loop protection: on a cycle a single broadcast goes round for ever. So a chain (or
any graph without a cycle) is one subnet on the bridge, and a cycle is routed: the ports leave the bridge, every cable
is a /30 of its own, and each Mac keeps its address of the inventory as a host address: configs do not change.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smolcluster.network.values import Cable
from smolcluster.spec.cluster import Network

_POOL_PREFIX = 24


@dataclass(frozen=True)
class RoutedCable:
    """A cable and its /30: `a_address` is the first usable address, at end a."""

    cable: Cable
    subnet: ipaddress.IPv4Network

    def address(self, node: str) -> str:
        """That machine's address on the cable, without prefix."""
        return str(self.subnet[1] if self.cable.a.node == node else self.subnet[2])


@dataclass(frozen=True)
class RoutedFabric:
    """A cycle: its cables, numbered, and the subnet all of them lie in."""

    network: str
    pool: ipaddress.IPv4Network
    cables: tuple[RoutedCable, ...]

    def of(self, node: str) -> tuple[RoutedCable, ...]:
        """The cables of one machine."""
        return tuple(cable for cable in self.cables if node in (cable.cable.a.node, cable.cable.b.node))

    def first_cable(self, src: str, targets: Iterable[str]) -> RoutedCable | None:
        """The first cable on a shortest way from src to the nearest target; None if no cable leads there."""
        wanted = set(targets)
        seen = {src}
        queue: deque[tuple[str, RoutedCable | None]] = deque([(src, None)])
        while queue:
            node, first = queue.popleft()
            if node in wanted:
                return first
            for cable in self.of(node):
                other = cable.cable.other(node).node
                if other not in seen:
                    seen.add(other)
                    queue.append((other, first or cable))
        return None


def has_cycle(cables: Sequence[Cable]) -> bool:
    """Whether the cables close a loop anywhere; two cables between the same machines are one."""
    root: dict[str, str] = {}

    def find(node: str) -> str:
        while root.get(node, node) != node:
            node = root[node]
        return node

    for cable in cables:
        a, b = find(cable.a.node), find(cable.b.node)
        if a == b:
            return True
        root[a] = b
    return False


def uncabled(cables: Sequence[Cable], members: Sequence[str]) -> tuple[str, ...]:
    """The members that no chain of cables joins to the first one."""
    reached = {members[0]} if members else set()
    while True:
        more = {c.other(node).node for node in reached for c in cables if node in (c.a.node, c.b.node)} - reached
        if not more:
            return tuple(node for node in members if node not in reached)
        reached |= more


def routed_fabric(
    network: Network, cables: Sequence[Cable], taken: Sequence[ipaddress.IPv4Network]
) -> RoutedFabric | None:
    """Number the cables of a cycle out of the first /24 after the wire's own subnet that nothing else uses.

    None when the surrounding /16 has none left.
    """
    own = ipaddress.IPv4Network(str(network.subnet))
    around = own.supernet(new_prefix=16) if own.prefixlen > 16 else own
    pool = next(
        (
            candidate
            for candidate in around.subnets(new_prefix=_POOL_PREFIX)
            if candidate > own and not any(candidate.overlaps(other) for other in (own, *taken))
        ),
        None,
    )
    if pool is None:
        return None
    ordered = sorted(cables, key=lambda c: (c.a.node, c.b.node, c.a.device, c.b.device))
    numbered = tuple(RoutedCable(c, s) for c, s in zip(ordered, pool.subnets(new_prefix=30), strict=False))
    return RoutedFabric(network.name, pool, numbered)
