"""Which samples of a run are whose. Pure: no clock of its own, no threads.

The samples of all steps stand in one line, in the order that every other strategy takes them in (data/order.py): the
first global batch, the second, and so on. A lease is a half-open range of that line, given to a worker for as long as
it is there. It is acknowledged when its gradient is applied; when its holder leaves, or its time is over, the range is
given to whoever asks next. So at every moment

    leased = applied + outstanding + released      samples given out = done, under way, given up
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

Range = tuple[int, int]  # first sample, samples
_NOBODY = -1


@dataclass(frozen=True)
class Lease:
    """Samples `start` to `start + count`, under a number that is given once."""

    number: int
    start: int
    count: int


@dataclass
class _Given:
    lease: Lease
    holder: int
    until: float


class Leases:
    """All `total` samples of a run, of which those before `front` are done, but for the ranges `back`. What lies beyond
    `total` is not of this run, which may be shorter than the one it goes on from. Holders are any numbers; times of any
    steady clock.
    """

    def __init__(self, total: int, front: int = 0, back: Iterable[Range] = ()) -> None:
        self.total = total
        self._front = min(front, total)
        self._numbers = 0
        within = ((start, min(count, total - start)) for start, count in back if start < total)
        self._back: deque[Lease] = deque(self._numbered(start, count) for start, count in within)
        self._given: dict[int, _Given] = {}
        self.applied = self._front - sum(lease.count for lease in self._back)
        self.leased = self.applied
        self.released = 0

    @property
    def outstanding(self) -> int:
        """Samples that are under way."""
        return sum(given.lease.count for given in self._given.values())

    @property
    def left(self) -> int:
        """Samples that are not applied yet."""
        return self.total - self.applied

    @property
    def free(self) -> int:
        """Samples that can be given out now."""
        return self.left - self.outstanding

    def give(self, holder: int, count: int, until: float) -> Lease | None:
        """The next samples, at most so many; None if there are none to give now. What was given back goes first."""
        if self._back:
            lease = self._back.popleft()
            if lease.count > count:
                self._back.appendleft(self._numbered(lease.start + count, lease.count - count))
                lease = self._numbered(lease.start, count)
        elif self._front < self.total:
            lease = self._numbered(self._front, min(count, self.total - self._front))
            self._front += lease.count
        else:
            return None
        self._given[lease.number] = _Given(lease, holder, until)
        self.leased += lease.count
        return lease

    def held(self, holder: int) -> int:
        """How many leases a holder has."""
        return sum(given.holder == holder for given in self._given.values())

    def take_up(self, leased: int) -> None:
        """Go on with the count of a server that was killed: what it gave out and nobody applied is given up."""
        self.leased = max(leased, self.applied)
        self.released = self.leased - self.applied

    def find(self, number: int, holder: int) -> Lease | None:
        """The lease, if it is the holder's, or was given back and is nobody's yet; None if it is another's, or done."""
        given = self._given.get(number)
        if given is not None:
            return given.lease if given.holder == holder else None
        return next((lease for lease in self._back if lease.number == number), None)

    def keep(self, lease: Lease) -> None:
        """Its gradient is here and will be applied: who leaves does not give it back. It is one that `find` has just
        found, and is outstanding until `acknowledge`."""
        if self._given.pop(lease.number, None) is None:
            self._back.remove(lease)
            self.released -= lease.count
        self._given[lease.number] = _Given(lease, _NOBODY, math.inf)

    def acknowledge(self, lease: Lease) -> None:
        """It was applied. It is one that `find` has just found."""
        if self._given.pop(lease.number, None) is None:
            self._back.remove(lease)
            self.released -= lease.count
        self.applied += lease.count

    def release(self, lease: Lease) -> None:
        """It was not applied: somebody gets it again."""
        if self._given.pop(lease.number, None) is not None:
            self._back.append(lease)
            self.released += lease.count

    def leave(self, holder: int) -> int:
        """The holder is gone: its leases are given back. How many samples that are."""
        leases = [given.lease for given in self._given.values() if given.holder == holder]
        for lease in leases:
            self.release(lease)
        return sum(lease.count for lease in leases)

    def expire(self, now: float) -> list[tuple[int, Lease]]:
        """Give back what was given until now or earlier: who held it, and what it is."""
        over = [(given.holder, given.lease) for given in self._given.values() if given.until <= now]
        for _, lease in over:
            self.release(lease)
        return over

    def open_ranges(self) -> tuple[int, tuple[Range, ...]]:
        """`front` and `back` of a Leases that goes on from here when everybody is gone."""
        leases = [*self._back, *(given.lease for given in self._given.values())]
        return self._front, tuple(sorted((lease.start, lease.count) for lease in leases))

    def _numbered(self, start: int, count: int) -> Lease:
        self._numbers += 1
        return Lease(self._numbers, start, count)
