"""ZeRO stage 2: the optimizer and the gradients sharded; state P + 3P/N per rank.

As stage 1, but a bucket of gradients exists only until it has been reduce-scattered: each rank keeps its share, which
is what its share of the optimizer needs. On the wire 2(N-1)/N x P per rank and step with one micro-batch. With several
the whole gradient is nowhere to be added up in, so each micro-batch is reduce-scattered by itself: (N-1)/N x P more
for each. A parameter that gets no gradient holds its bucket and those after it back until backward is over.
"""

from __future__ import annotations

import torch
from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, LossSum, StepResult
from smolcluster.strategies.fsdp.scatter import ScatteredGradients
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.stream import GradientStream


class Stage2(Replica):
    """Whole parameters on every rank, 1/N of gradients and optimizer. Shards are flat and even."""

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.gradients = ScatteredGradients(self.flat, self.rank, self.sums)
        self.stream = GradientStream(self.flat, self.gradients.room, self.gradients.send)
        self.start(self.gradients.pieces)

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this rank's share of a step."""
        self.begin()
        self.gradients.begin()
        local = LossSum(0.0, 0)
        for number in range(self.rounds(batch)):
            self.stream.begin()
            self.stream.last_backward()  # of this pass: buckets leave while backward goes on
            if number < len(batch):
                local += self.differentiate(*batch[number])
            self.stream.flush()
        self.gradients.arrived()
        self.add_lookups()
        verdict = self.agree(local, stop, self.gradient_memory())
        if not verdict.skip:
            self.update_and_gather(lr, verdict.scale)
        return self.result(verdict)

    def gradient_memory(self) -> list[torch.Tensor]:
        """This rank's share of every bucket."""
        return [piece.values for piece in self.gradients.pieces]
