"""The wires of a plan: whom each rank dials under which address, where it listens, what is encrypted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from smolcluster.plan.encryption import Encryption, encryption_notes
from smolcluster.spec.cluster import Node
from smolcluster.spec.run import DATA_PARALLEL, STARS, RunSpec, WireFormat
from smolcluster.topology import NoRouteError, Route, Shape, Topology, neighbours

Complaint = tuple[str, str, str]  # key, what, fix
# Measured (python -m benchmarks.formats: three ranks on shaped links, two cores for all): int8 makes classicdp faster
# below about 2.8 Gbit/s, 1.00x at 2.5, 1.21x at 1 and 1.64x at 0.5; above, backward hides fp32 too, and all are alike.
INT8_PAYS_MBPS = 2500.0


@dataclass
class Wires:
    """By rank. `private` tells whether every wire used is, `routes` are all ways that are used, in order of ranks."""

    listen: list[tuple[str, ...]] = field(default_factory=list)
    peers: list[dict[int, str]] = field(default_factory=list)
    encrypt: list[dict[int, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Complaint] = field(default_factory=list)
    private: bool = True
    routes: tuple[Route, ...] = ()

    @property
    def encrypted(self) -> bool:
        """Whether any link is."""
        return any(any(links.values()) for links in self.encrypt)


def wires_between(
    topology: Topology,
    seats: Sequence[tuple[str, str | None]],
    shape: Shape,
    encryption: Encryption,
) -> Wires:
    """Routes of every pair that talks. `seats` holds, by rank, the machine and the address its file says it dials."""
    dials = [neighbours(shape, rank, len(seats)) for rank in range(len(seats))]
    wires, routes = _routed(topology, [node for node, _ in seats], dials, encryption)
    wires.notes[:0] = _dial_notes(seats, routes)
    wires.listen = [listen or ("127.0.0.1",) for listen in wires.listen]
    return wires


def serving_wires(topology: Topology, nodes: Sequence[str], encryption: Encryption) -> Wires:
    """Routes of a served model. `nodes` are its stages' machines in order, and last the API's.

    Neighbours talk, all talk with the head, and the API dials the head and nobody else. Stages that are no neighbours
    become ones where what lies between them is lost: where they cannot, that is only noted.
    """
    api = len(nodes) - 1
    stages = range(api)
    dials = [tuple(other for other in stages if other != rank) for rank in stages]
    spare = {(a, b) for a in stages for b in stages if abs(a - b) > 1 and 0 not in (a, b)}
    return _routed(topology, nodes, [*dials, (0,)], encryption, spare)[0]


def _routed(
    topology: Topology,
    nodes: Sequence[str],
    dials: Sequence[Sequence[int]],
    encryption: Encryption,
    spare: Collection[tuple[int, int]] = (),
) -> tuple[Wires, dict[tuple[int, int], Route]]:
    """The wires of ranks on those machines, where rank r may dial `dials[r]`; without a `spare` one it goes."""
    wires = Wires()
    routes: dict[tuple[int, int], Route] = {}
    told: set[frozenset[int]] = set()
    for rank, node in enumerate(nodes):
        for peer in dials[rank]:
            try:
                routes[rank, peer] = topology.route(node, nodes[peer])
            except NoRouteError as error:
                # Routes are symmetric: one complaint for a pair.
                pair = frozenset((rank, peer))
                if pair in told:
                    continue
                told.add(pair)
                if (rank, peer) in spare:
                    wires.notes.append(f"{error}: if all stages between theirs are lost, so is one of the two")
                else:
                    wires.problems.append(("networks", str(error), error.fix))
    for rank in range(len(nodes)):
        mine = {peer: route for (src, peer), route in routes.items() if src == rank}
        dialled = {src: route for (src, dst), route in sorted(routes.items()) if dst == rank}
        wires.peers.append({peer: route.host for peer, route in sorted(mine.items())})
        # A link is one thing to both its ends, whoever dials and whatever the way back is.
        ways = {peer: [way for way in (mine.get(peer), dialled.get(peer)) if way] for peer in sorted(mine | dialled)}
        wires.encrypt.append({peer: any(map(encryption.covers, both)) for peer, both in ways.items()})
        wires.listen.append(tuple(dict.fromkeys(route.host for route in dialled.values())))
    wires.private = all(route.private for route in routes.values())
    wires.routes = tuple(routes.values())
    wires.notes += encryption_notes(encryption, wires.routes)
    return wires, routes


def _dial_notes(seats: Sequence[tuple[str, str | None]], routes: dict[tuple[int, int], Route]) -> list[str]:
    """host_ip entries that the inventory's wires contradict."""
    notes: list[str] = []
    for rank, (node, dials) in enumerate(seats):
        route = routes.get((rank, 0))
        if dials is not None and route is not None and dials != route.host:
            why = f"the inventory's way from {node} to {route.dst} is {' and '.join(route.networks)}"
            notes.append(f"host_ip.{node}: said {dials}, taken: {route.host} ({why})")
    return notes


