"""ZeRO stage 3: the parameters sharded too; state 4P/N per rank, and two or three units of the model whole at a time.

A unit (embeddings, a block, last norm and loss) is gathered while the one before it computes, freed after its forward,
gathered again for its backward, and its gradients are reduce-scattered while backward goes on. On the wire at most
3(N-1)/N x P per rank and micro-batch: two gathers and a reduce-scatter. Less where backward needs no second gather: of
the last unit, which stays, and of embeddings (a tied one is gathered twice all the same, for both ends of the model).
Where the gradients of a tied embedding's lookups travel apart it is the last unit's: its own leave first and not last.

A model is whole on every rank once, before it is cut; what is not trained stays whole.
"""

from __future__ import annotations

import torch
from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, LossSum, StepResult
from smolcluster.strategies.flat import Bucket
from smolcluster.strategies.fsdp.passage import Passage
from smolcluster.strategies.fsdp.scatter import ScatteredGradients
from smolcluster.strategies.fsdp.units import UnitParameters, readings_of
from smolcluster.strategies.stream import GradientStream
from smolcluster.strategies.synchronous import Synchronous

Micro = tuple[torch.Tensor, torch.Tensor]
NOTHING = LossSum(0.0, 0)


class Stage3(Synchronous):
    """1/N of everything on every rank. The model it is given has no parameters of its own while this lives."""

    evaluates_together = True

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        tied = self.lookups.name if self.lookups else None
        self.layout, units = readings_of(model, context.world_size, tied)
        self.sums = self.sums_over(self.layout)
        self.parameters = UnitParameters(self.layout, self.rank, self.collectives, self.gathers)
        self.gradients = ScatteredGradients(self.layout, self.rank, self.sums)
        self.stream = GradientStream(self.layout, self.gradients.room, self._leave)
        self.passage = Passage(units, self.parameters, self.stream.flush)
        self.hold(self.layout, self.parameters.pieces, self.parameters.pieces, self.gradients.pieces)
        self.take_rank_0s_untrained()

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this rank's share of a step."""
        self.begin()
        self.gradients.begin()
        local = NOTHING
        for number in range(self.rounds(batch)):
            local += self.micro_batch(batch[number] if number < len(batch) else None)
        self.gradients.arrived()
        self.add_lookups()
        verdict = self.agree(local, stop, self.gradient_memory())
        if not verdict.skip:
            for bucket in self.layout.buckets:
                self.adamw.step(bucket.index, lr, verdict.scale)
        return self.result(verdict)

    def micro_batch(self, micro: Micro | None) -> LossSum:
        """One micro-batch, or, without one, this rank's part in the collectives of the others'."""
        self.stream.begin()
        self.stream.last_backward()
        self.passage.start(trains=True)
        if micro is None:
            self.passage.finish_forward()
            local = NOTHING
        else:
            with self.passage.lending():
                loss = self.summed_loss(*micro)
            self.passage.finish_forward()
            torch.autograd.backward([self.loss_scale.scaled(loss)])
            local = LossSum(loss.item(), micro[1].numel())
        self.stream.flush()
        self.passage.finish_backward()
        return local

    def _leave(self, bucket: Bucket) -> None:
        """A unit's gradients are complete: go on to the one before it, whose parameters travel first."""
        self.passage.leave(bucket)
        self.gradients.send(bucket)

    def eval_loss(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        """The loss of this rank's batch, which may be empty, without training. All ranks must call it together."""
        self.passage.start(trains=False)
        local = super().eval_loss(x, y)
        self.passage.finish_forward()
        return local

    def export(self) -> dict[str, torch.Tensor] | None:
        """The model's parameters, whole, by name, on rank 0's CPU: gathered bucket by bucket, kept by rank 0 alone."""
        whole: dict[str, torch.Tensor] = {}
        for bucket in self.layout.buckets:
            self.parameters.fetch(bucket, exact=True)
            self.parameters.ready(bucket)
            if self.rank == 0:
                spans = self.layout.spans_in(bucket)
                whole.update((span.name, span.parameter.detach().to("cpu", copy=True)) for span in spans)
            self.parameters.free(bucket)
        return whole | self.untrained() if self.rank == 0 else None

    def gradient_memory(self) -> list[torch.Tensor]:
        """This rank's share of every bucket."""
        return [piece.values for piece in self.gradients.pieces]

    def close(self) -> None:
        """Take the hooks off the model. Its parameters stay sharded: `export` first."""
        self.stream.close()
        self.passage.close()
        super().close()
