"""How a job ended on this node, from how its ranks did. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from smolcluster.jobs.stopping import StopOrder
from smolcluster.runtime.runfolder import RankResult

INTERRUPTED = 130
PEER_FAILED = 3
NOT_STARTED = 127


@dataclass(frozen=True)
class Verdict:
    """The job's last state, why, and what the supervisor leaves with."""

    state: Literal["completed", "failed", "stopped"]
    reason: str
    exit_code: int


def judge(codes: Mapping[int, int], results: Sequence[RankResult], order: StopOrder | None) -> Verdict:
    """`codes`: a return code of subprocess for each rank that ended; `results`: what ranks, or we for them, wrote.

    A stop that came after every rank was done changes nothing. A failure is told by the rank that failed of itself.
    """
    if not any(codes.values()):
        return Verdict("completed", "", 0)
    if order is not None and order.outcome == "stopped":
        return Verdict("stopped", order.reason, INTERRUPTED)
    if any(code not in (0, INTERRUPTED) for code in codes.values()):
        return _failure(codes, results, order)
    reasons = [result.reason for result in results if result.reason]
    return Verdict("stopped", reasons[0] if reasons else "its ranks were stopped", INTERRUPTED)


def _failure(codes: Mapping[int, int], results: Sequence[RankResult], order: StopOrder | None) -> Verdict:
    failures = sorted(
        (result for result in results if result.status == "failed"),
        key=lambda result: (not result.root_cause, result.rank),
    )
    if not failures:
        return Verdict("failed", order.reason if order is not None else "a rank failed", PEER_FAILED)
    first = failures[0]
    code = codes.get(first.rank, first.exit_code)
    # A signal's number, or a rank that was never there, is none of the codes of errors.py.
    return Verdict("failed", f"rank {first.rank}: {first.reason}", code if 0 < code < NOT_STARTED else PEER_FAILED)
