"""ZeRO stage 0: nothing is sharded. Gradients are averaged by an all-reduce, every rank updates everything."""

from __future__ import annotations

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, StepResult
from smolcluster.strategies.replica import Replica


class Stage0(Replica):
    """Replicas with averaged gradients: what stage 1 is compared with."""

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.start_with_whole_gradients([(0, self.flat.length)], self.sum_gradients)

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this rank's share of a step."""
        local = self.backward(batch)
        verdict = self.agree(local, stop, self.shard_gradients())
        if not verdict.skip:
            self.adamw.step(0, lr, verdict.scale)
        return self.result(verdict)
