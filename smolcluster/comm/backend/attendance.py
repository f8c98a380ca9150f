"""Who has come: names the ranks that an operation waits for in vain, and the barrier that does nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence

from smolcluster.comm.control import Control
from smolcluster.comm.roll import call_roll
from smolcluster.comm.table import Op
from smolcluster.errors import DeadlineError, PeerError

# How much longer the others of a monitored barrier wait for its first rank than that waits for them.
_MARGIN_S = 5.0
_STORE_S = 30.0


def names(ranks: Sequence[int]) -> str:
    """rank 3; ranks 1, 2."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


class Attendance:
    """One group's. `members` are global ranks in group order; `begun` counts the operations this rank has begun."""

    def __init__(self, control: Control, group: str, rank: int, members: Sequence[int]) -> None:
        self.begun = 0
        self._control = control
        self._group = group
        self._rank = rank
        self._members = tuple(members)
        self._barriers = 0
        control.roll.enter(group, lambda: self.begun)

    def leave(self) -> None:
        """The group ends."""
        self._control.roll.leave(self._group)

    def explain(self, error: DeadlineError, name: str, timeout_s: float) -> PeerError:
        """The error that names who has not come to the operation this rank is in, if everybody else has."""
        here = self.begun
        try:
            counts = call_roll(self._control, self._group, self._members)
        except PeerError:  # rank 0 does not answer, or the run has failed: the verdict knows
            return error
        missing = [rank for rank in self._members if counts.get(rank, -1) < here]
        if not missing:
            return error
        return DeadlineError(
            f"{names(missing)} did not come to {name}, operation {here} of group {self._group}, "
            f"for which {names([rank for rank in self._members if rank not in missing])} waited {timeout_s:g} s"
        )

    def monitored_barrier(self, timeout_s: float, wait_all_ranks: bool) -> None:
        """As c10d's: DeadlineError on every rank that came names those that did not (one, or all of them).

        It goes through the store at rank 0, so that it works when the group's links do not, and harms nothing.
        """
        self._barriers += 1
        place = f"smol/barrier/{self._group}/{self._barriers}"
        self._call(Op.SET, f"{place}/{self._rank}", b"1")
        verdict = f"{place}/verdict"
        if self._rank == 0:
            missing = self._missing(place, timeout_s, wait_all_ranks)
            self._call(Op.SET, verdict, ",".join(map(str, missing)).encode())
            if not missing:
                self._forget(f"smol/barrier/{self._group}/{self._barriers - 1}")
        else:
            try:
                self._control.call(Op.WAIT, (verdict.encode(),), timeout_s + _MARGIN_S)
            except DeadlineError as error:
                if self._control.alarm.error is not None:
                    raise
                raise self._absent([self._members[0]], timeout_s) from error
            told = self._call(Op.GET, verdict)[0].decode()
            missing = [int(rank) for rank in told.split(",") if rank]
        if missing:
            raise self._absent(missing, timeout_s)

    def _missing(self, place: str, timeout_s: float, wait_all_ranks: bool) -> list[int]:
        """Global ranks that have not come in time; only the first one unless all are wanted."""
        end = time.monotonic() + timeout_s
        missing: list[int] = []
        for rank, member in enumerate(self._members):
            try:
                self._control.call(Op.WAIT, (f"{place}/{rank}".encode(),), max(0.05, end - time.monotonic()))
            except DeadlineError:
                if self._control.alarm.error is not None:
                    raise
                missing.append(member)
                if not wait_all_ranks:
                    break
        return missing

    def _forget(self, place: str) -> None:
        """Everybody who came to this barrier has read the last one's verdict."""
        for key in (*map(str, range(len(self._members))), "verdict"):
            self._call(Op.DELETE, f"{place}/{key}")

    def _absent(self, missing: list[int], timeout_s: float) -> DeadlineError:
        return DeadlineError(
            f"{names(missing)} did not come to monitored_barrier {self._barriers} of group {self._group} "
            f"within {timeout_s:g} s. Fix: look at what {names(missing)} was doing."
        )

    def _call(self, op: Op, key: str, *values: bytes) -> list[bytes]:
        return self._control.call(op, (key.encode(), *values), _STORE_S)
