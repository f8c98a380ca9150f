"""The ranks of a run before they know each other: which machine each is on, and whether the model fits there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.plan.types import MemoryEstimate
from smolcluster.plan.wires import Complaint
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.run import Participant, RunSpec

_MB = 1024 * 1024


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


def too_big(
    cluster: ClusterSpec, seats: Sequence[Seat], memory: Sequence[MemoryEstimate], strategy: str
) -> list[Complaint]:
    """Machines whose memory the model state alone exceeds."""
    smaller = "give it fewer layers in `stages`, " if strategy == "mp" else "a higher fsdp_stage, "
    problems: list[Complaint] = []
    for node in cluster.nodes:
        need = sum(memory[seat.rank].total_bytes for seat in seats if seat.node.name == node.name) / _MB
        if node.memory_mb is not None and need > node.memory_mb:
            what = f"the model's state needs {need:.0f} MB there, and it has {node.memory_mb}"
            fix = f"take a smaller model, {smaller}or leave the machine out with --nodes"
            problems.append((f"machines.{node.name}.memory_mb", what, fix))
    return problems
