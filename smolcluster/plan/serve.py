"""A served model's ClusterSpec and ServeSpec -> ServePlan. Pure, as make.py: the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.encryption import Encryption
from smolcluster.plan.exporters import exporter_listeners
from smolcluster.plan.make import DEFAULT_THREADS, buffer_mb
from smolcluster.plan.ports import Listener, port_problems, ports_of
from smolcluster.plan.profile import Profile
from smolcluster.plan.stages import ModelWeight, Ranges, need_mb, stage_ranges, weight_of
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
    stages = [cluster.node(stage.node) for stage in serve.stages]
    web = cluster.node(serve.api_node) if serve.api_node is not None else stages[0]
    nodes = [*stages, web]
    encryption = Encryption(serve.comm.encrypt, ca)
    wires = serving_wires(Topology(cluster), [node.name for node in nodes], encryption)
    https = encryption.of_api(serve.listen)
    bases = [(stage.node, stage.port) for stage in serve.stages]
    ports = ports_of(bases, wires.listen)
    where = f"inventory {cluster.name}"
    complaints = [*wires.problems, *port_problems(_listeners(serve, stages, web, wires, ports))]
    problems = [Problem(where, 0, key, what, fix) for key, what, fix in complaints]
    weight = weight_of(shape, serve.model.precision, serve.cache_tokens or serve.model.ctx_length)
    ranges: Ranges = ()
    try:
        ranges = stage_ranges(cluster, serve, weight, profile)
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
                need_mb=need_mb(weight, start, stop),
                memory_mb=stages[rank].memory_mb,
                speed=profile.speeds.get(stages[rank].name, 1.0) if profile is not None else 1.0,
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
        ca=ca if https or any(any(links.values()) for links in wires.encrypt) else "",
        params=shape.params,
        notes=tuple(dict.fromkeys((*notes, *wires.notes, *_alone(stages, weight, profile)))),
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
    return RankPlan(
        rank=rank,
        node=node.name,
        local_rank=sum(before.name == node.name for before in nodes[:rank]),
        role="api" if is_api else "stage",
        device="cpu" if is_api else node.device,
        listen=wires.listen[rank],
        port=port,
        peers=wires.peers[rank],
        encrypt=wires.encrypt[rank],
        samples=0,
        buffer_mb=buffer_mb(node, serve.comm),
        threads=1 if is_api else node.threads or DEFAULT_THREADS,
    )


def _listeners(
    serve: ServeSpec, stages: Sequence[Node], web: Node, wires: Wires, ports: Mapping[int, int]
) -> list[Listener]:
    """Everybody who listens, the API and the page too. Machines may share an address only where they are one."""
    said = [
        Listener(f"rank {rank} ({node.name})", node.name, wires.listen[rank], ports[rank])
        for rank, node in enumerate(stages)
    ]
    addresses = tuple("127.0.0.1" if address == "localhost" else address for address in serve.listen)
    places = [(node.name, wires.listen[rank]) for rank, node in enumerate([*stages, web])]
    return [
        *said,
        *exporter_listeners(places, serve.comm.metrics_port),
        Listener("web_interface.api_port", web.name, addresses, serve.api_port),
        Listener("web_interface.frontend_port", web.name, addresses, serve.frontend_port),
    ]
