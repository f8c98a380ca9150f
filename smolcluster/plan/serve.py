"""A served model's ClusterSpec and ServeSpec -> ServePlan. Pure, as make.py: the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.encryption import Encryption
from smolcluster.plan.exporters import exporter_listeners
from smolcluster.plan.make import DEFAULT_THREADS, buffer_mb
from smolcluster.plan.ports import Listener, port_problems, ports_of
from smolcluster.plan.profile import Profile
from smolcluster.plan.stages import ModelWeight, Ranges, need_mb, needed_on, stage_machines, stage_ranges, weight_of
from smolcluster.plan.tablets import Tablets, bases_of, processes_of, tablets_of
from smolcluster.plan.types import ApiPlan, RankPlan, ServePlan, StagePlan
from smolcluster.plan.wires import Wires, serving_wires
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.machines import is_raspberry_pi
from smolcluster.spec.serving import ServeSpec
from smolcluster.spec.shape import DecoderShape
from smolcluster.topology import Topology


def make_serve_plan(
    cluster: ClusterSpec,
    serve: ServeSpec,
    shape: DecoderShape,
    profile: Profile | None = None,
    notes: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
    ca: str = "",
) -> ServePlan:
    """What every rank must do: the stages, the first of them the head, and last the one that answers HTTP.

    `shape` is the model's own; `profile` has measured speeds; `ca` as for make_plan.
    ConfigError with everything that stands in the way:
    machines that cannot reach each other, a model that does not fit, ports that are in each other's way.
    """
    stages = processes_of(cluster, serve.stages)
    web = cluster.node(serve.api_node) if serve.api_node is not None else stages[0]
    nodes = [*stages, web]
    encryption = Encryption(serve.comm.encrypt, ca)
    topology = Topology(cluster)
    wires = serving_wires(topology, [node.name for node in nodes], encryption)
    tablets = tablets_of(cluster, serve, topology, encryption)
    https = encryption.of_api(serve.listen)
    ports = ports_of(bases_of(cluster, serve.stages), wires.listen)
    where = f"inventory {cluster.name}"
    listeners = _listeners(serve, stages, web, wires, ports, tablets)
    complaints = [*wires.problems, *tablets.problems, *port_problems(listeners)]
    problems = [Problem(where, 0, key, what, fix) for key, what, fix in complaints]
    weight = weight_of(shape, serve.model.precision, serve.cache_tokens or serve.model.ctx_length)
    machines = stage_machines(cluster, serve, shape, profile)
    ranges: Ranges = ()
    try:
        ranges = stage_ranges(serve, weight, machines)
    except ConfigError as error:
        problems += [Problem(one.file or where, one.line, one.key, one.what, one.fix) for one in error.problems]
    if problems:
        raise ConfigError(problems)
    return ServePlan(
        schema=1,
        cluster=cluster.name,
        serve=serve,
        layers=shape.layers,
        world_size=len(nodes),
        ranks=tuple(_rank(serve, rank, nodes, wires, ports.get(rank, 0)) for rank in range(len(nodes))),
        stages=tuple(
            StagePlan(
                rank=rank,
                start=start,
                stop=stop,
                need_mb=needed_on(machines[rank], weight, start, stop),
                memory_mb=machines[rank].memory_mb,
                speed=machines[rank].speed,
                tablet=tablets.by_rank.get(rank),
            )
            for rank, (start, stop) in enumerate(ranges)
        ),
        api=ApiPlan(
            rank=len(stages),
            listen=serve.listen,
            api_port=serve.api_port,
            frontend_port=serve.frontend_port,
            tls=https,
        ),
        ca=ca if https or wires.encrypted or any(tablet.tls for tablet in tablets.by_rank.values()) else "",
        params=shape.params,
        notes=tuple(dict.fromkeys((*notes, *wires.notes, *tablets.notes, *_alone(stages, weight, profile)))),
        inputs=dict(sorted((inputs or {}).items())),
    )


def _alone(stages: Sequence[Node], weight: ModelWeight, profile: Profile | None) -> list[str]:
    """A note where the fastest of several machines has room for the whole model: no hop is faster than none.

    Unmeasured machines count as equal, but for a Raspberry Pi, which is never taken for the fastest.
    """
    need = need_mb(weight, 0, weight.layers)
    speeds = profile.speeds if profile is not None else {}

    def speed(node: Node) -> float:
        return speeds.get(node.name, 0.0 if is_raspberry_pi(node.name, node.kind) else 1.0)

    best = max(stages, key=lambda node: (speed(node), node.memory_mb or 0))
    if len(stages) < 2 or not speed(best) or best.memory_mb is None or need > best.memory_mb:
        return []
    return [
        f"{best.name} has room for the whole model ({need} of {best.memory_mb} MB): alone it answers one person at a"
        f" time sooner (--nodes {best.name}); several machines pay when several ask at once"
    ]


def _rank(serve: ServeSpec, rank: int, nodes: Sequence[Node], wires: Wires, port: int) -> RankPlan:
    node, is_api = nodes[rank], rank == len(nodes) - 1
    computes = not is_api and node.name == serve.stages[rank].node
    return RankPlan(
        rank=rank,
        node=node.name,
        local_rank=sum(before.name == node.name for before in nodes[:rank]),
        role="api" if is_api else "stage",
        device=node.device if computes else "cpu",
        listen=wires.listen[rank],
        port=port,
        peers=wires.peers[rank],
        encrypt=wires.encrypt[rank],
        samples=0,
        buffer_mb=buffer_mb(node, serve.comm),
        threads=node.threads or DEFAULT_THREADS if computes else 1,
    )


def _listeners(
    serve: ServeSpec, stages: Sequence[Node], web: Node, wires: Wires, ports: Mapping[int, int], tablets: Tablets
) -> list[Listener]:
    """Everybody who listens on our machines, API and pages too. These may share an address only where they are one."""
    said = [
        Listener(f"rank {rank} ({node.name})", node.name, wires.listen[rank], ports[rank])
        for rank, node in enumerate(stages)
    ]
    pages = [
        Listener(f"the page for {one.node}", stages[0].name, (one.host,), one.port)
        for one in tablets.by_rank.values()
        if one.app == "browser"
    ]
    addresses = tuple("127.0.0.1" if address == "localhost" else address for address in serve.listen)
    places = [(node.name, wires.listen[rank]) for rank, node in enumerate([*stages, web])]
    return [
        *said,
        *exporter_listeners(places, serve.comm.metrics_port),
        *pages,
        Listener("web_interface.api_port", web.name, addresses, serve.api_port),
        Listener("web_interface.frontend_port", web.name, addresses, serve.frontend_port),
    ]
