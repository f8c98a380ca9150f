"""Plans by measured speeds, and the profiles they are made by."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from smolcluster.plan.make import make_plan
from smolcluster.plan.profile import LinkSpeed, Measured, NodeMeasure, Profile
from smolcluster.plan.types import Plan
from smolcluster.spec.request import Request, Resolved
from smolcluster.spec.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "inventory" / "local.smol.yml"
# Three machines that share a slow wire; c holds two ranks.
LAN = """\
schema: 1
name: lan
machines:
  a: {connection: local, memory_mb: 8000}
  b: {connection: local}
  c: {connection: local, ranks: 2}
networks:
  lan: {medium: ethernet, speed_mbps: 10000, private: true, members: {a: 127.0.0.2, b: 127.0.0.3, c: 127.0.0.4}}
"""
NODES = ("node1", "node2", "node3")


def resolved(inventory: Path, strategy: str, *overrides: str, nodes: tuple[str, ...] = ()) -> Resolved:
    return resolve(Request(inventory, strategy, nodes=nodes, overrides=overrides))


def of_run(found: Resolved, speeds: dict[str, float], links: tuple[LinkSpeed, ...] = (), **changes: Any) -> Profile:
    run = found.run
    measured = Measured(
        date="2026-11-20T10:00:00Z",
        cluster=found.cluster.name,
        model=run.model,
        batch_size=run.training.batch_size,
        precision="fp32",
        activation_checkpointing=False,
        compile=False,
        nodes={
            node.name: NodeMeasure(ranks=node.ranks, update_s=0.0, device="cpu", threads=1, versions={})
            for node in found.cluster.nodes
            if node.name in speeds
        },
    )
    return Profile(speeds=speeds, links=links, measured=measured.model_copy(update=changes))


def planned(found: Resolved, profile: Profile | None) -> Plan:
    return make_plan(found.cluster, found.run, found.notes, found.inputs, profile)


def links_of(mbps: float, rtt_ms: float = 0.0, nodes: tuple[str, ...] = NODES) -> tuple[LinkSpeed, ...]:
    pairs = itertools.permutations(nodes, 2)
    return tuple(LinkSpeed(src=src, dst=dst, mbps=mbps, rtt_ms=rtt_ms) for src, dst in pairs)
