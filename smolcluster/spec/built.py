"""What the documentation has and this version cannot run yet. Refused here, in one place, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec, Node
from smolcluster.spec.document import KeyPath
from smolcluster.spec.layers import Merged
from smolcluster.spec.problems import listed

BUILT = ("single", "classicdp", "fsdp", "edp", "syncps", "mp", "diloco")
SET_UP = "ansible-playbook certificates.yml"
NOT_ENCRYPTED = (
    f"this wire is not private: traffic is authenticated but not encrypted until certificates are set up ({SET_UP})"
)
NO_WINDOWS = "training on Windows nodes comes with setup.yml, in a later release"
NO_WINDOWS_STAGE = "serving on Windows nodes comes with setup.yml, in a later release"
NO_TABLET = "a tablet computes its layers in an app of ours, which comes in a later release"


def refuse_strategy(strategy: str) -> list[Problem]:
    """A strategy whose code comes later."""
    if strategy in BUILT:
        return []
    what = f"{strategy} is not built yet; its config is read and checked, but it cannot run"
    return [Problem(f"--strategy {strategy}", 0, "", what, f"use one of {listed(BUILT)}")]


def can_be_started(node: Node) -> bool:
    """Whether ranks can be started on that machine: not yet on a Windows machine that is reached over the network."""
    return node.kind != "windows" or node.connection == "local"


def refuse_machines(named: Mapping[str, KeyPath], cluster: ClusterSpec, origin: Merged) -> list[Problem]:
    """Machines that a file or --nodes names, and on which no rank can be started yet."""
    fix = "leave it out, or train with --nodes that name the others"
    return [
        origin.problem(place, f"{name}: {NO_WINDOWS}", fix)
        for name, place in named.items()
        if not can_be_started(cluster.node(name))
    ]


def refuse_stages(named: Mapping[str, KeyPath], cluster: ClusterSpec, origin: Merged) -> list[Problem]:
    """Machines that were to compute layers of a served model and cannot be started yet."""
    nodes = [cluster.node(name) for name in named]
    others = [node.name for node in nodes if node.kind != "ipados" and can_be_started(node)]
    fix = f"serve with the others: --nodes {','.join(others)}" if others else "name machines with macOS or Linux"
    return [
        origin.problem(
            named[node.name], f"{node.name}: {NO_TABLET if node.kind == 'ipados' else NO_WINDOWS_STAGE}", fix
        )
        for node in nodes
        if node.name not in others
    ]


def refuse_encryption(encrypt: str, cluster: Merged, ca: str) -> list[Problem]:
    """encrypt: always, where the cluster has no certificates yet; `ca` is its authority's fingerprint."""
    if encrypt != "always" or ca:
        return []
    what = "always needs certificates, and the cluster has none yet"
    return [cluster.problem(("encrypt",), what, f"{SET_UP} makes them; encrypt: auto goes without until then")]
