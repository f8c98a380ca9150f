"""Ranks that compute in turn, as the stages of a served model do for one stream: each when the one before it is done.

A rank that works for a part of the time is not as fast as one that works all the time. A share of a core is saved up
while it waits, clocks have to go up again, and machines that share a memory or the air are not in each other's way. So
a baton goes round over the run's own links, and who has it works. Rank 0 says when it was often enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from smolcluster.errors import InterruptedRun
from smolcluster.runtime.process import Stop

# The first round makes room.
_ROUNDS, _LEAST_S = 6, 3.0
_ON, _OVER, _STOPPED = 1, 0, -1
_TAG = 7


class Turns:
    """Of a world of two ranks at least. All call the same methods in the same order."""

    def __init__(self, rank: int, world_size: int, stop: Stop) -> None:
        self._rank, self._count, self._stop = rank, world_size, stop

    def part(self, seconds: float) -> float:
        """Of work that can be shared out and takes this rank so many seconds: its part, the quicker the more."""
        mine = torch.tensor([1 / seconds], dtype=torch.float64)
        each = [torch.zeros_like(mine) for _ in range(self._count)]
        dist.all_gather(each, mine)
        return float(mine / sum(each))

    def means(self, works: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of each of this rank's works, which begins when the same of the rank before it has ended; they come
        one after the other, again and again. InterruptedRun in all ranks where rank 0 is to stop.
        """
        seconds = [0.0] * len(works)
        rounds, began = 0, time.monotonic()
        while (says := self._round(works, seconds, self._says(rounds, time.monotonic() - began))) == _ON:
            if rounds == 0:
                seconds = [0.0] * len(works)
            rounds += 1
        if says == _STOPPED:
            raise InterruptedRun("stopped as asked")
        return [took / (rounds - 1) for took in seconds]

    def _round(self, works: Sequence[Callable[[], object]], seconds: list[float], says: int) -> int:
        """Each work once, if rank 0 says so; what it said."""
        baton = torch.tensor([says], dtype=torch.int32)
        for number, work in enumerate(works):
            if self._rank:
                dist.recv(baton, self._rank - 1, tag=_TAG)
            if baton.item() == _ON:
                began = time.perf_counter()
                work()
                seconds[number] += time.perf_counter() - began
            dist.send(baton, (self._rank + 1) % self._count, tag=_TAG)
            if self._rank == 0:
                dist.recv(baton, self._count - 1, tag=_TAG)
            if baton.item() != _ON:
                break
        return int(baton.item())

    def _says(self, rounds: int, seconds: float) -> int:
        if self._stop():
            return _STOPPED
        return _ON if rounds < _ROUNDS or seconds < _LEAST_S else _OVER
