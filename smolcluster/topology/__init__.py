"""Who shares which wire with whom. No torch.

Topology(cluster).address_of("pi5", "mini1")   the address pi5 dials to reach mini1
Endpoint.parse("[fd00::1]:65432")              a host and a port, IPv6 and names included
"""

from __future__ import annotations

from smolcluster.topology.endpoint import Endpoint
from smolcluster.topology.network import NoRouteError, Route, Topology
from smolcluster.topology.note import TOPOLOGY_SCHEMA, NotedRoute, TopologyNote, note_topology
from smolcluster.topology.shape import Shape, neighbours

__all__ = [
    "TOPOLOGY_SCHEMA",
    "Endpoint",
    "NoRouteError",
    "NotedRoute",
    "Route",
    "Shape",
    "Topology",
    "TopologyNote",
    "neighbours",
    "note_topology",
]
