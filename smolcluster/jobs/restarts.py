"""When a node's ranks are started again in the same run, and how often they were. Decides; starts nothing.

In a synchronous strategy nobody can go on without everybody: a rank that dies, or loses a peer, ends all ranks, and all
are started again from the newest checkpoint. Each supervisor decides that for its own ranks and talks to no other one:
which start of the whole run theirs becomes is agreed between the ranks (runtime/generation.py, comm/membership.py).
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
