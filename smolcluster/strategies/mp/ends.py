"""A tied embedding, which lies in the first and the last stage of a pipeline, seen from one of the two.

Each computes the gradient of its own end. The two are exchanged and added; a sum of two is the same whoever adds. Where
a stage has replicas theirs are summed before, so that both ends have it of the whole batch.
"""

from __future__ import annotations

import torch

from smolcluster.strategies.mp.hops import Incoming, Outgoing
from smolcluster.strategies.pieces import Range

# The tag of its messages: the ends may be neighbours too (stage.py has the others).
TIED = 3


class TiedEnd:
    """`place`: where it lies in this rank's line. `peer`: the rank of the other end. `seconds` grows by what waited."""

    def __init__(self, place: Range, peer: int, device: torch.device) -> None:
        self.place = place
        self.seconds = 0.0
        self._peer, self._device = peer, device

    def of(self, line: torch.Tensor) -> torch.Tensor:
        """The embedding's part of a buffer as long as the line."""
        return line[slice(*self.place)]

    def add_other(self, gradients: torch.Tensor) -> None:
        """Add the other end's gradient to this one's. Both ends call it."""
        mine = self.of(gradients)
        going, coming = Outgoing(self._peer, TIED), Incoming(self._peer, self._device, TIED)
        coming.expect([(mine.numel(),)])
        going.send(mine.clone())
        mine.add_(coming.take())
        going.flush()
        self.seconds += coming.seconds + going.seconds

    def send(self, parameters: torch.Tensor) -> None:
        """Give the other end these values."""
        going = Outgoing(self._peer, TIED)
        going.send(self.of(parameters))
        going.flush()

    def take(self, parameters: torch.Tensor) -> None:
        """Take the other end's values."""
        mine = self.of(parameters)
        coming = Incoming(self._peer, self._device, TIED)
        coming.expect([(mine.numel(),)])
        mine.copy_(coming.take())
