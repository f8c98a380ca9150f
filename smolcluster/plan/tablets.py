"""Tablets of a served model: where each is met, and in which process its layers belong to the chain. Pure.

Nothing runs on a tablet that we could start: it is the app's or the browser's affair. Its rank is a process on the
head's machine, which hands hidden states over (tablet/rank.py): to an app by dialling it there, to a browser by being
dialled, on the head's own address of the wire that both are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from smolcluster.plan.encryption import Encryption
from smolcluster.plan.types import TabletPlan
from smolcluster.plan.wires import Complaint
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.serving import ServeSpec
from smolcluster.spec.stages import ServingStage
from smolcluster.topology import NoRouteError, Route, Topology


@dataclass
class Tablets:
    """By rank those of a plan, with what is to be said of them."""

    by_rank: dict[int, TabletPlan] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Complaint] = field(default_factory=list)


def tablets_of(cluster: ClusterSpec, serve: ServeSpec, topology: Topology, encryption: Encryption) -> Tablets:
    """The tablets among the stages, none of which is the first."""
    found = Tablets()
    head = serve.stages[0].node
    for rank, stage in enumerate(serve.stages):
        node = cluster.node(stage.node)
        if node.app is None:
            continue
        try:
            way = topology.route(head, node.name) if node.app == "native" else topology.route(node.name, head)
        except NoRouteError as error:
            found.problems.append(("networks", str(error), error.fix))
            continue
        tls = node.app == "browser" and encryption.of_api((way.host,))
        found.by_rank[rank] = _planned(serve, stage, node, way, tls)
        if not tls and not way.private:
            wires = ", ".join(way.exposed)
            found.notes.append(f"{node.name}: its hidden states cross {wires} authenticated but not encrypted")
    return found


def processes_of(cluster: ClusterSpec, stages: Sequence[ServingStage]) -> list[Node]:
    """The machine on which each stage's process runs: a tablet's is on the head's."""
    nodes = [cluster.node(stage.node) for stage in stages]
    return [nodes[0] if node.app is not None else node for node in nodes]


def bases_of(cluster: ClusterSpec, stages: Sequence[ServingStage]) -> list[tuple[str, int]]:
    """The machine and port that each stage's process is to listen on, as plan/ports.py takes them."""
    head = stages[0]
    return [
        (stage.node, stage.port) if cluster.node(stage.node).app is None else (head.node, head.port) for stage in stages
    ]


def _planned(serve: ServeSpec, stage: ServingStage, node: Node, way: Route, tls: bool) -> TabletPlan:
    assert node.app is not None
    assert node.precision is not None
    return TabletPlan(
        node=node.name,
        app=node.app,
        host=way.host,
        port=stage.port,
        precision=node.precision,
        tls=tls,
        optional=node.name in serve.optional,
    )
