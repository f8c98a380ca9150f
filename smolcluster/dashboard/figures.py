"""Figures of ranks, machines and links as they are now, from their last few steps. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from smolcluster.dashboard.answers import LinkNow, RankNow, StepAnswer
from smolcluster.dashboard.series import RankColumns
from smolcluster.jobs.types import PollResult
from smolcluster.observe.ranks import STRAGGLES
from smolcluster.runtime.metricsfile import StepRecord

# A link is slow whose speed is so much below the usual.
_SLOW = STRAGGLES


def rank_now(
    rank: int, answer: PollResult | None, last: StepRecord | None, recent: Sequence[StepRecord], least_s: float | None
) -> RankNow:
    """What a rank does, by its job, and what its `recent` steps were; `least_s` as from least_wait."""
    code = answer.job.ranks.get(rank) if answer is not None else None
    said = {None: "unknown", "0": "completed", "130": "stopped", "running": "running", "restarting": "restarting"}
    failure = next((each for each in answer.failed if each.rank == rank), None) if answer is not None else None
    doing = failure.reason if failure is not None else said.get(code, f"ended with exit code {code}")
    return RankNow(
        rank=rank,
        doing=doing,
        step=last.step if last is not None else None,
        steps=_steps(recent, least_s) if recent else None,
    )


def _steps(recent: Sequence[StepRecord], least_s: float | None) -> StepAnswer:
    own = max(1, sum(record.own_steps for record in recent))

    def each(values: Sequence[float]) -> float:
        return sum(values) / own

    waited = each([record.comm_s for record in recent])
    for_bytes = waited if least_s is None else min(waited, least_s)
    return StepAnswer(
        step_ms=each([record.step_s for record in recent]) * 1000,
        compute_ms=each([record.compute_s for record in recent]) * 1000,
        communication_ms=for_bytes * 1000,
        waiting_ms=(waited - for_bytes) * 1000,
        data_ms=each([record.data_s for record in recent]) * 1000,
        bytes_sent=each([record.bytes_out for record in recent]),
        bytes_received=each([record.bytes_in for record in recent]),
        tokens_per_s=recent[-1].tokens_per_s,
        staleness=recent[-1].staleness_mean,
    )


def least_wait(recent: Sequence[Sequence[StepRecord]]) -> float | None:
    """What the rank that waits least waits in a step, in seconds; None where there is one rank."""
    if len(recent) < 2:
        return None
    return min(sum(r.comm_s for r in records) / max(1, sum(r.own_steps for r in records)) for records in recent)


def together(steps: Sequence[StepAnswer]) -> StepAnswer:
    """Of the ranks of one machine: what they send and compute adds up, times are means."""
    adds = {"bytes_sent", "bytes_received", "tokens_per_s"}
    values = {}
    for name in StepAnswer.model_fields:
        of_each = [float(getattr(one, name)) for one in steps]
        values[name] = sum(of_each) if name in adds else max(of_each) if name == "staleness" else fmean(of_each)
    return StepAnswer(**values)


def links_now(ranks: Sequence[RankColumns]) -> list[LinkNow]:
    """The last word on each link; those that are clearly slower than most are marked."""
    node_of = {one.rank: one.node for one in ranks}
    links = [
        LinkNow(
            src=one.rank,
            dst=peer,
            src_node=one.node,
            dst_node=node_of.get(peer, ""),
            mbps=number_of(found[-1].values, "mbps"),
            rtt_ms=number_of(found[-1].values, "rtt_ms"),
            buffered_bytes=_whole(found[-1].values.get("buffered")),
            step=found[-1].step,
            time=found[-1].time,
        )
        for one in ranks
        for peer, found in sorted(one.columns.links.items())
    ]
    usual = [link.mbps for link in links if link.mbps]
    limit = median(usual) / _SLOW if usual else 0.0
    return [link.model_copy(update={"slow": link.mbps is not None and 0 < link.mbps < limit}) for link in links]


def number_of(values: Mapping[str, object], name: str) -> float | None:
    """A number in a record; None where there is none."""
    found = values.get(name)
    return finite(float(found)) if isinstance(found, int | float) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def finite(value: float) -> float | None:
    """JSON has no word for the others."""
    return value if math.isfinite(value) else None
