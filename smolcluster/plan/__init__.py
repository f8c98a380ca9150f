"""What each rank must do, decided once, before anything starts. No torch.

make_plan(cluster, run) -> Plan        pure and deterministic; plan.to_json() is plan.json, plan.digest() its hash
make_serve_plan(cluster, serve, shape) -> ServePlan    the same of a served model
"""

from __future__ import annotations

from smolcluster.plan.arithmetic import param_count
from smolcluster.plan.make import make_plan
from smolcluster.plan.serve import make_serve_plan
from smolcluster.plan.types import MemoryEstimate, NodeConfig, Plan, RankPlan, ServePlan

__all__ = [
    "MemoryEstimate",
    "NodeConfig",
    "Plan",
    "RankPlan",
    "ServePlan",
    "make_plan",
    "make_serve_plan",
    "param_count",
]
