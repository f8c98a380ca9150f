"""Who computes which samples: the run's samples in one line, of which ranges are leased. Pure.

Position p of the line is sample p % B of global batch p // B (data/order.py; B: the plan's global batch), an endless
line in which every epoch has its own order. A lease takes what was given back first, then what nobody had yet, so at
any moment each position below `position` is in one place: done, leased, or given back. With all members on time, each
step takes a global batch, cut in rank order: the samples and shares of a run in lockstep.

A checkpoint holds the position and all that is not done below it; whoever goes on from it leases that again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from smolcluster.data.order import step_indices

# A half-open range of positions.
Positions = tuple[int, int]


class Leases:
    """Leases by the number of their task. `owed`: ranges below `position` that are to be computed again."""

    def __init__(self, position: int = 0, owed: Iterable[Positions] = ()) -> None:
        self.position = position
        self._given_back: deque[Positions] = deque(owed)
        self._leased: dict[int, tuple[Positions, ...]] = {}

    def lease(self, number: int, count: int) -> tuple[Positions, ...]:
        """`count` samples, in as few ranges as there are."""
        taken: list[Positions] = []
        while count and self._given_back:
            start, stop = self._given_back.popleft()
            cut = min(stop, start + count)
            if cut < stop:
                self._given_back.appendleft((cut, stop))
            taken.append((start, cut))
            count -= cut - start
        if count:
            taken.append((self.position, self.position + count))
            self.position += count
        self._leased[number] = tuple(taken)
        return self._leased[number]

    def done(self, number: int) -> None:
        """Its gradient is in a step."""
        del self._leased[number]

    def give_back(self, number: int) -> None:
        """Nobody will deliver it: the next leases take it."""
        self._given_back.extend(self._leased.pop(number))

    def owed(self) -> list[Positions]:
        """All below `position` that is in no step, in order: for a checkpoint."""
        return sorted([*self._given_back, *(each for ranges in self._leased.values() for each in ranges)])


def sample_numbers(ranges: Iterable[Positions], samples: int, global_batch: int, seed: int) -> np.ndarray:
    """The numbers (int64, 1-D) of the samples at these positions, for a split of `samples`."""
    parts = [
        step_indices(samples, global_batch, seed, step)[start:stop]
        for each in ranges
        for step, start, stop in _by_batch(each, global_batch)
    ]
    return np.concatenate(parts)


def _by_batch(positions: Positions, global_batch: int) -> Iterator[tuple[int, int, int]]:
    """The batches that a range touches, each with the half-open part of it."""
    at, end = positions
    while at < end:
        step, start = divmod(at, global_batch)
        stop = min(global_batch, start + end - at)
        yield step, start, stop
        at += stop - start
