"""topology.json of a run's folder: its machines and the wires between them, as the inventory had them when it began.

plan.json says which address is dialled; whose wire that is, and how fast it claims to be, only the inventory tells.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pydantic import Field

from smolcluster.spec.base import Frozen
from smolcluster.spec.cluster import ClusterSpec, Kind, Medium
from smolcluster.topology.network import NoRouteError, Topology

TOPOLOGY_SCHEMA = 1


class NotedNode(Frozen):
    """A machine that takes part."""

    name: str
    kind: Kind
    connection: str


class NotedRoute(Frozen):
    """The best way between two machines: wires in order, the slowest one's claimed speed, who forwards between them."""

    src: str
    dst: str
    networks: tuple[str, ...]
    medium: Medium
    speed_mbps: float
    gateways: tuple[str, ...] = ()


class TopologyNote(Frozen):
    """topology.json. `routes` are those of all pairs of its machines that can reach each other."""

    schema_: int = Field(default=TOPOLOGY_SCHEMA, alias="schema", serialization_alias="schema")
    controller: str
    nodes: tuple[NotedNode, ...]
    routes: tuple[NotedRoute, ...]


def note_topology(cluster: ClusterSpec, names: Sequence[str]) -> TopologyNote:
    """Of these machines of a cluster; those it does not know are left out."""
    topology = Topology(cluster)
    nodes = [node for node in cluster.nodes if node.name in names]
    routes = []
    for here, there in itertools.combinations([node.name for node in nodes], 2):
        try:
            way = topology.route(here, there)
        except NoRouteError:
            continue
        routes.append(
            NotedRoute(
                src=here,
                dst=there,
                networks=way.networks,
                medium=way.medium,
                speed_mbps=way.speed_mbps,
                gateways=way.gateways,
            )
        )
    return TopologyNote(
        controller=cluster.controller,
        nodes=tuple(NotedNode(name=node.name, kind=node.kind, connection=node.connection) for node in nodes),
        routes=tuple(routes),
    )
