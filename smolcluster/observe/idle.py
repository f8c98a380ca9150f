"""How long stages of split layers waited for each other, beside what their schedule must cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from smolcluster.plan.pipeline import idle_share, micros_of
from smolcluster.plan.types import Plan
from smolcluster.runtime.metricsfile import StepRecord


def idle_of(steps: Iterable[StepRecord]) -> float | None:
    """The share of its steps that a stage waited for the others; None of a rank that is no stage, or took no step."""
    piped = [record for record in steps if record.idle_share is not None]
    seconds = sum(record.compute_s + record.comm_s for record in piped)
    return sum(record.comm_s for record in piped) / seconds if seconds else None


def idle_account(plan: Plan | None, ranks: Sequence[Iterable[StepRecord]]) -> dict[str, Any]:
    """What a summary says of stages that wait: `ranks` are the steps of those that took part at last, by that `plan`.

    Nothing of a run whose layers are not split.
    """
    shares = [idle_of(steps) for steps in ranks]
    if plan is None or not plan.stages or len(shares) < 2 or all(share is None for share in shares):
        return {}
    samples = min(rank.samples for rank in plan.ranks if rank.samples)
    return {
        "idle_share": tuple(shares),
        "idle_planned": idle_share(len(plan.stages), micros_of(plan.run, samples)),
    }
