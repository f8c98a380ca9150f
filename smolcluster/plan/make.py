"""ClusterSpec and RunSpec -> Plan. Pure: no clock, no network, no environment; the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.arithmetic import memory_of, param_count
from smolcluster.plan.balance import Options, advice, balance_notes, choose_nodes, samples_of, speed_problems
from smolcluster.plan.broken import fault_notes, fault_problems
from smolcluster.plan.encryption import Encryption
from smolcluster.plan.exporters import exporter_listeners
from smolcluster.plan.hints import option_notes
from smolcluster.plan.layout import Layout, lay_out, layout_notes_of
from smolcluster.plan.pipeline import share_of_memory, speeds_of
from smolcluster.plan.ports import Listener, port_problems, ports_of
from smolcluster.plan.profile import Profile, differences, unmeasured
from smolcluster.plan.room import too_big
from smolcluster.plan.seats import Seat, seats_of
from smolcluster.plan.speeds import Speeds
from smolcluster.plan.types import Plan, RankPlan
from smolcluster.plan.wires import Wires, choose_transport, choose_wire, wires_between
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.machines import is_raspberry_pi
from smolcluster.spec.run import PREDICTED, STARS, CommSpec, RunSpec
from smolcluster.topology import NoRouteError, Shape, Topology

SHAPES: dict[str, Shape] = {"edp": "STAR", "syncps": "STAR", "mp": "CHAIN"}
# The cores a rank may use where the inventory does not say: a Raspberry Pi's four, a Mac mini's performance cores.
DEFAULT_THREADS = 4


def make_plan(
    cluster: ClusterSpec,
    run: RunSpec,
    notes: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
    profile: Profile | None = None,
    ca: str = "",
) -> Plan:
    """What every rank must do. ConfigError when machines cannot reach each other or the model does not fit.

    `profile` has measured speeds: what is left to them ("auto") is decided, and how long a step takes predicted.
    `ca` is the fingerprint of the cluster's authority, "" where it has no certificates.
    """
    where = f"inventory {cluster.name}"
    topology = Topology(cluster)
    speeds = Speeds(topology, profile)
    unknown = speed_problems(cluster, run, profile)
    if unknown:
        raise ConfigError(Problem(where, 0, key, what, fix) for key, what, fix in unknown)
    options = _options(cluster, run, speeds)
    total: int | None = None
    chosen: list[str] = []
    if run.choose_nodes and options is not None:
        total = options.total
        run, chosen = choose_nodes(options, run)
    seats = seats_of(cluster, run)
    layout, layout_notes = _laid_out(run, seats, speeds)
    if layout is not None:
        seats = layout.seats
    shape = SHAPES.get(run.strategy, "MESH")
    # The ends of a chain talk too: about a tied embedding, the whole gradient's norm, the model that is saved.
    met: Shape = "MESH" if shape == "CHAIN" else shape
    encryption = Encryption(run.comm.encrypt, ca)
    wires = wires_between(topology, [(s.node.name, s.participant.dials) for s in seats], met, encryption)
    ports = ports_of([(seat.node.name, seat.participant.port) for seat in seats], wires.listen)
    world_size = len(seats)
    wire, wire_notes = choose_wire(run, wires, speeds)
    stages = layout.stages if layout is not None else ()
    memory = tuple(memory_of(run, seat.rank, world_size, seat.participant.role, wire, stages) for seat in seats)
    # What comes at no known time is heard of over our own links alone (spec/staleness.py).
    wanted = "smol" if run.strategy in STARS or run.staleness_bound else run.comm.transport
    transport, wrong = choose_transport(wanted, [seat.node for seat in seats], wires)
    wrong += fault_problems(run, world_size, transport)
    listeners = [
        Listener(f"rank {seat.rank} ({seat.node.name})", seat.node.name, wires.listen[seat.rank], ports[seat.rank])
        for seat in seats
    ]
    places = [(seat.node.name, wires.listen[seat.rank]) for seat in seats]
    listeners += exporter_listeners(places, run.comm.metrics_port)
    problems = [*wires.problems, *wrong, *port_problems(listeners), *too_big(cluster, run, seats, memory)]
    if problems:
        raise ConfigError(Problem(where, 0, key, what, fix) for key, what, fix in problems)
    samples = layout.samples_by_rank if layout is not None else samples_of(run, seats, profile, total)
    told = [
        *notes,
        *layout_notes,
        *wires.notes,
        *chosen,
        *balance_notes(cluster, run, seats, samples, profile),
        *wire_notes,
        *(advice(options, run) if options is not None else ()),
        *option_notes(run, [seat.node for seat in seats]),
        *fault_notes(run),
    ]
    ranks = tuple(_rank(run, seat, wires, ports[seat.rank], samples[seat.rank]) for seat in seats)
    return Plan(
        schema=1,
        cluster=cluster.name,
        run=run,
        world_size=world_size,
        transport=transport,
        wire=wire,
        shape=shape,
        stages=stages,
        replicas=run.replicas,
        global_batch=sum(samples),
        ranks=ranks,
        params=param_count(run.model),
        memory=memory,
        ca=ca if wires.encrypted else "",
        notes=tuple(dict.fromkeys(told)),
        inputs=dict(sorted((inputs or {}).items())),
    )


def _options(cluster: ClusterSpec, run: RunSpec, speeds: Speeds) -> Options | None:
    """The ways to make a step, where a profile of this run tells how long each takes."""
    profile = speeds.profile
    if profile is None or run.strategy not in PREDICTED:
        return None
    if differences(profile, cluster, run) or unmeasured(profile, run):
        return None
    return Options(cluster, run, speeds, profile)


def buffer_mb(node: Node, comm: CommSpec) -> float:
    """The chunk a link of that machine pipelines by, in MB: the file's, else by kind of machine."""
    if node.name in comm.buffer_mb:
        return comm.buffer_mb[node.name]
    if node.kind == "windows":
        return 1.0
    return 2.0 if is_raspberry_pi(node.name, node.kind) else 8.0


def _laid_out(run: RunSpec, seats: Sequence[Seat], speeds: Speeds) -> tuple[Layout | None, list[str]]:
    """Where each rank of a model that is split stands, and what a person should know of that."""
    if run.strategy != "mp":
        return None, []

    def mbps(src: str, dst: str) -> float:
        try:
            return speeds.claimed(speeds.topology.route(src, dst))[0]
        except NoRouteError:  # told as a problem of the plan
            return 0.0

    of_machines, notes = speeds_of(run, [seat.node.name for seat in seats], speeds.profile)
    layout = lay_out(run, seats, of_machines, mbps)
    return layout, [*layout_notes_of(run, layout), *notes]


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
        memory_mb=share_of_memory(seat.node.memory_mb, seat.ranks_here),
    )
