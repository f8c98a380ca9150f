"""Sums of narrow numbers: float16 and bfloat16 that are added in float32 and rounded once.

Why they do not take the ring when many ranks add: the ring rounds the partial sum at every hop. Here each owner gets
every rank's part of its shard itself. The bytes are the ring's, (N-1)/N x P. With three ranks the ring rounds but once
on the way, and is faster (`python -m benchmarks.collectives`): there only means come here, whose sums may overflow.

A shard comes in column by column, from all ranks at once. A column is added when it is complete, always in the same
order of ranks: so the sum does not depend on who was faster. In an all-reduce it goes out at once to everybody.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smolcluster.comm.backend.schedule import bytes_of

NARROW = (torch.float16, torch.bfloat16)
# Up to so many ranks the sums of all_reduce and reduce_scatter take the ring.
RING_ADDS = 3
# A column's numbers on the wire, and how many columns may be incomplete. With the float32 sums they stay in a cache.
COLUMN_BYTES = 512 << 10
SLOTS = 4


class WidenedSum:
    """One shard's sum over ranks on its way. `peers` others contribute; `own` is this rank's part.

    The sum (or mean) lands in `output`, which may be `own` itself.
    """

    def __init__(self, own: Tensor, output: Tensor, peers: int, divisor: int, memory: Memory) -> None:
        starts = range(0, own.numel(), memory.column)
        self._owns = [own[at : at + memory.column] for at in starts]
        self._outputs = [output[at : at + memory.column] for at in starts]
        self._divisor = divisor
        self._memory = memory
        self._peers = peers
        self._arrived = [0] * len(self._owns)
        self.added = 0

    def contributions(self, peer: int) -> list[Contribution]:
        """Where the columns of the peer with that index go."""
        return [
            Contribution(self, column, self._memory.views[column % SLOTS][peer], own.numel() * own.element_size())
            for column, own in enumerate(self._owns)
        ]

    def arrived(self, column: int) -> None:
        """Another contribution to a column is there; add them all if it was the last."""
        self._arrived[column] += 1
        if self._arrived[column] < self._peers:
            return
        own = self._owns[column]
        sums = self._memory.sums[: own.numel()]
        sums.copy_(own)
        for part in self._memory.parts[column % SLOTS][: self._peers]:
            sums.add_(part[: own.numel()])
        self._outputs[column].copy_(sums if self._divisor == 1 else sums.div_(self._divisor))
        self.added += 1

    def finished(self) -> list[Finished]:
        """The columns of the sum, to be sent as they get ready."""
        return [Finished(self, column, bytes_of(output)) for column, output in enumerate(self._outputs)]


class Finished:
    """A column of the sum: a frame that goes out."""

    __slots__ = ("_column", "_sum", "view")

    def __init__(self, total: WidenedSum, column: int, view: memoryview) -> None:
        self._sum = total
        self._column = column
        self.view = view

    def ready(self, received: int) -> bool:  # noqa: ARG002
        """Once it was added."""
        return self._column < self._sum.added


class Contribution:
    """A column from one peer: a frame that comes in."""

    __slots__ = ("_column", "_sum", "_view", "size")

    def __init__(self, total: WidenedSum, column: int, view: memoryview, size: int) -> None:
        self._sum = total
        self._column = column
        self._view = view
        self.size = size

    def ready(self, sent: int) -> bool:  # noqa: ARG002
        """Once the column that had this slot before was added."""
        return self._column < self._sum.added + SLOTS

    def window(self, got: int) -> memoryview:
        """The rest of its place."""
        return self._view[got : self.size]

    def filled(self, got: int) -> None:
        """Tell the sum when it is complete."""
        if got == self.size:
            self._sum.arrived(self._column)


class Memory:
    """What sums of one dtype need besides the tensors: kept between operations."""

    def __init__(self, dtype: torch.dtype, peers: int, column_bytes: int) -> None:
        self.column = column_bytes // dtype.itemsize
        self.sums = torch.empty(self.column, dtype=torch.float32)
        self.parts = [[torch.empty(self.column, dtype=dtype) for _ in range(peers)] for _ in range(SLOTS)]
        self.views = [[bytes_of(part) for part in parts] for parts in self.parts]
