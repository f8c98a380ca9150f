"""Collectives in which every rank talks to every other: parts for each, and sums of narrow numbers.

Why float16 and bfloat16 do not take the ring when three or more ranks add: the ring rounds the partial sum at every
hop. Here each owner gets every rank's part itself, adds in float32, rounds once. The bytes are the same, (N-1)/N x P.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smolcluster.comm.backend.arithmetic import CODES
from smolcluster.comm.backend.flow import Folding, Incoming, Landing, Outgoing, Stamp, flow
from smolcluster.comm.backend.pairs import Pairs
from smolcluster.comm.backend.schedule import Reduction, bytes_of

NARROW = (torch.float16, torch.bfloat16)
_OPS = {"all_to_all": 16, "gather": 17, "scatter": 18, "widened_sum": 19, "widened_reduce": 20}


class Direct:
    """The direct exchanges of one group, called in the same order on every rank, one at a time."""

    def __init__(self, rank: int, size: int, pairs: Pairs, frame_bytes: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._rank = rank
        self._size = size
        self._pairs = pairs
        self._frame_bytes = frame_bytes
        self._seq = 0

    def widened_sum(self, shards: Sequence[Tensor], output: Tensor, mean: bool, reduction: Reduction) -> None:
        """The sum (or mean) over ranks of shards[my rank], added in float32, lands in `output`. May be the shard."""
        stamp = self._stamp("widened_sum", output.dtype)
        total = shards[self._rank].float()
        frame = self._frame_bytes // output.element_size()
        for step in range(1, self._size):
            to, source = (self._rank + step) % self._size, (self._rank - step) % self._size
            receives = [
                Folding(part, part, reduction.scratch, reduction.scratch_view, reduction.fold)
                for part in (total[at : at + frame] for at in range(0, total.numel(), frame))
            ]
            self._move(to, source, self._outgoing(shards[to]), receives, stamp)
        output.copy_(total.div_(self._size) if mean else total)

    def widened_reduce(self, flat: Tensor, root: int, mean: bool, reduction: Reduction) -> None:
        """The root's `flat` becomes the sum (or mean) over ranks, added in float32 and rounded once."""
        stamp = self._stamp("widened_reduce", flat.dtype)
        if self._rank != root:
            self._move(root, root, self._outgoing(flat), [], stamp)
            return
        total = flat.float()
        frame = self._frame_bytes // flat.element_size()
        parts = [total[at : at + frame] for at in range(0, total.numel(), frame)]
        for step in range(1, self._size):
            source = (root + step) % self._size
            receives = [
                Folding(part, part, reduction.scratch, reduction.scratch_view, reduction.fold) for part in parts
            ]
            self._move(source, source, [], receives, stamp)
        flat.copy_(total.div_(self._size) if mean else total)

    def all_to_all(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """inputs[r] goes to rank r; what rank r sends lands in outputs[r]. Flat, any sizes that agree pairwise."""
        stamp = self._stamp("all_to_all", inputs[0].dtype)
        outputs[self._rank].copy_(inputs[self._rank])
        for step in range(1, self._size):
            to, source = (self._rank + step) % self._size, (self._rank - step) % self._size
            self._move(to, source, self._outgoing(inputs[to]), self._landing(outputs[source]), stamp)

    def gather(self, outputs: Sequence[Tensor], mine: Tensor, root: int) -> None:
        """Every rank's `mine` lands in the root's outputs[its rank]."""
        stamp = self._stamp("gather", mine.dtype)
        if self._rank != root:
            self._move(root, root, self._outgoing(mine), [], stamp)
            return
        outputs[root].copy_(mine)
        for source in range(self._size):
            if source != root:
                self._move(source, source, [], self._landing(outputs[source]), stamp)

    def scatter(self, output: Tensor, inputs: Sequence[Tensor], root: int) -> None:
        """The root's inputs[r] lands in rank r's `output`."""
        stamp = self._stamp("scatter", output.dtype)
        if self._rank != root:
            self._move(root, root, [], self._landing(output), stamp)
            return
        output.copy_(inputs[root])
        for to in range(self._size):
            if to != root:
                self._move(to, to, self._outgoing(inputs[to]), [], stamp)

    def _move(
        self, to: int, source: int, sends: Sequence[Outgoing], receives: Sequence[Incoming], stamp: Stamp
    ) -> None:
        flow(self._pairs.link(to).out, self._pairs.link(source).inward, sends, receives, stamp, self.timeout_s)

    def _stamp(self, name: str, dtype: torch.dtype) -> Stamp:
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        return Stamp(_OPS[name], name, CODES.get(dtype, 0), self._seq)

    def _views(self, flat: Tensor) -> list[memoryview]:
        memory = bytes_of(flat)
        return [memory[at : at + self._frame_bytes] for at in range(0, len(memory), self._frame_bytes)]

    def _outgoing(self, flat: Tensor) -> list[Outgoing]:
        return [Outgoing(view, 0) for view in self._views(flat)]

    def _landing(self, flat: Tensor) -> list[Incoming]:
        return [Landing(view) for view in self._views(flat)]
