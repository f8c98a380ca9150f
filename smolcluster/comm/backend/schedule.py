"""Which bytes of which shard go out and come in when: the ring algorithms as lists of frames for flow.py.

A buffer has one shard per rank; shards are cut into columns of at most a frame. A column travels round the ring step by
step. Columns go in groups of GROUP: while one is being folded the next is on the wire, and the group's bytes are still
in the cache when they are sent on. Neighbouring ranks have the same schedule, shifted, so frame i out is frame i in.

Bytes per rank for a buffer of P: reduce-scatter and all-gather (N-1)/N x P, all-reduce both, whatever the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smolcluster.comm.backend.arithmetic import Fold
from smolcluster.comm.backend.flow import Folding, Incoming, Landing, Outgoing, Sending

GROUP = 2


@dataclass(frozen=True)
class Ring:
    """This rank's place: `rank` of `size`."""

    rank: int
    size: int


@dataclass(frozen=True)
class Reduction:
    """How to fold, what to do with the finished numbers (the division of AVG), and memory for what comes in."""

    fold: Fold
    finish: Callable[[Tensor], None] | None
    scratch: Tensor
    scratch_view: memoryview


Plan = tuple[list[Outgoing], list[Incoming]]


def shard_bounds(count: int, size: int) -> list[int]:
    """Where the shards of `count` numbers begin, and the end: even, the first ones one larger if it does not divide."""
    base, more = divmod(count, size)
    return [rank * base + min(rank, more) for rank in range(size + 1)]


def bytes_of(flat: Tensor) -> memoryview:
    """The memory of a flat, contiguous CPU tensor, without a copy."""
    if flat.numel() == 0:
        return memoryview(bytearray())
    return flat.detach().view(torch.uint8).numpy().data


def _columns(longest: int, frame: int) -> Iterator[range]:
    """Groups of column numbers."""
    columns = -(-longest // frame)
    for first in range(0, columns, GROUP):
        yield range(first, min(first + GROUP, columns))


def all_reduce(ring: Ring, flat: Tensor, frame: int, reduction: Reduction) -> Plan:
    """In place. `frame` is in numbers. Steps 0..N-2 reduce, N-1..2N-3 gather; a step sends what the last brought."""
    size, rank = ring.size, ring.rank
    bounds = shard_bounds(flat.numel(), size)
    item = flat.element_size()
    memory = bytes_of(flat)
    sends: list[Outgoing] = []
    receives: list[Incoming] = []
    for group in _columns(bounds[1], frame):
        arrived: dict[tuple[int, int], int] = {}
        for step in range(2 * size - 2):
            reducing = step < size - 1
            for column in group:
                gone = (rank - step - 1) % size
                low, high = _cut(bounds, gone, column, frame)
                if low < high:
                    sends.append(Sending(memory[low * item : high * item], arrived.get((gone, column), 0)))
                come = (rank - step - 2) % size
                low, high = _cut(bounds, come, column, frame)
                if low < high:
                    if reducing:
                        own = flat[low:high]
                        finish = reduction.finish if step == size - 2 else None
                        receives.append(
                            Folding(own, own, reduction.scratch, reduction.scratch_view, reduction.fold, finish)
                        )
                    else:
                        receives.append(Landing(memory[low * item : high * item]))
                    arrived[come, column] = len(receives)
    return sends, receives


def reduce_scatter(
    ring: Ring, shards: Sequence[Tensor], output: Tensor, frame: int, reduction: Reduction, spare: Tensor | None
) -> Plan:
    """`shards[r]` is this rank's part for rank r, all flat; rank's own sum lands in `output`. Inputs stay as they are.

    `spare` holds partial sums on their way when N > 2: two slots of GROUP frames (see `spare_numbers`).
    """
    size, rank = ring.size, ring.rank
    memories = [bytes_of(shard) for shard in shards]
    item = output.element_size()
    spare_bytes = bytes_of(spare) if spare is not None else None
    sends: list[Outgoing] = []
    receives: list[Incoming] = []
    slot_free: dict[int, int] = {}
    longest = max(shard.numel() for shard in shards)
    stride = min(frame, longest)
    for group in _columns(longest, frame):
        arrived: dict[tuple[int, int], tuple[int, int]] = {}
        for step in range(size - 1):
            for column in group:
                gone = (rank - step - 1) % size
                low, high = _span(shards[gone], column, frame)
                if low < high:
                    if step == 0:
                        sends.append(Sending(memories[gone][low * item : high * item], 0))
                    else:
                        need, slot = arrived[gone, column]
                        assert spare_bytes is not None
                        at = slot * stride * item
                        sends.append(Sending(spare_bytes[at : at + (high - low) * item], need))
                        slot_free[slot] = len(sends)
                come = (rank - step - 2) % size
                low, high = _span(shards[come], column, frame)
                if low < high:
                    last = step == size - 2
                    slot = step % 2 * GROUP + column - group.start
                    if last:
                        target = output[low:high]
                    else:
                        assert spare is not None
                        target = spare[slot * stride : slot * stride + high - low]
                    receives.append(
                        Folding(
                            target,
                            shards[come][low:high],
                            reduction.scratch,
                            reduction.scratch_view,
                            reduction.fold,
                            reduction.finish if last else None,
                            0 if last else slot_free.get(slot, 0),
                        )
                    )
                    arrived[come, column] = (len(receives), slot)
    return sends, receives


def spare_numbers(size: int, longest: int, frame: int) -> int:
    """How many numbers `reduce_scatter` needs as spare memory; 0 for two ranks."""
    return 0 if size < 3 else 2 * GROUP * min(frame, longest)


def all_gather(ring: Ring, parts: Sequence[Tensor], frame_bytes: int) -> Plan:
    """`parts[r]` is where rank r's part goes, this rank's own being there already. Flat, any dtype."""
    size, rank = ring.size, ring.rank
    memories = [bytes_of(part) for part in parts]
    sends: list[Outgoing] = []
    receives: list[Incoming] = []
    for group in _columns(max(len(memory) for memory in memories), frame_bytes):
        arrived: dict[tuple[int, int], int] = {}
        for step in range(size - 1):
            for column in group:
                gone, come = (rank - step) % size, (rank - step - 1) % size
                view = memories[gone][column * frame_bytes : (column + 1) * frame_bytes]
                if view:
                    sends.append(Sending(view, arrived.get((gone, column), 0)))
                view = memories[come][column * frame_bytes : (column + 1) * frame_bytes]
                if view:
                    receives.append(Landing(view))
                    arrived[come, column] = len(receives)
    return sends, receives


def broadcast(ring: Ring, flat: Tensor, root: int, frame_bytes: int) -> Plan:
    """Down the chain root, root+1, ...: everybody passes on what has come, the last one only receives."""
    memory = bytes_of(flat)
    place = (ring.rank - root) % ring.size
    views = [memory[at : at + frame_bytes] for at in range(0, len(memory), frame_bytes)]
    receives: list[Incoming] = [Landing(view) for view in views] if place else []
    sends: list[Outgoing] = (
        [Sending(view, i + 1 if place else 0) for i, view in enumerate(views)] if place < ring.size - 1 else []
    )
    return sends, receives


def _cut(bounds: list[int], shard: int, column: int, frame: int) -> tuple[int, int]:
    low = bounds[shard] + column * frame
    return low, min(low + frame, bounds[shard + 1])


def _span(shard: Tensor, column: int, frame: int) -> tuple[int, int]:
    low = column * frame
    return low, min(low + frame, shard.numel())
