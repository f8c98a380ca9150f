"""What each rank must do, decided once, before anything starts. No torch.

make_plan(cluster, run) -> Plan        pure and deterministic; plan.to_json() is plan.json, plan.digest() its hash
make_profile_plan(cluster, run) -> ProfilePlan         of measuring its machines and wires
make_serve_plan(cluster, serve, shape) -> ServePlan    of a served model
"""

from __future__ import annotations

from smolcluster.plan.arithmetic import param_count
from smolcluster.plan.make import make_plan
from smolcluster.plan.measure import make_profile_plan
from smolcluster.plan.serve import make_serve_plan
from smolcluster.plan.types import MemoryEstimate, NodeConfig, Plan, ProfilePlan, RankPlan, ServePlan

__all__ = [
    "MemoryEstimate",
    "NodeConfig",
    "Plan",
    "ProfilePlan",
    "RankPlan",
    "ServePlan",
    "make_plan",
    "make_profile_plan",
    "make_serve_plan",
    "param_count",
]
