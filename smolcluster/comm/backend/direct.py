"""Collectives in which ranks talk to each other directly: parts for each, and sums of narrow numbers (widened.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from smolcluster.comm.backend.arithmetic import CODES
from smolcluster.comm.backend.flow import Incoming, Landing, Outgoing, Sending, Stamp, Traffic, flow_all
from smolcluster.comm.backend.pairs import Pairs
from smolcluster.comm.backend.schedule import bytes_of
from smolcluster.comm.backend.widened import COLUMN_BYTES, Memory, WidenedSum

_OPS = {"all_to_all": 16, "gather": 17, "scatter": 18, "widened_sum": 19, "widened_reduce": 20}


class Direct:
    """The direct exchanges of one group, called in the same order on every rank, one at a time."""

    def __init__(self, rank: int, size: int, pairs: Pairs, frame_bytes: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._rank = rank
        self._size = size
        self._pairs = pairs
        self._frame_bytes = frame_bytes
        self._memory: dict[torch.dtype, Memory] = {}
        self._seq = 0

    def widened_sum(self, shards: Sequence[Tensor], output: Tensor, mean: bool, share: bool) -> None:
        """The sum (or mean) over ranks of shards[my rank], added in float32, lands in `output`. May be the shard.

        `share`: the others' sums land in their shards here too; `output` is then shards[my rank].
        """
        memory = self._memory_for(output.dtype)
        column_bytes = memory.column * output.element_size()
        total = WidenedSum(shards[self._rank], output, self._size - 1, self._size if mean else 1, memory)
        sends: dict[int, list[Outgoing]] = {}
        receives: dict[int, list[Incoming]] = {}
        for index, peer in enumerate(self._others()):
            sends[peer] = [*_sending(shards[peer], column_bytes), *(total.finished() if share else ())]
            receives[peer] = [*total.contributions(index), *(_landing(shards[peer], column_bytes) if share else ())]
        self._move(sends, receives, self._stamp("widened_sum", output.dtype))

    def widened_reduce(self, flat: Tensor, root: int, mean: bool) -> None:
        """The root's `flat` becomes the sum (or mean) over ranks, added in float32 and rounded once."""
        stamp = self._stamp("widened_reduce", flat.dtype)
        memory = self._memory_for(flat.dtype)
        if self._rank != root:
            self._move({root: _sending(flat, memory.column * flat.element_size())}, {}, stamp)
            return
        total = WidenedSum(flat, flat, self._size - 1, self._size if mean else 1, memory)
        self._move({}, {peer: total.contributions(index) for index, peer in enumerate(self._others())}, stamp)

    def all_to_all(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """inputs[r] goes to rank r; what rank r sends lands in outputs[r]. Flat, any sizes that agree pairwise."""
        stamp = self._stamp("all_to_all", inputs[0].dtype)
        outputs[self._rank].copy_(inputs[self._rank])
        sends = {to: self._sending(inputs[to]) for to in self._others()}
        self._move(sends, {source: self._landing(outputs[source]) for source in self._others()}, stamp)

    def gather(self, outputs: Sequence[Tensor], mine: Tensor, root: int) -> None:
        """Every rank's `mine` lands in the root's outputs[its rank]."""
        stamp = self._stamp("gather", mine.dtype)
        if self._rank != root:
            self._move({root: self._sending(mine)}, {}, stamp)
            return
        outputs[root].copy_(mine)
        self._move({}, {source: self._landing(outputs[source]) for source in self._others()}, stamp)

    def scatter(self, output: Tensor, inputs: Sequence[Tensor], root: int) -> None:
        """The root's inputs[r] lands in rank r's `output`."""
        stamp = self._stamp("scatter", output.dtype)
        if self._rank != root:
            self._move({}, {root: self._landing(output)}, stamp)
            return
        output.copy_(inputs[root])
        self._move({to: self._sending(inputs[to]) for to in self._others()}, {}, stamp)

    def _memory_for(self, dtype: torch.dtype) -> Memory:
        if dtype not in self._memory:
            self._memory[dtype] = Memory(dtype, self._size - 1, min(self._frame_bytes, COLUMN_BYTES))
        return self._memory[dtype]

    def _others(self) -> list[int]:
        """The other ranks, each rank beginning with the next one: so that not all send to the same one first."""
        return [(self._rank + step) % self._size for step in range(1, self._size)]

    def _move(
        self, sends: Mapping[int, Sequence[Outgoing]], receives: Mapping[int, Sequence[Incoming]], stamp: Stamp
    ) -> None:
        """What goes to and comes from whom, all at once."""
        traffics = []
        for peer in (peer for peer in self._others() if peer in sends or peer in receives):
            link = self._pairs.link(peer)
            traffics.append(Traffic(link.out, link.inward, sends.get(peer, ()), receives.get(peer, ())))
        flow_all(traffics, stamp, self.timeout_s)

    def _stamp(self, name: str, dtype: torch.dtype) -> Stamp:
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        return Stamp(_OPS[name], name, CODES.get(dtype, 0), self._seq)

    def _sending(self, flat: Tensor) -> list[Outgoing]:
        return _sending(flat, self._frame_bytes)

    def _landing(self, flat: Tensor) -> list[Incoming]:
        return _landing(flat, self._frame_bytes)


def _sending(flat: Tensor, frame_bytes: int) -> list[Outgoing]:
    return [Sending(view) for view in _frames(flat, frame_bytes)]


def _landing(flat: Tensor, frame_bytes: int) -> list[Incoming]:
    return [Landing(view) for view in _frames(flat, frame_bytes)]


def _frames(flat: Tensor, frame_bytes: int) -> list[memoryview]:
    memory = bytes_of(flat)
    return [memory[at : at + frame_bytes] for at in range(0, len(memory), frame_bytes)]
