"""Gradients on their way to the owners of shards, and shards on their way back, in the wire format of the plan.

int8 gradients with error feedback, kept by the sender for each owner, as everywhere. Shards in another format than
fp32 go as the **change** since the last time: an owner keeps, for every rank, what that rank has (a shadow), sends
q(shard - shadow) and adds what that decodes to, as the rank does: both stay the same to the bit. fp32 is sent whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from smolcluster.comm.codec import codec_of
from smolcluster.comm.feedback import ErrorFeedback
from smolcluster.runtime.device import Collectives
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.flat import Layout
from smolcluster.strategies.pieces import Piece, Range
from smolcluster.strategies.sums import HALF_UNIT, ExactSums


class Shards:
    """The even shares of a layout's buckets, a rank's one after the other: 1-D, of `length` elements."""

    def __init__(self, layout: Layout, world_size: int) -> None:
        self._ranges = [[layout.shard_range(b, rank) for b in layout.buckets] for rank in range(world_size)]
        self.length = layout.length // world_size

    def ranges(self, rank: int) -> Sequence[Range]:
        """Where a rank's lie in the layout's line."""
        return self._ranges[rank]

    def read(self, line: torch.Tensor, rank: int) -> torch.Tensor:
        """A rank's, out of a whole line: a view where they are one range, else a copy."""
        parts = [line[start:stop] for start, stop in self._ranges[rank]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def write(self, values: torch.Tensor, line: torch.Tensor, rank: int) -> None:
        """Put a rank's into a whole line."""
        for piece in self.pieces(values, rank):
            line[piece.start : piece.stop].copy_(piece.values)

    def pieces(self, values: torch.Tensor, rank: int) -> list[Piece]:
        """A rank's values as pieces of the line: views."""
        pieces, at = [], 0
        for start, stop in self._ranges[rank]:
            pieces.append(Piece(start, stop, values[at : at + stop - start]))
            at += stop - start
        return pieces


class Gradients(ExactSums):
    """Frames of gradients that are sums over tokens. `tokens`: of a global batch, a power of two."""

    def __init__(self, wire: WireFormat, layout: Layout, collectives: Collectives, tokens: int) -> None:
        super().__init__(collectives)
        self.shards = Shards(layout, collectives.world_size)
        self._codec = codec_of(wire)
        self._reading = codec_of(wire)  # one thread at a time: this one is the owner's
        self._unit = HALF_UNIT / tokens if wire == "fp16" else 1.0
        self._owed = layout.zeros(layout.length) if wire == "int8" else None
        self.residuals = () if self._owed is None else (Piece(0, layout.length, self._owed),)

    @property
    def frame_bytes(self) -> int:
        """Of a shard, gradients or parameters."""
        return self._codec.frame_bytes(self.shards.length)

    def seal(self, grads: torch.Tensor, owner: int) -> torch.Tensor:
        """The frame for an owner, on the CPU, out of the whole line of gradients."""
        values = self.shards.read(grads, owner)
        frame = torch.empty(self.frame_bytes, dtype=torch.uint8, device=grads.device)
        if self._owed is None:
            self._codec.encode(values if self._unit == 1.0 else values * self._unit, frame)
        else:
            owed = self.shards.read(self._owed, owner)
            ErrorFeedback(self._codec, owed, frame).seal(values)
            self.shards.write(owed, self._owed, owner)
        return frame.cpu()

    def add(self, frame: torch.Tensor, box: torch.Tensor) -> None:
        """Add what a frame holds to the owner's box."""
        frame = frame.to(box.device)
        if self._unit == 1.0:
            self._reading.add(frame, box)
        else:
            values = torch.empty_like(box)
            self._reading.decode(frame, values)
            box.add_(values, alpha=1.0 / self._unit)

    def forget(self) -> None:
        """See Sums."""
        if self._owed is not None:
            self._owed.zero_()


class Parameters:
    """Frames of shards, from their owner to ranks that have had others before."""

    def __init__(self, wire: WireFormat, rank: int, world_size: int) -> None:
        self.whole = wire == "fp32"
        self._codec = codec_of(wire)
        self._reading = codec_of(wire)  # the worker's thread has one of its own
        self._others = [other for other in range(world_size) if other != rank]
        self._shadows: dict[int, torch.Tensor] = {}

    def start(self, shard: torch.Tensor) -> None:
        """All ranks have this now."""
        for other in () if self.whole else self._others:
            self._shadows.setdefault(other, torch.empty_like(shard)).copy_(shard)

    def seal(self, shard: torch.Tensor, rank: int) -> torch.Tensor:
        """The frame for a rank, on the CPU."""
        frame = torch.empty(self._codec.frame_bytes(shard.numel()), dtype=torch.uint8, device=shard.device)
        if self.whole:
            self._codec.encode(shard, frame)
        else:
            shadow = self._shadows[rank]
            self._codec.encode(shard - shadow, frame)
            self._codec.add(frame, shadow)
        return frame.cpu()

    def take(self, frames: Sequence[torch.Tensor], had: torch.Tensor) -> torch.Tensor:
        """The shard after these frames, in the order they came, where `had` was there before."""
        if self.whole:
            values = torch.empty_like(had)
            self._reading.decode(frames[-1].to(had.device), values)
            return values
        values = had.clone()
        for frame in frames:
            self._reading.add(frame.to(had.device), values)
        return values

    def memory(self) -> list[torch.Tensor]:
        """What is kept."""
        return list(self._shadows.values())
