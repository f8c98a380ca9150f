"""When a node's ranks are started again in the same run, and how often they were. Decides; starts nothing.

In a synchronous strategy nobody can go on without everybody: a rank that dies, or loses a peer, ends all ranks, and all
are started again from the newest checkpoint. Each supervisor decides that for its own ranks and talks to no other one:
which start of the whole run theirs becomes is agreed between the ranks (runtime/generation.py, comm/membership.py).

The ranks of a served model are no such company: the head does without a stage until it is back, so each is started
again for itself. It is to run for weeks, so what counts are the restarts of the last minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smolcluster.jobs.stopping import StopOrder
from smolcluster.jobs.verdict import INTERRUPTED, NOT_STARTED, judge
from smolcluster.runtime.runfolder import JobState, RankResult
from smolcluster.spec.run import RecoverySpec

# A star's server and its workers each fail for themselves.
SYNCHRONOUS = frozenset({"single", "classicdp", "fsdp", "mp", "diloco"})
# A config that cannot run and a loss that is not finite would be the same again; a rank that could not be started, too.
FINAL_CODES = frozenset({2, 4, NOT_STARTED})

# Of a served model's ranks: the time in which restarts count, and the growing pause before one. In the first pause a
# stop that reaches this node a little after the head's is heard before stages that lost the head are started again.
WINDOW_S = 600.0
FIRST_DELAY_S, MOST_DELAY_S = 1.0, 16.0


class Restarts:
    """The restarts of one node in one run. `before`: the state an earlier supervisor of this run left here, if any."""

    def __init__(self, recovery: RecoverySpec, strategy: str, before: JobState | None) -> None:
        self._most = recovery.max_restarts if strategy in SYNCHRONOUS else 0
        # A supervisor that takes a run over starts its ranks again: that is a restart too.
        self.count = before.restarts + 1 if before is not None else 0
        self.reason = before.reason if before is not None else ""
        self.ours = before is not None

    def due(
        self, codes: Mapping[int, int], results: Sequence[RankResult], order: StopOrder | None, asked: bool
    ) -> bool:
        """Whether ranks that ended like that are started again; counts it if so. `asked`: somebody wants the run ended.

        `codes` and `results` as for `judge`.
        """
        bad = [code for code in codes.values() if code not in (0, INTERRUPTED)]
        stopped = asked or (order is not None and order.outcome == "stopped")
        final = any(code in FINAL_CODES for code in bad) or any(result.final for result in results)
        # A rank that was done means that all are: none is before the model has been written.
        done = 0 in codes.values() or any(result.finished for result in results)
        if not bad or stopped or final or done or self.count >= self._most:
            return False
        self.count += 1
        self.reason = judge(codes, results, order).reason
        self.ours = any(result.root_cause for result in results)
        return True

    @property
    def said(self) -> str:
        """`restart 1 of 3`."""
        return f"restart {self.count} of {self._most}"


class RestartsOfEach:
    """The restarts of each rank of one node. `before` as for Restarts. Times are of any steady clock, in seconds."""

    def __init__(self, recovery: RecoverySpec, before: JobState | None) -> None:
        self._most = recovery.max_restarts
        self._times: dict[int, list[float]] = {}
        self._reasons: dict[int, str] = {}
        self.count = before.restarts + 1 if before is not None else 0
        self.reason = before.reason if before is not None else ""
        self.ours = before is not None
        self.said = "taken over" if before is not None else ""
        # Why a rank is not started again.
        self.refusal = ""

    def due(self, rank: int, code: int, result: RankResult | None, now: float) -> float | None:
        """After how many seconds a rank that ended like that is started again; counts it. None: not at all."""
        why = result.reason if result is not None and result.reason else "ended although nobody asked"
        if code in FINAL_CODES or (result is not None and result.final):
            self.refusal = why
            return None
        times = self._lately(rank, now)
        if len(times) >= self._most:
            often = f"after {self._most} restarts within {WINDOW_S / 60:.0f} minutes"
            self.refusal = f"{why} ({often})" if self._most else why
            return None
        self._times[rank] = [*times, now]
        self._reasons[rank] = self.reason = f"rank {rank}: {why}"
        self.count += 1
        self.ours = result is None or result.root_cause
        self.said = self.said_of(rank, now)
        return min(MOST_DELAY_S, FIRST_DELAY_S * 2 ** len(times))

    def said_of(self, rank: int, now: float) -> str:
        """`restart 1 of 3 within 10 minutes`."""
        return f"restart {len(self._lately(rank, now))} of {self._most} within {WINDOW_S / 60:.0f} minutes"

    def reason_of(self, rank: int) -> str:
        """Why it was started again the last time."""
        return self._reasons[rank]

    def _lately(self, rank: int, now: float) -> list[float]:
        return [when for when in self._times.get(rank, ()) if now - when < WINDOW_S]


class SupervisorRestarts:
    """How often a supervisor of one node that died is started again: for whoever follows the run. Its ranks' restarts
    count too in a training; a served model's may be of weeks ago, so there only the follower's own of the last minutes.
    """

    def __init__(self, most: int, serves: bool) -> None:
        self._most = most
        self._serves = serves
        self._times: list[float] = []

    def due(self, job: JobState, now: float) -> bool:
        """Whether it is started again now, by a steady clock in seconds; counts it if so."""
        if not job.lost:
            return False
        self._times = [when for when in self._times if now - when < WINDOW_S]
        if (len(self._times) if self._serves else job.restarts) >= self._most:
            return False
        self._times.append(now)
        return True
