"""YAML -> frozen, validated objects. No torch.

Request -> resolve() -> Resolved(cluster, run, notes, inputs), or ConfigError with every problem of every file
"""

from __future__ import annotations

from smolcluster.spec.cluster import ClusterSpec, Network, Node
from smolcluster.spec.groups import strategies_of
from smolcluster.spec.inventory import load_inventory
from smolcluster.spec.request import Request, Resolved
from smolcluster.spec.resolve import resolve, resolve_any
from smolcluster.spec.run import Participant, RunSpec
from smolcluster.spec.serving import resolve_any_serving, resolve_serving

__all__ = [
    "ClusterSpec",
    "Network",
    "Node",
    "Participant",
    "Request",
    "Resolved",
    "RunSpec",
    "load_inventory",
    "resolve",
    "resolve_any",
    "resolve_any_serving",
    "resolve_serving",
    "strategies_of",
]
