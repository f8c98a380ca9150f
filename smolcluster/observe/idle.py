"""How long stages of split layers waited for each other, beside what their schedule must cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from smolcluster.errors import ConfigError
from smolcluster.plan.elastic import plan_for
from smolcluster.plan.pipeline import idle_share, micros_of
from smolcluster.plan.types import Plan
from smolcluster.runtime.metricsfile import StepRecord


def idle_of(steps: Iterable[StepRecord]) -> float | None:
    """The share of its steps that a stage waited for the others; None of a rank that is no stage, or took no step."""
    piped = [record for record in steps if record.idle_share is not None]
    seconds = sum(record.compute_s + record.comm_s for record in piped)
    return sum(record.comm_s for record in piped) / seconds if seconds else None


def idle_account(plan: Plan, ranks: Mapping[int, Iterable[StepRecord]]) -> dict[str, Any]:
    """What a summary says of stages that wait: `ranks` are the steps of those that took part at last, in order.

    Nothing of a run whose layers are not split.
    """
    shares = [idle_of(steps) for steps in ranks.values()]
    if not plan.stages or len(shares) < 2 or all(share is None for share in shares):
        return {}
    try:
        now = plan_for(plan, list(ranks))
    except ConfigError:  # those who were left had no room for it, which is why the run ended
        return {}
    stages, samples = len(now.stages), min(rank.samples for rank in now.ranks if rank.samples)
    return {
        "idle_share": tuple(shares),
        "idle_planned": idle_share(stages, micros_of(plan.run, samples)),
    }
