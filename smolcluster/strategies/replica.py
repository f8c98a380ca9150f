"""What strategies share whose ranks each hold the whole model: the parts of a step, in the order they are used.

The strategies' own files put them together; what differs between them is who reduces, who updates, who sends.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import nn

from smolcluster.runtime.context import RunContext
from smolcluster.runtime.device import Collectives, Pending
from smolcluster.strategies.adamw import FlatAdamW
from smolcluster.strategies.base import Batch, LossSum, Model, StepResult, Verdict
from smolcluster.strategies.flat import Bucket, FlatParameters
from smolcluster.strategies.slices import Box, Slice, boxes_of, fill
from smolcluster.strategies.stream import GradientStream, Send

log = logging.getLogger(__name__)

# Big enough that the cost of a collective's start is nothing, small enough that several travel during backward.
BUCKET_BYTES = 16 * 1024 * 1024
# Replicas on different devices drift apart by roundings: compared this often, in steps.
COMPARE_EVERY = 100

Range = tuple[int, int]


class Replica:
    """A whole model on this rank, flat, with an optimizer over the ranges of it that this rank updates."""

    def __init__(self, context: RunContext, model: nn.Module, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.model = model
        self.rank = context.rank
        self.max_norm = context.run.training.grad_clip_norm
        self.flat = FlatParameters(model, context.world_size, bucket_bytes)
        self.collectives = Collectives(context.rank, context.world_size, context.device)
        self._weight_decay = context.run.training.weight_decay
        self._names = [context.node_of(rank) for rank in range(context.world_size)]
        self._steps = 0
        self._began = 0.0
        self._blocked_before_s = 0.0

    # -- set up ---------------------------------------------------------------------------------------------------

    def start(self, updates: Sequence[Range], send: Send | None) -> None:
        """Take rank 0's weights; make the optimizer over the ranges this rank updates; listen to autograd."""
        self.updates = tuple(updates)
        params = [self.flat.params[start:stop] for start, stop in updates]
        grads = [self.flat.grads[start:stop] for start, stop in updates]
        self.adamw = FlatAdamW(params, grads, self._weight_decay)
        self.stream = GradientStream(self.flat, send)
        self._take_rank_0_weights()

    def _take_rank_0_weights(self) -> None:
        if self.collectives.world_size == 1:
            return
        self.collectives.broadcast(self.flat.params)
        for tensor in self._untrained().values():
            self.collectives.broadcast(tensor)

    def _untrained(self) -> dict[str, torch.Tensor]:
        """What belongs to the model and gets no gradient: frozen parameters and buffers, by name."""
        trained = {span.name for span in self.flat.spans}
        state = {name: value.detach() for name, value in self.model.named_parameters() if name not in trained}
        return state | dict(self.model.named_buffers())

    def my_shards(self) -> list[Range]:
        """The range of every bucket that is this rank's even share."""
        return [self.flat.shard_range(bucket, self.rank) for bucket in self.flat.buckets]

    # -- what travels ---------------------------------------------------------------------------------------------

    def sum_gradients(self, bucket: Bucket) -> Pending:
        """All-reduce a bucket of gradients: every rank gets all of the sum."""
        return self.collectives.all_reduce(self.flat.bucket(self.flat.grads, bucket))

    def scatter_gradients(self, bucket: Bucket) -> Pending:
        """Reduce-scatter a bucket of gradients: this rank gets its share of the sum, in place; the rest is scratch."""
        mine = self.flat.shard(self.flat.grads, bucket, self.rank)
        return self.collectives.reduce_scatter(mine, self.flat.bucket(self.flat.grads, bucket))

    def gather_parameters(self, bucket: Bucket) -> Pending:
        """All-gather a bucket of parameters from the shares that each rank updated."""
        mine = self.flat.shard(self.flat.params, bucket, self.rank)
        return self.collectives.all_gather(self.flat.bucket(self.flat.params, bucket), mine)

    # -- the parts of a step --------------------------------------------------------------------------------------

    def backward(self, batch: Batch) -> LossSum:
        """Forward and backward of all micro-batches: `flat.grads` gets the gradient of the sum of loss times tokens.

        Buckets that are complete leave while backward goes on; when this returns all of them are reduced.
        """
        self._began = time.perf_counter()
        self._blocked_before_s = self.collectives.blocked_s
        self.stream.begin()
        total, tokens = 0.0, 0
        for index, (x, y) in enumerate(batch):
            if index == len(batch) - 1:
                self.stream.last_backward()
            loss = self._loss(x, y) * y.numel()
            torch.autograd.backward([loss])
            total += loss.item()
            tokens += y.numel()
        self.stream.finish()
        return LossSum(total, tokens)

    def squares(self, ranges: Iterable[Range]) -> float:
        """The sum of squares of the gradients in these ranges."""
        norms = [float(torch.linalg.vector_norm(self.flat.grads[start:stop])) for start, stop in ranges]
        return sum(norm * norm for norm in norms)

    def result(self, verdict: Verdict) -> StepResult:
        """Close a step: compare the replicas when it is time to, and give the account of it."""
        self._steps += 1
        if self._steps % COMPARE_EVERY == 0:
            self.mend_drift()
        comm_s = self.collectives.blocked_s - self._blocked_before_s
        compute_s = time.perf_counter() - self._began - comm_s
        return StepResult(verdict.loss, verdict.tokens, verdict.grad_norm, compute_s, comm_s, verdict.stop)

    def mend_drift(self) -> None:
        """Compare a hash of the parameters over all ranks; if any differs, all take rank 0's, and the log says who."""
        if self.collectives.world_size == 1:
            return
        data = self.flat.params.detach().to("cpu").numpy().data
        # 48 bits of the hash: a float64 carries them exactly.
        mine = float(int.from_bytes(hashlib.blake2b(data, digest_size=6).digest(), "little"))
        hashes = [row[0] for row in self.collectives.exchange([mine])]
        odd = [f"rank {r} on {self._names[r]}" for r, value in enumerate(hashes) if value != hashes[0]]
        if odd:
            log.warning("step %d: parameters of %s drifted from rank 0's; sent again", self._steps, ", ".join(odd))
            self.collectives.broadcast(self.flat.params)

    # -- beside the step ------------------------------------------------------------------------------------------

    def eval_loss(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        """The loss of a batch without training, of this rank alone."""
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            loss = self._loss(x, y).item()
        self.model.train(was_training)
        return LossSum(loss * y.numel(), y.numel())

    def exchange(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's few numbers in rank order, the same bits everywhere."""
        return self.collectives.exchange(values) if self.collectives.world_size > 1 else [list(values)]

    def named_slices(self) -> Iterator[Slice]:
        """What this rank owns: its even share of every bucket, parameters and optimizer state; rank 0 also the rest."""
        yield from self._parameter_slices(self.my_shards())
        yield from self._optimizer_slices(self.my_shards())
        if self.rank == 0:
            yield from self._whole_slices(pieces=1)

    def load_slices(self, slices: Iterable[Slice]) -> None:
        """Take all parameters, and the optimizer state of the ranges this rank updates, from slices of any cut."""
        parameters = self._parameter_slices([(0, self.flat.params.numel())])
        whole = self._whole_slices(pieces=len(self.updates))
        fill([*parameters, *self._optimizer_slices(self.updates), *whole], slices)

    def state_bytes(self) -> dict[str, int]:
        """Bytes of model state this rank holds: parameters, gradients, optimizer (moments)."""
        moments = [*self.adamw.exp_avg, *self.adamw.exp_avg_sq]
        return {
            "params": self.flat.params.nbytes,
            "grads": self.flat.grads.nbytes,
            "optimizer": sum(tensor.nbytes for tensor in moments),
        }

    def close(self) -> None:
        """Take the hooks off the model; its parameters stay where they are."""
        self.stream.close()

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        device = self.flat.params.device
        return cast(Model, self.model).loss(x.to(device), y.to(device))

    def _parameter_slices(self, ranges: Iterable[Range]) -> Iterator[Slice]:
        for start, stop in ranges:
            yield from self._slices("{}", self.flat.params[start:stop], start, (start, stop))

    def _optimizer_slices(self, ranges: Iterable[Range]) -> Iterator[Slice]:
        for wanted in ranges:
            for piece, (start, stop) in enumerate(self.updates):
                part = max(wanted[0], start), min(wanted[1], stop)
                if part[0] < part[1]:
                    yield from self._slices("optim.{}.exp_avg", self.adamw.exp_avg[piece], start, part)
                    yield from self._slices("optim.{}.exp_avg_sq", self.adamw.exp_avg_sq[piece], start, part)

    def _whole_slices(self, pieces: int) -> Iterator[Slice]:
        """What is not cut: tensors that are not trained, and the optimizer's count of steps, once for every piece."""
        steps = [("optim.step", count) for count in self.adamw.steps[:pieces]]
        for name, value in [*self._untrained().items(), *steps]:
            shape = tuple(value.shape)
            yield Slice(name, shape, Box((0,) * len(shape), shape), value)

    def _slices(self, label: str, buffer: torch.Tensor, first: int, part: Range) -> Iterator[Slice]:
        """The part (in flat positions) of a buffer that starts at flat position `first`, by parameter and box."""
        for span in self.flat.spans:
            start, stop = max(part[0], span.start), min(part[1], span.stop)
            shape = tuple(span.parameter.shape)
            at = start
            for box in boxes_of(shape, start - span.start, stop - span.start):
                size = math.prod(box.sizes)
                yield Slice(label.format(span.name), shape, box, buffer[at - first : at - first + size].view(box.sizes))
                at += size
