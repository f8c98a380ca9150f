"""The plan of measuring a run's machines and wires: all that may take part, each with the whole model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smolcluster.plan.make import make_plan
from smolcluster.plan.types import ProfilePlan
from smolcluster.spec.cluster import ClusterSpec
from smolcluster.spec.run import RecoverySpec, RunSpec


def make_profile_plan(
    cluster: ClusterSpec,
    run: RunSpec,
    notes: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
    ca: str = "",
) -> ProfilePlan:
    """As make_plan of the run, but nothing is left to speeds, and nobody starts again: a measurement is made anew.

    All ranks talk to each other over our own links, whatever the strategy, and each takes the batch of a worker.
    """
    plain = run.model_copy(
        update={
            "strategy": "classicdp",
            "fsdp_stage": 0,
            "staleness_bound": 0,
            "replicas": 1,
            "participants": tuple(each.model_copy(update={"role": "worker"}) for each in run.participants),
            "balance": {},
            "choose_nodes": False,
            "comm": run.comm.model_copy(update={"transport": "smol", "wire": "fp32"}),
            "recovery": RecoverySpec(max_restarts=0),
        }
    )
    plan = make_plan(cluster, plain, notes, inputs, ca=ca)
    return ProfilePlan(**{name: getattr(plan, name) for name in type(plan).model_fields if name != "schema_"})
