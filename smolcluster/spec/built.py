"""What the documentation has and this version cannot run yet. Refused here, in one place, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping

from smolcluster.errors import Problem
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.document import KeyPath
from smolcluster.spec.layers import Merged
from smolcluster.spec.problems import listed

BUILT = ("single", "classicdp", "fsdp", "edp", "syncps", "mp", "diloco")
SET_UP = "ansible-playbook certificates.yml"
NOT_ENCRYPTED = (
    f"this wire is not private: traffic is authenticated but not encrypted until certificates are set up ({SET_UP})"
)
NO_TABLET = "a tablet computes its layers in an app of ours, which comes in a later release"


def refuse_strategy(strategy: str) -> list[Problem]:
    """A strategy whose code comes later."""
    if strategy in BUILT:
        return []
    what = f"{strategy} is not built yet; its config is read and checked, but it cannot run"
    return [Problem(f"--strategy {strategy}", 0, "", what, f"use one of {listed(BUILT)}")]


def refuse_tablets(named: Mapping[str, KeyPath], cluster: ClusterSpec, origin: Merged) -> list[Problem]:
    """Tablets that were to compute layers of a served model."""
    others = [name for name in named if cluster.node(name).kind != "ipados"]
    fix = f"serve with the others: --nodes {','.join(others)}" if others else "name machines that can be logged into"
    return [origin.problem(place, f"{name}: {NO_TABLET}", fix) for name, place in named.items() if name not in others]


def refuse_encryption(encrypt: str, cluster: Merged, ca: str) -> list[Problem]:
    """encrypt: always, where the cluster has no certificates yet; `ca` is its authority's fingerprint."""
    if encrypt != "always" or ca:
        return []
    what = "always needs certificates, and the cluster has none yet"
    return [cluster.problem(("encrypt",), what, f"{SET_UP} makes them; encrypt: auto goes without until then")]
