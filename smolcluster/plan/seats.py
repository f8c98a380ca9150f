"""The ranks of a run before they know each other: which machine each is on."""

from __future__ import annotations

from dataclasses import dataclass

from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.run import Participant, RunSpec


@dataclass(frozen=True)
class Seat:
    """One rank before it knows its peers: the participant, its machine and which of its ranks this is."""

    rank: int
    local_rank: int
    ranks_here: int
    participant: Participant
    node: Node


def seats_of(cluster: ClusterSpec, run: RunSpec) -> tuple[Seat, ...]:
    """Every rank's place. A machine's ranks follow each other; `single` has one rank whatever the machine holds."""
    seats: list[Seat] = []
    for participant in run.participants:
        node = cluster.node(participant.node)
        count = 1 if run.strategy == "single" or participant.role == "server" else node.ranks
        seats += [Seat(len(seats) + local, local, count, participant, node) for local in range(count)]
        if run.strategy == "single":
            break
    return tuple(seats)
