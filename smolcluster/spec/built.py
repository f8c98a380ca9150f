"""What the documentation has and this version cannot run yet. Refused here, in one place, before anything starts."""

from __future__ import annotations

from smolcluster.errors import Problem
from smolcluster.spec.layers import Merged
from smolcluster.spec.problems import listed

BUILT = ("single", "classicdp", "fsdp", "edp", "syncps", "mp", "diloco")
SET_UP = "ansible-playbook certificates.yml"
NOT_ENCRYPTED = (
    f"this wire is not private: traffic is authenticated but not encrypted until certificates are set up ({SET_UP})"
)


def refuse_strategy(strategy: str) -> list[Problem]:
    """A strategy whose code comes later."""
    if strategy in BUILT:
        return []
    what = f"{strategy} is not built yet; its config is read and checked, but it cannot run"
    return [Problem(f"--strategy {strategy}", 0, "", what, f"use one of {listed(BUILT)}")]


def refuse_encryption(encrypt: str, cluster: Merged, ca: str) -> list[Problem]:
    """encrypt: always, where the cluster has no certificates yet; `ca` is its authority's fingerprint."""
    if encrypt != "always" or ca:
        return []
    what = "always needs certificates, and the cluster has none yet"
    return [cluster.problem(("encrypt",), what, f"{SET_UP} makes them; encrypt: auto goes without until then")]
