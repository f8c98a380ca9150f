"""Sums of gradients over ranks, in the wire format of the plan: what travels for a bucket, and what is kept of it here.

fp32: as they are, around the ring. bf16, fp16: cast, added by the backend in float32 and rounded. int8: each rank seals
its part of every other rank's shard; the owner adds up what it decodes, and its own part, in float32. In an all-reduce
the owner seals the sum once more, and everybody, the owner too, takes what that decodes to: replicas stay equal to the
bit. Both losses are kept and added the next time (comm/feedback.py): a rank's in its own parts, an owner's in its sums.

A rank's own part of its own shard does not travel, so one buffer as long as the bucket holds both kinds of residual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from smolcluster.comm.codec import codec_of
from smolcluster.comm.feedback import ErrorFeedback
from smolcluster.runtime.device import Collectives, Pending
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.flat import Layout
from smolcluster.strategies.pieces import Piece

# float16 ends at 65504, and below 6e-5 it loses digits. Gradients of the mean loss travel times this: what clipping is
# made for stays far below the one, what AdamW can tell from nothing above the other.
HALF_UNIT = 1024.0
# Buckets of an all-reduce that travel to their owners while the one before them is summed up.
AHEAD = 1


class Sums(Protocol):
    """Every rank must call the same in the same order, and wait in that order.

    residuals: what int8 has not sent yet, by bucket; empty for the others. It belongs to this rank alone.
    """

    residuals: Sequence[Piece]

    def all_reduce(self, bucket: int, tensor: torch.Tensor) -> Pending:
        """Sum over ranks, in place, the same bits on every rank."""
        ...

    def reduce_scatter(self, bucket: int, output: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """`output` gets this rank's even share of the sum; as in Collectives, it may be that part of `tensor`."""
        ...

    def forget(self) -> None:
        """The step is left out: drop what was kept of it."""
        ...

    def rescale(self, factor: float) -> None:
        """Gradients are this much larger from now on."""
        ...


def sums_of(wire: WireFormat, layout: Layout, collectives: Collectives, unit: Callable[[], float]) -> Sums:
    """The sums of a layout's buckets. `unit()`: what gradients are multiplied by now, compared with the mean loss's."""
    if collectives.world_size == 1:  # a rank alone sends nothing
        return ExactSums(collectives)
    match wire:
        case "fp32":
            return ExactSums(collectives)
        case "bf16":
            return CastSums(collectives, torch.bfloat16, lambda: 1.0)
        case "fp16":
            return CastSums(collectives, torch.float16, lambda: HALF_UNIT / unit())
        case "int8":
            return Int8Sums(layout, collectives)


class ExactSums:
    """float32 on the wire."""

    residuals: Sequence[Piece] = ()

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives

    def all_reduce(self, bucket: int, tensor: torch.Tensor) -> Pending:  # noqa: ARG002
        """See Sums."""
        return self._collectives.all_reduce(tensor)

    def reduce_scatter(self, bucket: int, output: torch.Tensor, tensor: torch.Tensor) -> Pending:  # noqa: ARG002
        """See Sums."""
        return self._collectives.reduce_scatter(output, tensor)

    def forget(self) -> None:
        """Nothing is kept."""

    def rescale(self, factor: float) -> None:
        """Nothing is kept."""


class CastSums:
    """A shorter floating point on the wire. `scale()`: a power of two by which numbers are multiplied for the way."""

    residuals: Sequence[Piece] = ()

    def __init__(self, collectives: Collectives, dtype: torch.dtype, scale: Callable[[], float]) -> None:
        self._collectives = collectives
        self._dtype = dtype
        self._scale = scale

    def all_reduce(self, bucket: int, tensor: torch.Tensor) -> Pending:  # noqa: ARG002
        """See Sums."""
        scale = self._scale()
        short = self._cast(tensor, scale)
        return Then(self._collectives.all_reduce(short), lambda: self._back(tensor, short, scale))

    def reduce_scatter(self, bucket: int, output: torch.Tensor, tensor: torch.Tensor) -> Pending:  # noqa: ARG002
        """See Sums."""
        scale = self._scale()
        short = self._cast(tensor, scale)
        mine = short.view(self._collectives.world_size, -1)[self._collectives.rank]
        return Then(self._collectives.reduce_scatter(mine, short), lambda: self._back(output, mine, scale))

    def forget(self) -> None:
        """Nothing is kept."""

    def rescale(self, factor: float) -> None:
        """Nothing is kept."""

    def _cast(self, tensor: torch.Tensor, scale: float) -> torch.Tensor:
        short = torch.empty_like(tensor, dtype=self._dtype)
        return short.copy_(tensor) if scale == 1.0 else torch.mul(tensor, scale, out=short)

    @staticmethod
    def _back(tensor: torch.Tensor, short: torch.Tensor, scale: float) -> None:
        tensor.copy_(short)
        if scale != 1.0:
            tensor.mul_(1.0 / scale)


