"""Gradients of which a rank keeps its share only: what stages 2 and 3 have in common."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

from smolcluster.runtime.device import Pending
from smolcluster.strategies.flat import Bucket, Layout
from smolcluster.strategies.pieces import Piece
from smolcluster.strategies.sums import Sums

# Buckets that may travel at once. More would hide a slow wire no better, and hold more memory.
MOST_TRAVELLING = 2


@dataclass(frozen=True)
class _Travelling:
    """A bucket on its way, and where this rank's share of the sum will stand: in the shard, or in `room` still."""

    pending: Pending
    shard: torch.Tensor
    room: torch.Tensor | None


class ScatteredGradients:
    """This rank's share of every bucket's gradient, summed over ranks and micro-batches.

    A whole bucket has memory from its first gradient of a micro-batch until it has been reduced, so that at most a few
    of them are there at any time, however slow the wire is.
    """

    def __init__(self, layout: Layout, rank: int, sums: Sums) -> None:
        self._layout = layout
        self._rank = rank
        self._sums = sums
        ranges = [layout.shard_range(bucket, rank) for bucket in layout.buckets]
        self.pieces = [Piece(start, stop, layout.zeros(stop - start)) for start, stop in ranges]
        self._used = [layout.spans_in(b)[-1].stop - b.start for b in layout.buckets]  # what follows is padding
        self._rooms: dict[int, torch.Tensor] = {}
        self._travelling: deque[_Travelling] = deque()
        self._summed: set[int] = set()

    def begin(self) -> None:
        """Start a step: its first micro-batch's sums replace what is in the shards, the others' are added."""
        self._summed.clear()

    def room(self, bucket: Bucket) -> torch.Tensor:
        """Where the gradients of a whole bucket are collected."""
        if bucket.index not in self._rooms:
            room = self._rooms[bucket.index] = self._layout.empty(bucket.stop - bucket.start)
            room[self._used[bucket.index] :].zero_()
        return self._rooms[bucket.index]

    def send(self, bucket: Bucket) -> None:
        """Reduce-scatter a bucket, once those before it leave room on the wire."""
        while len(self._travelling) >= MOST_TRAVELLING:
            self._arrive()
        room, shard = self.room(bucket), self.pieces[bucket.index].values
        del self._rooms[bucket.index]
        if bucket.index not in self._summed:
            self._summed.add(bucket.index)
            pending = self._sums.reduce_scatter(bucket.index, shard, room)
            self._travelling.append(_Travelling(pending, shard, None))
        else:
            mine = room.view(self._layout.world_size, -1)[self._rank]
            pending = self._sums.reduce_scatter(bucket.index, mine, room)
            self._travelling.append(_Travelling(pending, shard, mine))

    def arrived(self) -> None:
        """Wait until all that was sent stands in the shards."""
        while self._travelling:
            self._arrive()

    def _arrive(self) -> None:
        first = self._travelling.popleft()
        first.pending.wait()
        if first.room is not None:
            first.shard.add_(first.room)
