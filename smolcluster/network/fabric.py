"""How Macs share a Thunderbolt network, from the cables between them.

The Thunderbolt Bridge has no protection against loops. Where the cables have none (a chain, a star) it is one switched
network, and its subnet is that of the inventory. Where they have one, every cable is a network of its own, a /30, and
the Macs route: each keeps its address of the inventory as a host address, so that nothing else has to know.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import Network

_CABLE_PREFIX = 30


class CableEnd(Frozen):
    """Where a cable is plugged in."""

    node: str
    device: str


class Cable(Frozen):
    """One cable between two machines."""

    ends: tuple[CableEnd, CableEnd]


class CableAddress(Frozen):
    """An end's own address on its cable, as address/prefix, and the other end's."""

    node: str
    device: str
    address: str
    peer: str
    peer_address: str


class HostRoute(Frozen):
    """The way from one Mac to another's host address."""

    node: str
    target: str
    address: str
    via: str


class Fabric(Frozen):
    """`bridged`: one switched network, nothing more to do. `routed`: cables with addresses, and routes between hosts.

    `apart` are groups of machines with no cable between them; one group when all is well.
    """

    mode: Literal["bridged", "routed"]
    addresses: tuple[CableAddress, ...]
    routes: tuple[HostRoute, ...]
    apart: tuple[tuple[str, ...], ...]


def fabric_of(network: Network, cables: Iterable[Cable], pool: str | None = None) -> Fabric:
    """The fabric of these cables. `pool` is where their subnets come from, by default what follows the network's own.

    ValueError for a cable to a machine that is not on the network, and for a pool that is too small.
    """
    # Each cable is seen from either end: one order, so that the same cables get the same addresses.
    laid = sorted((_sorted(cable) for cable in cables), key=_key)
    for cable in laid:
        for end in cable.ends:
            if end.node not in network.members:
                raise ValueError(f"{end.node} has a cable of {network.name} but is not one of its members")
    groups = _groups(tuple(network.members), laid)
    if not _has_cycle(laid, groups):
        return Fabric(mode="bridged", addresses=(), routes=(), apart=groups)
    addresses = tuple(_number(laid, _subnets(network, pool)))
    return Fabric(mode="routed", addresses=addresses, routes=tuple(_ways(network, addresses)), apart=groups)


def _sorted(cable: Cable) -> Cable:
    one, other = sorted(cable.ends, key=lambda end: (end.node, end.device))
    return Cable(ends=(one, other))


def _key(cable: Cable) -> list[tuple[str, str]]:
    return [(end.node, end.device) for end in cable.ends]


def _groups(members: Sequence[str], cables: Sequence[Cable]) -> tuple[tuple[str, ...], ...]:
    """The members that cables hold together, in the inventory's order."""
    left = list(members)
    groups = []
    while left:
        reached = _reach(left[0], cables)
        groups.append(tuple(name for name in members if name in reached))
        left = [name for name in left if name not in reached]
    return tuple(groups)


def _reach(start: str, cables: Sequence[Cable]) -> set[str]:
    reached, edge = {start}, deque([start])
    while edge:
        here = edge.popleft()
        for cable in cables:
            names = {end.node for end in cable.ends}
            for name in names - reached if here in names else ():
                reached.add(name)
                edge.append(name)
    return reached


def _has_cycle(cables: Sequence[Cable], groups: Sequence[Sequence[str]]) -> bool:
    """Cables without a loop are exactly one fewer than the machines that they hold together."""
    return len(cables) > sum(len(group) - 1 for group in groups)


def _subnets(network: Network, pool: str | None) -> Iterator[ipaddress.IPv4Network]:
    if pool is None:
        if network.subnet is None:
            raise ValueError(f"{network.name} has no subnet, and without one there is no place for its cables'")
        own = ipaddress.IPv4Network(network.subnet)
        pool = str(ipaddress.IPv4Network((int(own.broadcast_address) + 1, own.prefixlen)))
    return ipaddress.IPv4Network(pool).subnets(new_prefix=_CABLE_PREFIX)


def _number(cables: Sequence[Cable], subnets: Iterator[ipaddress.IPv4Network]) -> Iterator[CableAddress]:
    for cable in cables:
        subnet = next(subnets, None)
        if subnet is None:
            raise ValueError(f"the pool has too few subnets for {len(cables)} cables")
        for mine, other in ((0, 1), (1, 0)):
            end, peer = cable.ends[mine], cable.ends[other]
            yield CableAddress(
                node=end.node,
                device=end.device,
                address=f"{subnet[1 + mine]}/{_CABLE_PREFIX}",
                peer=peer.node,
                peer_address=str(subnet[1 + other]),
            )


def _ways(network: Network, addresses: Sequence[CableAddress]) -> Iterator[HostRoute]:
    """From every Mac to every other's host address, over the fewest cables; of equal ways the first in order."""
    for node in network.members:
        first: dict[str, str] = {}
        edge = deque([node])
        while edge:
            here = edge.popleft()
            for end in addresses:
                if end.node == here and end.peer not in first and end.peer != node:
                    first[end.peer] = end.peer_address if here == node else first[here]
                    edge.append(end.peer)
        for target in network.members:
            if target in first:
                yield HostRoute(node=node, target=target, address=network.members[target], via=first[target])
