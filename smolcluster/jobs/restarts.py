"""When a node's ranks are started again in the same run, and how often they were. Decides; starts nothing.

In a synchronous strategy nobody can go on without everybody: a rank that dies, or loses a peer, ends all ranks, and all
are started again from the newest checkpoint. Each supervisor decides that for its own ranks and talks to no other one:
which start of the whole run theirs becomes is agreed between the ranks (runtime/generation.py, comm/membership.py).

The ranks of a served model are no such company: the head does without a stage until it is back, so each is started
again for itself. It is to run for weeks, so what counts are the restarts of the last minutes. A stage that ended only
because its head had gone has not failed: it is started again without using up a restart, though not without end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smolcluster.jobs.stopping import StopOrder
from smolcluster.jobs.verdict import INTERRUPTED, NOT_STARTED, PEER_FAILED, judge
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
# So many times the restarts of its own may a rank be started again because it lost its head: each death of a head may
# cost it several starts until that one is back.
LOST_PER_RESTART = 10


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
        self._failed: dict[int, list[float]] = {}
        self._lost: dict[int, list[float]] = {}
        self._why: dict[int, str] = {}
        # These four tell of failures here only, not of what a lost head brought along.
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
        lost = code == PEER_FAILED and result is not None and not result.root_cause
        earlier, most = (self._lost, LOST_PER_RESTART * self._most) if lost else (self._failed, self._most)
        times = [when for when in earlier.get(rank, ()) if now - when < WINDOW_S]
        within = f"within {WINDOW_S / 60:.0f} minutes"
        if len(times) >= most:
            self.refusal = f"{why} (after {most} {'starts' if lost else 'restarts'} {within})" if most else why
            return None
        earlier[rank] = [*times, now]
        self._why[rank] = f"{'start' if lost else 'restart'} {len(times) + 1} of {most} {within}: rank {rank}: {why}"
        if not lost:
            self.count += 1
            self.reason = f"rank {rank}: {why}"
            self.ours = True
        return min(MOST_DELAY_S, FIRST_DELAY_S * 2 ** len(times))

    def why_of(self, rank: int) -> str:
        """Why it was started again the last time: `restart 1 of 3 within 10 minutes: rank 1: ended by ...`."""
        return self._why[rank]


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