class Int8Sums:
    """int8 blocks on the wire, with error feedback."""

    def __init__(self, layout: Layout, collectives: Collectives) -> None:
        self._collectives = collectives
        self._codec = codec_of("int8")
        self.residuals: Sequence[Piece] = [
            Piece(b.start, b.stop, layout.zeros(b.stop - b.start)) for b in layout.buckets
        ]
        self._to_owners: deque[_AllReduce] = deque()

    def all_reduce(self, bucket: int, tensor: torch.Tensor) -> Pending:
        """See Sums. Its second half begins when the next bucket but AHEAD comes, or somebody waits."""
        shards, owed = self._shards(tensor), self._shards(self.residuals[bucket].values)
        own, mine = shards[self._collectives.rank], owed[self._collectives.rank]
        to_owner = self._to_owner(own, shards, owed)
        reduction = _AllReduce(self, to_owner, lambda: self._all_gather(tensor, own, mine))
        self._to_owners.append(reduction)
        while len(self._to_owners) > AHEAD + 1:
            self.gather_next()
        return reduction

    def reduce_scatter(self, bucket: int, output: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """See Sums."""
        shards, owed = self._shards(tensor), self._shards(self.residuals[bucket].values)
        own = shards[self._collectives.rank]
        if output.data_ptr() != own.data_ptr():
            output.copy_(own)
        # An owner that has no sum to seal keeps nothing; but a checkpoint may have been one's that did.
        mine = owed[self._collectives.rank]
        output.add_(mine)
        mine.zero_()
        return self._to_owner(output, shards, owed)

    def gather_next(self) -> None:
        """Take the oldest all-reduce whose parts are on their way to its second half. The same on every rank."""
        self._to_owners.popleft().gather()

    def gather_until(self, reduction: _AllReduce) -> None:
        """The same with all up to that one."""
        while reduction in self._to_owners:
            self.gather_next()

    def _all_gather(self, tensor: torch.Tensor, own: torch.Tensor, owed: torch.Tensor) -> Pending:
        """The second half: seal the sum of the own shard, and decode everybody's into `tensor`."""
        size, length = self._collectives.world_size, self._codec.frame_bytes(own.numel())
        frames = torch.empty(size * length, dtype=torch.uint8, device=tensor.device).view(size, length)
        mine = ErrorFeedback(self._codec, owed, frames[self._collectives.rank]).seal(own)

        def decode() -> None:
            for frame, shard in zip(frames, self._shards(tensor), strict=True):
                self._codec.decode(frame, shard)

        return Then(self._collectives.all_gather(frames.view(-1), mine), decode)

    def forget(self) -> None:
        """See Sums."""
        for piece in self.residuals:
            piece.values.zero_()

    def rescale(self, factor: float) -> None:
        """See Sums."""
        for piece in self.residuals:
            piece.values.mul_(factor)

    def _to_owner(self, total: torch.Tensor, shards: Sequence[torch.Tensor], owed: Sequence[torch.Tensor]) -> Pending:
        """Seal every other rank's shard and send it there; add what comes for this rank's to `total`, by rank."""
        size, rank = self._collectives.world_size, self._collectives.rank
        others = [other for other in range(size) if other != rank]
        length = self._codec.frame_bytes(total.numel())
        going, coming = torch.empty(2, size, length, dtype=torch.uint8, device=total.device)
        for other in others:
            ErrorFeedback(self._codec, owed[other], going[other]).seal(shards[other])

        def add() -> None:
            for other in others:
                self._codec.add(coming[other], total)

        return Then(self._collectives.all_to_all(coming.view(-1), going.view(-1)), add)

    def _shards(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        return tensor.view(self._collectives.world_size, -1).unbind()


class Then:
    """A collective, and what is done with what it brought, once."""

    def __init__(self, pending: Pending, then: Callable[[], None]) -> None:
        self._pending = pending
        self._then: Callable[[], None] | None = then

    def wait(self) -> None:
        """Wait for the one, do the other."""
        self._pending.wait()
        if self._then is not None:
            then, self._then = self._then, None
            then()


class _AllReduce:
    """An all-reduce in int8: a reduce-scatter under way, then an all-gather, which `all_gather` begins."""

    def __init__(self, sums: Int8Sums, to_owner: Pending, all_gather: Callable[[], Pending]) -> None:
        self._sums = sums
        self._to_owner = to_owner
        self._all_gather = all_gather
        self._gathering: Pending | None = None

    def gather(self) -> None:
        """Finish the first half and begin the second."""
        self._to_owner.wait()
        self._gathering = self._all_gather()

    def wait(self) -> None:
        """Until all of the sum stands in the tensor."""
        self._sums.gather_until(self)
        assert self._gathering is not None, "gather_until begins it"
        self._gathering.wait()
