"""What all strategies share whose ranks take every step together: the account of a step, agreement, state by name.

Where parameters, gradients and moments lie is the strategies' own affair; they say so with pieces of one layout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.runtime.device import Collectives
from smolcluster.runtime.precision import autocast
from smolcluster.runtime.slices import CARRIED, Slice, fill
from smolcluster.spec.run import GPTSpec
from smolcluster.strategies.adamw import FlatAdamW
from smolcluster.strategies.base import (
    Batch,
    LossSum,
    Model,
    NotFiniteError,
    StepResult,
    Tally,
    TellsClasses,
    Verdict,
    judge,
)
from smolcluster.strategies.flat import Layout
from smolcluster.strategies.gathers import gathers_of
from smolcluster.strategies.layernorms import LayerNorms
from smolcluster.strategies.lookups import lookups_of
from smolcluster.strategies.pieces import Piece, Range, slices_of, whole_slices
from smolcluster.strategies.scaling import LossScale, power_of_two
from smolcluster.strategies.squares import sum_of_squares
from smolcluster.strategies.sums import Sums, sums_of


class Synchronous:
    """A rank with its share of the work. Subclasses `hold` their state, make `sums`, and add train_step."""

    sums: Sums

    # Whether eval_loss talks to the other ranks (base.Strategy).
    evaluates_together = False
    # Whether the gradients of every step are summed over ranks.
    sums_gradients = True

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        self.model = model
        self.rank = context.rank
        self.max_norm = context.run.training.grad_clip_norm
        self.collectives = Collectives(context.rank, context.world_size, context.device)
        self.lookups = lookups_of(context, model, self.collectives) if self.sums_gradients else None
        self._weight_decay = context.run.training.weight_decay
        self._device = context.device
        self._precision = context.run.training.precision
        self.loss_scale = LossScale(self._precision == "fp16", tokens_of_a_step(context))
        self._wire = context.plan.wire
        self._tokens = power_of_two(tokens_of_a_step(context))
        self.gathers = gathers_of(self._wire, self.collectives)
        # The last one that was finite; a run that is resumed goes on with that of the run before.
        self.last_loss: float | None = None
        self._began = 0.0
        self._blocked_before_s = 0.0
        self._layer_norms = LayerNorms()

    def hold(self, layout: Layout, params: Sequence[Piece], updates: Sequence[Piece], grads: Sequence[Piece]) -> None:
        """Say what lies here: the parameters, those of them that this rank updates, and the gradients it does it with.

        `updates[i]` and `grads[i]` are of one range. The optimizer is made over them.
        """
        self.layout = layout
        self.params, self.updates, self.grads = tuple(params), tuple(updates), tuple(grads)
        self.adamw = FlatAdamW([p.values for p in updates], [g.values for g in grads], self._weight_decay)

    def my_shards(self) -> list[Range]:
        """The range of every bucket that is this rank's even share."""
        return [self.layout.shard_range(bucket, self.rank) for bucket in self.layout.buckets]

    def untrained(self) -> dict[str, torch.Tensor]:
        """What belongs to the model and gets no gradient: frozen parameters and buffers, by name. Not sharded."""
        trained = {span.name for span in self.layout.spans}
        state = {name: value.detach() for name, value in self.model.named_parameters() if name not in trained}
        return state | dict(self.model.named_buffers())

    def take_rank_0s_untrained(self) -> None:
        """What is not trained becomes rank 0's."""
        for tensor in self.untrained().values():
            self.collectives.broadcast(tensor)

    def sums_over(self, layout: Layout) -> Sums:
        """How gradients of these buckets are summed over ranks, in the plan's wire format."""
        # They are those of a loss that is summed over tokens, and multiplied by float16's scale.
        return sums_of(self._wire, layout, self.collectives, lambda: self._tokens * self.loss_scale.factor)

    # -- the parts of a step --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the account of a step."""
        self._began = time.perf_counter()
        self._blocked_before_s = self.collectives.blocked_s

    def rounds(self, batch: Batch) -> int:
        """The most micro-batches that a rank has in this step. Who has fewer takes part in the rest with none."""
        return int(max(row[0] for row in self.exchange([len(batch)])))

    def summed_loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of a micro-batch times its tokens: sums can be added over micro-batches and ranks, means cannot."""
        return self._loss(x, y) * y.numel()

    def differentiate(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        """Forward and backward of a micro-batch."""
        loss = self.summed_loss(x, y)
        torch.autograd.backward([self.loss_scale.scaled(loss)])
        return LossSum(loss.item(), y.numel())

    def add_lookups(self) -> None:
        """Add the gradients that came apart from the others to the sums of those, where this rank updates."""
        if self.lookups is not None:
            self.lookups.add_all(self.layout, self.grads)

    def ask_layer_norms(self) -> None:
        """Have the next step measure the gradient's norm by parameter."""
        self._layer_norms.ask()

    def squares(self, gradients: Iterable[torch.Tensor]) -> float:
        """The sum of squares of these gradients, this rank's share of the whole: they are summed over ranks now."""
        self._layer_norms.measure(self.layout, self.grads, self.my_shards())
        return math.fsum(sum_of_squares(gradient) for gradient in gradients)

    def exchange(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's few numbers in rank order, the same bits everywhere."""
        return self.collectives.exchange(values)

    def agree(self, local: LossSum, stop: bool, gradients: Iterable[torch.Tensor]) -> Verdict:
        """What all ranks conclude from this step; `gradients` is this rank's even share of the summed ones."""
        # Each rank measures 1/N of the gradient, and all add up the same N numbers: the norm, and with it the decision
        # to clip, is the same to the bit even between devices that round differently.
        tally = Tally(local.loss, local.tokens, stop, self.squares(gradients))
        scale = self.loss_scale
        return judge(self.exchange(tally.row()), self.max_norm, scale.factor, scale.skippable)

    def result(self, verdict: Verdict) -> StepResult:
        """Close the account of a step."""
        # With all ranks' gradients multiplied by the scale, so are their norms; those of a step left out mean nothing.
        norms = self._layer_norms.agree(verdict.tokens * self.loss_scale.factor, self.exchange)
        comm_s = self.collectives.blocked_s - self._blocked_before_s
        compute_s = time.perf_counter() - self._began - comm_s
        used = self.loss_scale.value if self.loss_scale.used else None
        before = self.loss_scale.factor
        self.loss_scale.take(verdict.skip)
        if verdict.skip:
            self.sums.forget()
        elif self.loss_scale.factor != before:
            self.sums.rescale(self.loss_scale.factor / before)
        if math.isfinite(verdict.loss):
            self.last_loss = verdict.loss
        elif self.last_loss is None:
            what = "no loss has been finite yet: float16 overflows in the forward pass, which no scale mends"
            raise NotFiniteError(f"{what}; use training.precision: bf16 or fp32", None)
        return StepResult(
            self.last_loss, verdict.tokens, verdict.grad_norm, compute_s, comm_s, verdict.stop,
            layer_norms=None if verdict.skip else norms, loss_scale=used, skipped=verdict.skip,
        )  # fmt: skip

    # -- beside the step ------------------------------------------------------------------------------------------

    def eval_loss(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        """The loss of a batch without training, of this rank alone."""
        if not y.numel():
            return LossSum(0.0, 0)
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            loss, right = self._graded(x, y)
        self.model.train(was_training)
        return LossSum(loss * y.numel(), y.numel(), right)

    def named_slices(self) -> Iterator[Slice]:
        """What this rank owns: its even share of every bucket, parameters and optimizer state; rank 0 also the rest.

        With int8 on the wire besides what it has not sent yet.
        """
        yield from self._cut_slices(self.my_shards())
        yield from self._residual_slices()
        if self.rank == 0:
            yield from self._whole_slices(pieces=1)

    def held_slices(self) -> Iterator[Slice]:
        """All parameters and moments that lie here: what load_slices fills."""
        yield from self._cut_slices(None)
        yield from self._residual_slices()
        yield from self._whole_slices(pieces=len(self.updates))

    def load_slices(self, slices: Iterable[Slice]) -> None:
        """Take all parameters and moments that lie here from slices of any cut."""
        self.sums.forget()  # unless it is given: it is not where there were other ranks, or another wire format
        fill(self.held_slices(), slices)

    def state_bytes(self) -> dict[str, int]:
        """Bytes of model state this rank holds between steps: parameters, gradients, optimizer (moments)."""
        held = {
            "params": [piece.values for piece in self.params],
            "grads": self.gradient_memory(),
            "optimizer": [*self.adamw.exp_avg, *self.adamw.exp_avg_sq],
            "wire": self.wire_memory(),
        }
        return {what: sum(tensor.nbytes for tensor in tensors) for what, tensors in held.items()}

    def close(self) -> None:
        """Let go of the model."""
        if self.lookups is not None:
            self.lookups.close()

    def wire_memory(self) -> list[torch.Tensor]:
        """What is kept for the wire format."""
        return [piece.values for piece in self.sums.residuals]

    def owned_params(self) -> Sequence[Piece]:
        """The parameters that a checkpoint gets: of those that lie here, what is within this rank's shards."""
        return self.params

    def gradient_memory(self) -> list[torch.Tensor]:
        """The buffers that hold gradients between steps."""
        raise NotImplementedError

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with autocast(self._precision, self._device):
            return cast(Model, self.model).loss(x.to(self._device), y.to(self._device))

    def _graded(self, x: torch.Tensor, y: torch.Tensor) -> tuple[float, int]:
        """The mean loss, and how many of a model's classes were right: 0 of a model that tells none."""
        if not isinstance(self.model, TellsClasses):
            return self._loss(x, y).item(), 0
        with autocast(self._precision, self._device):
            loss, right = self.model.graded(x.to(self._device), y.to(self._device))
        return loss.item(), int(right.item())

    def _cut_slices(self, within: list[Range] | None) -> Iterator[Slice]:
        params = self.params if within is None else self.owned_params()
        yield from slices_of(self.layout, "{}", params, within)
        for name, moments in (("exp_avg", self.adamw.exp_avg), ("exp_avg_sq", self.adamw.exp_avg_sq)):
            pieces = [Piece(p.start, p.stop, values) for p, values in zip(self.updates, moments, strict=True)]
            yield from slices_of(self.layout, "optim.{}." + name, pieces, within)

    def _residual_slices(self) -> Iterator[Slice]:
        label = f"{CARRIED}residual.{self.rank}of{self.collectives.world_size}." + "{}"
        yield from slices_of(self.layout, label, self.sums.residuals, None)

    def _whole_slices(self, pieces: int) -> Iterator[Slice]:
        """What is not cut: what is not trained, the loss's scale, the optimizer's steps, once for every piece."""
        yield from whole_slices(self.untrained())
        yield from whole_slices(self.loss_scale.state())
        for count in self.adamw.steps[:pieces]:
            yield from whole_slices({"optim.step": count})


def tokens_of_a_step(context: RunContext) -> int:
    """Targets of a whole step, over all ranks, as the plan has them."""
    model = context.run.model
    return context.plan.global_batch * (model.max_seq_len if isinstance(model, GPTSpec) else 1)
