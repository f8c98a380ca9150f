"""New parameters on their way from the rank that updated them to all others, in the wire format of the plan.

The owner of a shard keeps it in float32, whatever travels, and updates that. What the replicas of stages 1 and 2 get is
the **change**: the owner encodes how far its shard is from what all replicas hold, and all of them, its own too, add
what that decodes to. So replicas are equal to the bit, and what one frame did not hold is still missing in the next
one's difference: error feedback without a buffer of its own. Stage 3 holds no replica that could be changed. There the
parameters themselves travel, and all ranks, the owner too, compute with what is decoded; evaluation and export gather
float32, since that is the model that is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from smolcluster.comm.codec import codec_of
from smolcluster.runtime.device import Collectives, Pending
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.sums import Then


class Gathers(Protocol):
    """`mine` is this rank's float32 shard. owner_copies: it may not be a part of `whole`."""

    owner_copies: bool

    def change(self, whole: torch.Tensor, mine: torch.Tensor) -> Pending:
        """Bring a replica, the same on all ranks, as near to the owners' shards as the format allows."""
        ...

    def fetch(self, whole: torch.Tensor, mine: torch.Tensor, exact: bool = False) -> Pending:
        """Fill `whole` with all shards, as the format has them, or `exact`."""
        ...


def gathers_of(wire: WireFormat, collectives: Collectives) -> Gathers:
    """How parameters travel. Those of a rank alone do not."""
    exact = wire == "fp32" or collectives.world_size == 1
    return ExactGathers(collectives) if exact else NarrowGathers(wire, collectives)


class ExactGathers:
    """float32 on the wire: the owner's shard can be a part of the replica."""

    owner_copies = False

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives

    def change(self, whole: torch.Tensor, mine: torch.Tensor) -> Pending:
        """See Gathers."""
        return self._collectives.all_gather(whole, mine)

    def fetch(self, whole: torch.Tensor, mine: torch.Tensor, exact: bool = False) -> Pending:  # noqa: ARG002
        """See Gathers."""
        return self._collectives.all_gather(whole, mine)


class NarrowGathers:
    """Frames of a codec on the wire."""

    owner_copies = True

    def __init__(self, wire: WireFormat, collectives: Collectives) -> None:
        self._collectives = collectives
        self._codec = codec_of(wire)

    def change(self, whole: torch.Tensor, mine: torch.Tensor) -> Pending:
        """See Gathers."""
        shards = whole.view(self._collectives.world_size, -1)
        frames = self._frames(mine)
        self._codec.encode(mine - shards[self._collectives.rank], frames[self._collectives.rank])

        def add() -> None:
            for frame, shard in zip(frames, shards, strict=True):
                self._codec.add(frame, shard)

        return self._gather(frames, add)

    def fetch(self, whole: torch.Tensor, mine: torch.Tensor, exact: bool = False) -> Pending:
        """See Gathers."""
        if exact:
            return self._collectives.all_gather(whole, mine)
        frames = self._frames(mine)
        self._codec.encode(mine, frames[self._collectives.rank])

        def decode() -> None:
            for frame, shard in zip(frames, whole.view(len(frames), -1), strict=True):
                self._codec.decode(frame, shard)

        return self._gather(frames, decode)

    def _frames(self, mine: torch.Tensor) -> torch.Tensor:
        size, length = self._collectives.world_size, self._codec.frame_bytes(mine.numel())
        return torch.empty(size, length, dtype=torch.uint8, device=mine.device)

    def _gather(self, frames: torch.Tensor, then: Callable[[], None]) -> Pending:
        mine = frames[self._collectives.rank]
        return Then(self._collectives.all_gather(frames.view(-1), mine), then)
