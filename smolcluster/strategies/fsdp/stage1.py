"""ZeRO stage 1: every rank keeps the optimizer of an even share of every bucket, and updates that.

An all-reduce is a reduce-scatter followed by an all-gather. Here the optimizer's step stands between the two:
gradients are reduce-scattered while backward computes, each rank updates its share with 1/N of the moments, and the new
parameters are gathered, bucket by bucket, while the next is being updated. The bytes are those of the all-reduce.
"""

from __future__ import annotations

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, StepResult
from smolcluster.strategies.replica import Replica


class Stage1(Replica):
    """Whole parameters and gradients on every rank, 1/N of the optimizer. Shards are flat and even."""

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.start_with_whole_gradients(self.my_shards(), self.scatter_gradients)

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this rank's share of a step."""
        local = self.backward(batch)  # this rank's share of every bucket has been summed over ranks when it returns
        verdict = self.agree(local, stop, self.shard_gradients())
        if not verdict.skip:
            self.update_and_gather(lr, verdict.scale)
        return self.result(verdict)
