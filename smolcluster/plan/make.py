"""ClusterSpec and RunSpec -> Plan. Pure: no clock, no network, no environment; the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.arithmetic import memory_of, param_count
from smolcluster.plan.broken import fault_notes, fault_problems
from smolcluster.plan.hints import option_notes
from smolcluster.plan.ports import Listener, port_problems, ports_of
from smolcluster.plan.shares import shares
from smolcluster.plan.types import MemoryEstimate, Plan, RankPlan
from smolcluster.plan.wires import Complaint, Wires, choose_transport, choose_wire, wires_between
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.machines import is_raspberry_pi
from smolcluster.spec.run import STARS, CommSpec, Participant, RunSpec
from smolcluster.topology import Shape, Topology

SHAPES: dict[str, Shape] = {"edp": "STAR", "syncps": "STAR", "mp": "CHAIN"}
# The cores a rank may use where the inventory does not say: a Raspberry Pi's four, a Mac mini's performance cores.
DEFAULT_THREADS = 4
_MB = 1024 * 1024


@dataclass(frozen=True)
class Seat:
    """One rank before it knows its peers: the participant, its machine and which of its ranks this is."""

    rank: int
    local_rank: int
    ranks_here: int
    participant: Participant
    node: Node


def make_plan(
    cluster: ClusterSpec, run: RunSpec, notes: Sequence[str] = (), inputs: Mapping[str, str] | None = None
) -> Plan:
    """What every rank must do. ConfigError when machines cannot reach each other or the model does not fit."""
    seats = seats_of(cluster, run)
    shape = SHAPES.get(run.strategy, "MESH")
    wires = wires_between(
        Topology(cluster), [(s.node.name, s.participant.dials) for s in seats], shape, run.comm.encrypt
    )
    ports = ports_of([(seat.node.name, seat.participant.port) for seat in seats], wires.listen)
    world_size = len(seats)
    wire, wire_notes = choose_wire(run, wires)
    memory = tuple(memory_of(run, seat.rank, world_size, seat.participant.role, wire) for seat in seats)
    wanted = "smol" if run.strategy in STARS else run.comm.transport
    transport, wrong = choose_transport(wanted, [seat.node for seat in seats], wires)
    wrong += fault_problems(run, world_size, transport)
    listeners = [
        Listener(f"rank {seat.rank} ({seat.node.name})", seat.node.name, wires.listen[seat.rank], ports[seat.rank])
        for seat in seats
    ]
    problems = [*wires.problems, *wrong, *port_problems(listeners), *_too_big(cluster, seats, memory)]
    if problems:
        raise ConfigError(Problem(f"inventory {cluster.name}", 0, key, what, fix) for key, what, fix in problems)
    samples = _samples(run, seats)
    told = [*notes, *wires.notes, *wire_notes, *option_notes(run, [seat.node for seat in seats]), *fault_notes(run)]
    ranks = tuple(_rank(run, seat, wires, ports[seat.rank], samples[seat.rank]) for seat in seats)
    return Plan(
        schema=1,
        cluster=cluster.name,
        run=run,
        world_size=world_size,
        transport=transport,
        wire=wire,
        shape=shape,
        global_batch=sum(samples),
        ranks=ranks,
        params=param_count(run.model),
        memory=memory,
        notes=tuple(dict.fromkeys(told)),
        inputs=dict(sorted((inputs or {}).items())),
    )


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


def buffer_mb(node: Node, comm: CommSpec) -> float:
    """The chunk a link of that machine pipelines by, in MB: the file's, else by kind of machine."""
    if node.name in comm.buffer_mb:
        return comm.buffer_mb[node.name]
    if node.kind == "windows":
        return 1.0
    return 2.0 if is_raspberry_pi(node.name, node.kind) else 8.0


def _samples(run: RunSpec, seats: Sequence[Seat]) -> tuple[int, ...]:
    """Samples of one step. A star's server computes no gradients unless it is asked to; in a chain the first rank feeds
    everybody."""
    per_rank = run.training.batch_size
    if run.strategy == "mp":
        return (per_rank, *(0 for _ in seats[1:]))
    fixed = {s.rank: s.participant.batch_size for s in seats if s.participant.batch_size is not None}
    idle = "server" if not run.server_trains else None
    free = [s for s in seats if s.rank not in fixed and s.participant.role != idle]
    parts = shares(per_rank * len(free), [run.balance.get(s.node.name, 1.0) for s in free]) if free else ()
    taken = dict(zip((s.rank for s in free), parts, strict=True))
    return tuple(taken.get(s.rank, 0) + fixed.get(s.rank, 0) for s in seats)


def _rank(run: RunSpec, seat: Seat, wires: Wires, port: int, samples: int) -> RankPlan:
    return RankPlan(
        rank=seat.rank,
        node=seat.node.name,
        local_rank=seat.local_rank,
        role=seat.participant.role,
        device=seat.node.device,
        listen=wires.listen[seat.rank],
        port=port,
        peers=wires.peers[seat.rank],
        encrypt=wires.encrypt[seat.rank],
        samples=samples,
        buffer_mb=buffer_mb(seat.node, run.comm),
        threads=seat.node.threads or max(1, DEFAULT_THREADS // seat.ranks_here),
    )


def _too_big(cluster: ClusterSpec, seats: Sequence[Seat], memory: Sequence[MemoryEstimate]) -> list[Complaint]:
    """Machines whose memory the model state alone exceeds."""
    problems: list[Complaint] = []
    for node in cluster.nodes:
        need = sum(memory[seat.rank].total_bytes for seat in seats if seat.node.name == node.name) / _MB
        if node.memory_mb is not None and need > node.memory_mb:
            what = f"the model's state needs {need:.0f} MB there, and it has {node.memory_mb}"
            fix = "take a smaller model, a higher fsdp_stage, or leave the machine out with --nodes"
            problems.append((f"machines.{node.name}.memory_mb", what, fix))
    return problems
