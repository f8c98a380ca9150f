"""Data parallelism as everybody knows it: replicas, and gradients averaged over all ranks before each step.

The mean is over **tokens**: each rank sends the gradient of its summed loss, so ranks with uneven batches weigh as they
should. Buckets travel through a ring all-reduce, 2(N-1)/N x P bytes per rank, while backward still computes.

With a `staleness_bound` ranks need not be at the same step: ../stale.
"""

from __future__ import annotations

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, StepResult, Strategy
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.stale import StaleSynchronous, is_stale


class ClassicDP(Replica):
    """Every rank updates everything, with the same gradients, so the replicas stay equal without being compared."""

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.start_with_whole_gradients([(0, self.flat.length)], self.sum_gradients)

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this rank's share of a step."""
        local = self.backward(batch)  # the buckets have been summed over ranks when it returns
        verdict = self.agree(local, stop, self.shard_gradients())
        if not verdict.skip:
            self.adamw.step(0, lr, verdict.scale)
        return self.result(verdict)


def build(context: RunContext, model: nn.Module) -> Strategy:
    """The strategy for this rank."""
    return StaleSynchronous(context, model) if is_stale(context) else ClassicDP(context, model)
