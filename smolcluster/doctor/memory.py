"""Whether runs fit into the memory that machines were found to have, where the inventory does not say what it is. Pure.

A plan goes by `memory_mb` of the inventory, which few people write. The check plans with what the machines themselves
told, by the same rule (plan/room.py), and says where the number is from.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from smolcluster.doctor.machines import Finding, Machine
from smolcluster.errors import Problem
from smolcluster.plan.room import crowded, needed_mb
from smolcluster.plan.types import Plan
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.problems import listed

_OF_ONE = re.compile(r"machines\.(.+)\.memory_mb")


def found_mb(cluster: ClusterSpec, machines: Sequence[Machine]) -> dict[str, int]:
    """By name, the MB of the machines that told them and of which the inventory says nothing."""
    silent = {node.name for node in cluster.nodes if node.memory_mb is None}
    looked = {machine.name: machine.looked for machine in machines if machine.name in silent}
    return {name: one.memory_mb for name, one in looked.items() if one is not None and one.memory_mb}


def with_memory(cluster: ClusterSpec, memory_mb: Mapping[str, int]) -> ClusterSpec:
    """The cluster with these machines' memory."""
    nodes = tuple(
        node.model_copy(update={"memory_mb": memory_mb[node.name]}) if node.name in memory_mb else node
        for node in cluster.nodes
    )
    return cluster.model_copy(update={"nodes": nodes})


def without_memory(cluster: ClusterSpec) -> ClusterSpec:
    """The cluster as if nobody knew of any machine's memory: then nothing is refused for it."""
    nodes = tuple(node.model_copy(update={"memory_mb": None}) for node in cluster.nodes)
    return cluster.model_copy(update={"nodes": nodes})


def too_little(label: str, problems: Sequence[Problem], names: Sequence[str], found: Collection[str]) -> list[Finding]:
    """What keeps a strategy from its machines `names`: all `problems` are of memory. `found`: whose was not written."""
    told = []
    for problem in problems:
        one = _OF_ONE.fullmatch(problem.key)  # else of all together: there is no split of layers that fits
        where = [one[1]] if one is not None else list(dict.fromkeys(names))
        source = [name for name in where if name in found]
        who = "there" if source == where else f"on {listed(source)}"
        added = f" (found {who}; the inventory does not say)" if source else ""
        what = f"{label} does not fit: {problem.what}{added}"
        told.append(Finding(node=listed(where), what=what, fix=problem.fix, blocks=True))
    return told


def unforeseen(label: str, cluster: ClusterSpec, blind: Plan, found: Collection[str], blocks: bool) -> list[Finding]:
    """Machines that would get more than they have room for, as the inventory does not tell the plan what that is.

    `cluster` has the memory that was found; `blind` is the plan that a run would have.
    """
    names = [rank.node for rank in blind.ranks]
    need = needed_mb(names, blind.memory)
    return [
        Finding(
            node=node.name,
            what=f"has {node.memory_mb:,} MB of memory, which the inventory does not say: {label} would be planned to"
            f" need {need[node.name]:,.0f} there",
            fix=f"write memory_mb: {node.memory_mb} for it in the inventory: then the plan goes by it",
            blocks=blocks,
        )
        for node in crowded(cluster, names, blind.memory)
        if node.name in found
    ]
