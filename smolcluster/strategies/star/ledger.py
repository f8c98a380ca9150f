"""What became of every gradient that a worker pushed: applied, refused and why, or rolled back with the weights.

    pushed = applied + refused + rolled back (+ pending, where a strategy holds some back for a moment)

A gradient is known by the incarnation of its worker and its number there; one that comes again, because its answer was
lost, is a duplicate and counts no second time. The ledger is written down at every change (train/star/journal.py), so
that a server that was killed knows what its last process had applied after the checkpoint that it goes on from: that is
rolled back. Pure: no files here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from smolcluster.runtime.runfolder import GradientAccount

ROLLED_BACK = "an older generation"
Known = tuple[int, int]  # incarnation, the last number it had


@dataclass
class Ledger:
    """Counts of gradients. `seen`: by rank, the newest incarnation and its last push."""

    pushed: int = 0
    applied: int = 0
    late: int = 0  # of those applied: had been meant for an update before (syncps)
    rolled_back: int = 0
    duplicates: int = 0
    pending: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    seen: dict[int, Known] = field(default_factory=dict)

    def arrive(self, rank: int, incarnation: int, number: int) -> bool:
        """A push is here. Whether it is a new one."""
        known, last = self.seen.get(rank, (incarnation, 0))
        if known == incarnation and number <= last:
            self.duplicates += 1
            return False
        self.seen[rank] = (incarnation, number)
        self.pushed += 1
        self.pending += 1
        return True

    def apply(self, late: bool = False) -> None:
        """One that had arrived was applied."""
        self.pending -= 1
        self.applied += 1
        self.late += late

    def refuse(self, reason: str) -> None:
        """One that had arrived was not, and will not be."""
        self.pending -= 1
        if reason == ROLLED_BACK:
            self.rolled_back += 1
        else:
            self.refused[reason] += 1

    @property
    def closes(self) -> bool:
        """Whether every gradient is accounted for."""
        return self.pushed == self.applied + self.refused.total() + self.rolled_back + self.pending

    def account(self, leased: int = 0, applied: int = 0, outstanding: int = 0, released: int = 0) -> GradientAccount:
        """What a run tells of it; the four are the leases', in samples."""
        return GradientAccount(
            pushed=self.pushed,
            applied=self.applied,
            late=self.late,
            refused=dict(sorted(self.refused.items())),
            rolled_back=self.rolled_back,
            duplicates=self.duplicates,
            pending=self.pending,
            samples_leased=leased,
            samples_applied=applied,
            samples_outstanding=outstanding,
            samples_released=released,
        )


def taken_up(written: Ledger, checkpoint: Ledger) -> Ledger:
    """The ledger of a server that starts again: `written` by its last process, `checkpoint` when its weights were.

    What was applied after the checkpoint is rolled back; what was pending died with the process, and is too.
    """
    lost = written.applied - checkpoint.applied
    return Ledger(
        pushed=written.pushed,
        applied=checkpoint.applied,
        late=checkpoint.late,
        rolled_back=written.rolled_back + lost + written.pending,
        duplicates=written.duplicates,
        refused=Counter(written.refused),
        seen=dict(written.seen),
    )