def choose_transport(
    wanted: Literal["smol", "gloo", "auto"], nodes: Sequence[Node], wires: Wires
) -> tuple[Literal["smol", "gloo"], list[Complaint]]:
    """gloo only where all machines share an OS family and nobody else is on the wires: it has no authentication."""
    kinds = sorted({node.kind for node in nodes})
    if wanted == "smol":
        return "smol", []
    if wanted == "auto":
        return ("gloo" if len(kinds) == 1 and wires.private and not wires.encrypted else "smol"), []
    problems: list[Complaint] = []
    if len(kinds) > 1:
        what = f"gloo cannot join {' and '.join(kinds)}: a gloo group cannot span operating systems"
        problems.append(("transport", what, "use transport: smol"))
    if not wires.private:
        what = "gloo neither authenticates nor encrypts, and not every wire of this run is private"
        problems.append(("transport", what, "use transport: smol, or declare the network `private: true`"))
    elif wires.encrypted:
        what = "gloo does not encrypt, and encrypt: always asks for it"
        problems.append(("transport", what, "use transport: smol, or encrypt: auto"))
    return "gloo", problems


class Claims(Protocol):
    """How fast a way is: plan/speeds.py."""

    def claimed(self, route: Route) -> tuple[float, bool]:
        """Mbit/s, and whether they were measured."""
        ...


def choose_wire(run: RunSpec, wires: Wires, speeds: Claims) -> tuple[WireFormat, list[str]]:
    """The wire format, and why where the plan chose it: int8 where the slowest way between two ranks is slow enough."""
    wanted = run.comm.wire
    if run.strategy in STARS and run.use_quantization:
        other = f"wire {wanted}: use_quantization says int8, and that was taken"
        return "int8", [other] if wanted not in ("fp32", "auto", "int8") else []
    if not _sums_gradients(run):
        idle = f"wire {wanted}: {run.strategy} has no gradients that ranks sum, so this does nothing"
        return "fp32", [idle] if wanted not in ("fp32", "auto") else []
    if wanted != "auto" or not wires.routes:
        return format_for(run, None), []
    slowest = min(wires.routes, key=lambda route: (speeds.claimed(route)[0], route.src, route.dst))
    mbps, measured = speeds.claimed(slowest)
    wire = format_for(run, mbps)
    side = "below" if wire == "int8" else "not below"
    way = f"{slowest.src} to {slowest.dst} over {' and '.join(slowest.networks) or 'its loopback'}"
    said = f"the slowest way of this run, {way}, has {mbps:.0f} Mbit/s{', as measured' if measured else ''}"
    return wire, [f"wire auto: {wire}, since {said}, {side} the {INT8_PAYS_MBPS:.0f} under which int8 pays"]


def _sums_gradients(run: RunSpec) -> bool:
    """Whether gradients of this run are summed over ranks, or go to a server: they have a wire format."""
    return run.strategy in (*DATA_PARALLEL, *STARS) or run.replicas > 1


def format_for(run: RunSpec, slowest_mbps: float | None) -> WireFormat:
    """The wire format where the slowest way has so many Mbit/s; None where there is none."""
    if not _sums_gradients(run):
        return "fp32"
    if run.strategy in STARS and run.use_quantization:
        return "int8"
    if run.comm.wire != "auto":
        return run.comm.wire
    return "int8" if slowest_mbps is not None and slowest_mbps < INT8_PAYS_MBPS else "fp32"
