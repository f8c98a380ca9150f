"""What ranks under a staleness bound send each other: a head of fixed length, and behind some a body of fixed length.

    PUSH      the gradient of a step for the shard of whoever gets it, and the wish for the weights of the step after it
    WEIGHTS   the owner's shard, for that wish
    FENCE     the sender has answered everybody, and says no more until all have said the same

All numbers are big-endian. `body` says whether one follows: of a gradient that is 0 none does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import torch

from smolcluster.errors import ProtocolError
from smolcluster.strategies.stale.owner import Push, Reply

# kind, body, stop; generation, step, tokens or version, loss tokens or clock; lr, loss
_LAYOUT = struct.Struct("!BBBxxxxxqqqqdd")
HEAD_BYTES = _LAYOUT.size


class Kind(IntEnum):
    """What a message is."""

    PUSH = 1
    WEIGHTS = 2
    FENCE = 3


@dataclass(frozen=True)
class Weights:
    """An owner's shard for step `step`. clock: the slowest rank's when they were sent."""

    step: int
    version: int
    clock: int


@dataclass(frozen=True)
class Fence:
    """The sender rests after `step`."""

    step: int


Message = Push | Weights | Fence


def head_of(message: Push | Reply | Fence, body: bool) -> torch.Tensor:
    """Its head, uint8."""
    if isinstance(message, Push):
        m = message
        numbers = (m.generation, m.step, m.tokens, m.loss_tokens, m.lr, m.loss)
        packed = _LAYOUT.pack(Kind.PUSH, body, m.stop, *numbers)
    elif isinstance(message, Reply):
        packed = _LAYOUT.pack(Kind.WEIGHTS, body, 0, 0, message.step, message.version, message.clock, 0.0, 0.0)
    else:
        packed = _LAYOUT.pack(Kind.FENCE, body, 0, 0, message.step, 0, 0, 0.0, 0.0)
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def read_head(head: torch.Tensor, sender: int) -> tuple[Message, bool]:
    """A head that came from rank `sender`, and whether a body follows. ProtocolError if it is none."""
    kind, body, stop, generation, step, first, second, lr, loss = _LAYOUT.unpack(head.numpy().tobytes())
    if kind == Kind.PUSH:
        return Push(generation, sender, step, first, lr, loss, second, bool(stop)), bool(body)
    if kind == Kind.WEIGHTS:
        return Weights(step, first, second), bool(body)
    if kind == Kind.FENCE:
        return Fence(step), bool(body)
    raise ProtocolError(f"rank {sender} sent a message of the unknown kind {kind}")
