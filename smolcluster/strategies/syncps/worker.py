"""A worker of the synchronous parameter server: takes weights, computes one gradient, hands it in, is told what next.

It has no optimizer: between two pulls it computes with the weights it has. What the wire format does not hold of a
gradient is added to the next one (comm/feedback.py). Gradients are those of the loss summed over tokens, so that this
stays right when tasks are of different sizes; another life of the worker begins without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from smolcluster.comm.codec import codec_of
from smolcluster.comm.feedback import ErrorFeedback
from smolcluster.comm.letter import Letter
from smolcluster.errors import ProtocolError
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import Batch, LossSum
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.squares import sum_of_squares
from smolcluster.strategies.syncps.alone import alone, gradient_unit, wire_of
from smolcluster.strategies.syncps.leases import Positions
from smolcluster.strategies.syncps.letters import Op, Pull
from smolcluster.strategies.syncps.pulls import Weights, bytes_of


@dataclass(frozen=True)
class Work:
    """A task as its worker sees it: the samples at these positions, for step `step`, with weights after `version`."""

    number: int
    step: int
    version: int
    ranges: tuple[Positions, ...]


class Worker(Replica):
    """The model of one worker, and its gradients."""

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(alone(context), model)
        self.start_with_whole_gradients([], send=None)
        run = context.run
        wire = wire_of(context)
        rest = list(self.untrained().values())
        self._weights = Weights(self.flat.params, rest, wire, run.training.polyak_alpha)
        self._wire = wire
        self._unit = gradient_unit(context)
        self._feedback = None
        if wire != "fp32":
            self._feedback = ErrorFeedback(codec_of(wire), torch.zeros_like(self.whole_grads))

    def join(self) -> None:
        """A new life on this wire: the server knows nothing of what was not sent before."""
        if self._feedback is not None:
            self._feedback.forget()

    def take(self, letter: Letter) -> Work:
        """Read a WORK and take the weights it brings. ProtocolError if it is none."""
        pull = letter.say("pull", int)
        if pull == Pull.WHOLE:
            self._weights.take_whole(letter.body)
        elif pull == Pull.NEWER:
            self._weights.take_newer(letter.body)
        numbers = letter.numbers("ranges")
        ranges = tuple(zip(numbers[::2], numbers[1::2], strict=False))
        if len(numbers) % 2 or not all(0 <= start < stop for start, stop in ranges) or not ranges:
            raise ProtocolError(f"a task of the samples {numbers[:8]} makes no sense")
        return Work(letter.number, letter.say("step", int), letter.say("version", int), ranges)

    def answer(self, work: Work, batch: Batch) -> tuple[Letter, LossSum]:
        """Compute the task's gradient. The letter's body is this worker's own memory until the next `take`.

        What is not finite is sent as it is: the server ends the run, and says whose it was.
        """
        local = self._differentiated(batch)
        unit = self._unit / self.loss_scale.factor
        if unit != 1:
            self.whole_grads.mul_(unit)
        if self._feedback is not None:
            body = self._feedback.seal(self.whole_grads).to("cpu")
        elif self.whole_grads.device.type == "cpu":
            body = self.whole_grads.view(torch.uint8)
        else:
            body = bytes_of([self.whole_grads])
        return Letter(Op.GRADIENT, work.number, {"tokens": local.tokens, "loss": local.loss}, body), local

    def _differentiated(self, batch: Batch) -> LossSum:
        """The gradient of the summed loss times float16's scale. The scale is this worker's own: where it was too large
        the same batch is computed again with half of it, so that no task is left out."""
        while True:
            local = self.backward(batch)
            if not self.loss_scale.used:
                return local
            finite = math.isfinite(local.loss) and math.isfinite(sum_of_squares(self.whole_grads))
            if finite or not self.loss_scale.skippable:
                return local
            self.loss_scale.take(skipped=True)

    def wire_memory(self) -> list[torch.Tensor]:
        """What is kept for the wire format."""
        kept = [self._feedback.residual] if self._feedback is not None else []
        return [*kept, *self._weights.memory()]
