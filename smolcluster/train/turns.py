"""Ranks that compute in turn, as the stages of a served model do for one stream: each when the one before it is done.

A rank that works for a part of the time is not as fast as one that works all the time. A share of a core is saved up
while it waits, clocks have to go up again, and machines that share a memory or the air are not in each other's way. So
a baton goes round over the run's own links, and who has it works. Rank 0 says when it was often enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from smolcluster.errors import InterruptedRun

_ROUNDS = 6
_ON, _OVER, _STOPPED = 1, 0, -1
_TAG = 7


class Turns:
    """Of a world of two ranks at least. All call the same methods in the same order."""

    def __init__(self, rank: int, world_size: int, stop: Callable[[], bool]) -> None:
        self._rank, self._count, self._stop = rank, world_size, stop

    def part(self, seconds: float) -> float:
        """Of work that can be shared out and takes this rank so many seconds: its part, the quicker the more."""
        mine = torch.tensor([1 / seconds], dtype=torch.float64)
        each = [torch.zeros_like(mine) for _ in range(self._count)]
        dist.all_gather(each, mine)
        return float(mine / sum(each))

    def mean_s(self, work: Callable[[], object], least_s: float) -> float:
        """Seconds of this rank's work, which begins when that of the rank before it has ended; again and again, for so
        long at least. InterruptedRun in all ranks where rank 0 is to stop.
        """
        seconds, rounds, began = 0.0, 0, time.monotonic()
        baton = torch.zeros(1, dtype=torch.int32)
        while True:
            if self._rank:
                dist.recv(baton, self._rank - 1, tag=_TAG)
            else:
                baton.fill_(self._says(rounds, time.monotonic() - began >= least_s))
            if going := baton.item() == _ON:
                before = time.perf_counter()
                work()
                # The first round makes room.
                seconds += time.perf_counter() - before if rounds else 0.0
                rounds += 1
            dist.send(baton, (self._rank + 1) % self._count, tag=_TAG)
            if self._rank == 0:
                dist.recv(baton, self._count - 1, tag=_TAG)
            if baton.item() == _STOPPED:
                raise InterruptedRun("stopped as asked")
            if not going:
                return seconds / (rounds - 1)

    def _says(self, rounds: int, long_enough: bool) -> int:
        if self._stop():
            return _STOPPED
        return _OVER if long_enough and rounds >= _ROUNDS else _ON
