"""The collectives of one group: a ring of links, a count of operations, some scratch memory. Blocking.

They are called in the same order on every rank, one at a time (lane.py sees to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from smolcluster.comm.backend import rooted, schedule
from smolcluster.comm.backend.arithmetic import CODES, fold_of
from smolcluster.comm.backend.direct import Direct
from smolcluster.comm.backend.flow import BLOCK_BYTES, Stamp, flow
from smolcluster.comm.backend.pairs import Pairs
from smolcluster.comm.backend.schedule import Reduction, Ring
from smolcluster.comm.backend.widened import NARROW, RING_ADDS
from smolcluster.comm.link import Link

_OPS = {"all_reduce": 1, "reduce_scatter": 2, "all_gather": 3, "broadcast": 4, "reduce": 5}
# The largest frame whatever buffer_bytes says: beyond it a group of columns no longer fits the caches.
_LARGEST_FRAME = 4 << 20
_SMALLEST_FRAME = 64 << 10
# A shard of at least this is cut in two, so that one half is folded while the other is on the wire.
_WORTH_CUTTING = 256 << 10


class Collectives:
    """`onward` leads to the next rank of the ring, `backward` to the previous one; with two ranks they are one link."""

    def __init__(
        self, rank: int, size: int, onward: Link, backward: Link, pairs: Pairs, buffer_bytes: int, timeout_s: float
    ) -> None:
        self.ring = Ring(rank, size)
        self._timeout_s = timeout_s
        self._onward = onward
        self._backward = backward
        # Multiples of 64: no number, of whatever type, is cut in two.
        self._frame_bytes = max(_SMALLEST_FRAME, min(buffer_bytes // schedule.GROUP, _LARGEST_FRAME)) // 64 * 64
        self.direct = Direct(rank, size, pairs, self._frame_bytes, timeout_s)
        self._seq = 0
        self._scratch = torch.empty(BLOCK_BYTES, dtype=torch.uint8)
        self._scratch_view = schedule.bytes_of(self._scratch)
        self._spare: Tensor | None = None

    def set_timeout(self, timeout_s: float) -> None:
        """For operations that begin from now on."""
        self._timeout_s = self.direct.timeout_s = timeout_s

    def all_reduce(self, flat: Tensor, op: str) -> None:
        """In place, over a flat contiguous tensor of any length."""
        reduction = self._reduction(op, flat.dtype)
        if self._widens(op, flat.dtype):
            bounds = schedule.shard_bounds(flat.numel(), self.ring.size)
            shards = [flat[low:high] for low, high in pairwise(bounds)]
            self.direct.widened_sum(shards, shards[self.ring.rank], op == "AVG", share=True)
            return
        longest = -(-flat.numel() // self.ring.size)
        plan = schedule.all_reduce(self.ring, flat, self._frame(longest, flat.dtype.itemsize), reduction)
        self._run("all_reduce", flat.dtype, plan)

    def reduce_scatter(self, shards: Sequence[Tensor], output: Tensor, op: str) -> None:
        """`shards[r]` of every rank, folded, lands in rank r's `output`. All flat and contiguous."""
        reduction = self._reduction(op, output.dtype)
        if self._widens(op, output.dtype):
            self.direct.widened_sum(shards, output, op == "AVG", share=False)
            return
        longest = max(shard.numel() for shard in shards)
        frame = self._frame(longest, output.dtype.itemsize)
        spare = self._spare_for(schedule.spare_numbers(self.ring.size, longest, frame), output.dtype)
        plan = schedule.reduce_scatter(self.ring, shards, output, frame, reduction, spare)
        self._run("reduce_scatter", output.dtype, plan)

    def all_gather(self, parts: Sequence[Tensor], mine: Tensor) -> None:
        """Every rank's `mine` lands in parts[its rank]. All flat and contiguous."""
        own = parts[self.ring.rank]
        if own.data_ptr() != mine.data_ptr():
            own.copy_(mine)
        longest = max(part.numel() * part.element_size() for part in parts)
        self._run("all_gather", mine.dtype, schedule.all_gather(self.ring, parts, self._frame(longest, 1)))

    def broadcast(self, flat: Tensor, root: int) -> None:
        """`flat` of group rank `root` lands in everybody's."""
        self._run("broadcast", flat.dtype, schedule.broadcast(self.ring, flat, root, self._frame_bytes))

    def reduce(self, flat: Tensor, op: str, root: int) -> None:
        """Group rank `root`'s flat tensor becomes the reduction of all; everybody else's stays as it is."""
        reduction = self._reduction(op, flat.dtype)
        if self._widens(op, flat.dtype, ring_adds=2):
            self.direct.widened_reduce(flat, root, op == "AVG")
            return
        frame = self._frame_bytes // flat.element_size()
        spare = self._spare_for(rooted.spare_numbers(self.ring, root, frame), flat.dtype)
        self._run("reduce", flat.dtype, rooted.chain_to_root(self.ring, flat, root, frame, reduction, spare))

    def _run(self, name: str, dtype: torch.dtype, plan: schedule.Plan) -> None:
        stamp = Stamp(_OPS[name], name, CODES.get(dtype, 0), self._seq)
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        flow(self._onward.out, self._backward.inward, *plan, stamp, self._timeout_s)

    def _frame(self, longest: int, item_bytes: int) -> int:
        """How many numbers of a shard of `longest` go into a frame: even pieces, the same on every rank."""
        columns = -(-longest * item_bytes // self._frame_bytes)
        if longest * item_bytes >= _WORTH_CUTTING:
            columns = max(columns, schedule.GROUP)
        return max(1, -(-longest // max(1, columns)))

    def _widens(self, op: str, dtype: torch.dtype, ring_adds: int = RING_ADDS) -> bool:
        """Whether narrow numbers are added in float32 and rounded once, and not on the way from rank to rank.

        `ring_adds`: up to so many ranks sums take that way. Means do not, which may exist where the sum overflows.
        """
        most = {"SUM": ring_adds, "AVG": 2}.get(op)
        return dtype in NARROW and most is not None and self.ring.size > most

    def _reduction(self, op: str, dtype: torch.dtype) -> Reduction:
        fold = fold_of(op, dtype)
        size = self.ring.size

        def divide(block: Tensor) -> None:
            block.div_(size)

        return Reduction(fold, divide if op == "AVG" else None, self._scratch.view(dtype), self._scratch_view)

    def _spare_for(self, numbers: int, dtype: torch.dtype) -> Tensor | None:
        """Memory for partial sums, kept between operations."""
        if numbers == 0:
            return None
        needed = numbers * dtype.itemsize
        if self._spare is None or self._spare.numel() < needed:
            self._spare = torch.empty(needed, dtype=torch.uint8)
        return self._spare[:needed].view(dtype)
