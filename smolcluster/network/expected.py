"""What is measured: every pair that should reach each other, from which address to which, and over whom."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from smolcluster.network.found import FoundHost
from smolcluster.network.packets import Journey, Packets
from smolcluster.network.values import Wanted
from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.topology import NoRouteError, Route, Topology

MEASURED_SCHEMA = 1


class Pair(Frozen):
    """One direction. `passes` are the machines between the two, `networks` the wires, `speed_mbps` the slowest's."""

    src: str
    dst: str
    source: str
    destination: str
    passes: tuple[str, ...]
    networks: tuple[str, ...]
    speed_mbps: float
    mtu: int


class Untold(Frozen):
    """One direction that is meant and cannot be measured: nothing tells the address of `node`, one of the two, on the
    wire `network`; or, where `lost` says why, no packet gets there and back even in the network as it should be."""

    src: str
    dst: str
    node: str
    network: str
    lost: str = ""

    def __str__(self) -> str:
        why = self.lost or f"nothing tells {self.node}'s address on {self.network}"
        return f"{self.src} -> {self.dst}: not measured, {why}"


class Ping(Frozen):
    """What probe.py's ping found for one pair; all None when nothing came back."""

    src: str
    dst: str
    rtt_ms: float | None = None
    hops: tuple[str, ...] | None = None
    mtu: int | None = None


class Speed(Frozen):
    """What probe.py's measure found for one pair."""

    src: str
    dst: str
    rtt_ms: float | None = None
    mbps: float | None = None


class Measured(Frozen):
    """Everything measured. `neighbours[node]` maps addresses to the hardware address that answered there."""

    schema_: int = MEASURED_SCHEMA
    pings: tuple[Ping, ...] = ()
    speeds: tuple[Speed, ...] = ()
    neighbours: dict[str, dict[str, str]] = {}  # noqa: RUF012 - pydantic copies defaults


def expected_pairs(cluster: ClusterSpec, wanted: Wanted, found: dict[str, FoundHost] | None = None) -> tuple[Pair, ...]:
    """All ordered pairs of machines that can be logged into and should reach each other, in the inventory's order."""
    mtu = {address.network: address.mtu for host in wanted.hosts for address in host.addresses}
    return tuple(
        Pair(
            src=route.src,
            dst=route.dst,
            source=out.source,
            destination=route.host,
            passes=out.hops[1:-1],
            networks=route.networks,
            speed_mbps=route.speed_mbps,
            mtu=min(mtu.get(name, 1500) for name in route.networks),
        )
        for route, out, back in _meant(cluster, wanted, found)
        if out.source and not out.lost and not back.lost
    )


def lost_pairs(cluster: ClusterSpec, wanted: Wanted, found: dict[str, FoundHost] | None = None) -> tuple[Untold, ...]:
    """Those that the inventory's gateways would join, but for something that no route can be set without (a subnet)."""
    return tuple(
        Untold(src=route.src, dst=route.dst, node=route.src, network=route.networks[-1], lost=out.lost or back.lost)
        for route, out, back in _meant(cluster, wanted, found)
        if out.lost or back.lost
    )


def _meant(
    cluster: ClusterSpec, wanted: Wanted, found: dict[str, FoundHost] | None
) -> Iterator[tuple[Route, Journey, Journey]]:
    """Every way that a run would dial, with the packet's journey there and its answer's back."""
    packets, topology = Packets(cluster, wanted), Topology(cluster)
    asked = [host.node for host in wanted.hosts if host.managed and (found is None or host.node in found)]
    for src, dst in permutations(asked, 2):
        try:
            route = topology.route(src, dst)
        except NoRouteError:
            continue
        yield route, *packets.there_and_back(src, dst)
