"""One process and no communication: what the others must equal."""

from __future__ import annotations

from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, StepResult, Strategy
from smolcluster.strategies.replica import Replica


class Single(Replica):
    """Gradients of the whole batch, clipped, one AdamW step."""

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.start_with_whole_gradients([(0, self.flat.length)], send=None)

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take one step on the batch."""
        local = self.backward(batch)
        verdict = self.agree(local, stop, [self.whole_grads])
        if not verdict.skip:
            self.adamw.step(0, lr, verdict.scale)
        return self.result(verdict)


def build(context: RunContext, model: nn.Module) -> Strategy:
    """The strategy for this rank."""
    if context.world_size != 1:
        raise ValueError(f"single runs one rank, the plan has {context.world_size}")
    return Single(context, model)
