"""What strategies share whose ranks each hold the whole model: the parts of a step, in the order they are used.

The strategies' own files put them together; what differs between them is who reduces, who updates, who sends.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from smolcluster.plan.buckets import bucket_bytes
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.device import Pending
from smolcluster.runtime.slices import CARRIED, Slice, fill
from smolcluster.strategies.base import Batch, LossSum, StepResult, Verdict
from smolcluster.strategies.flat import Bucket, FlatParameters, trainable
from smolcluster.strategies.lookups import Lookups
from smolcluster.strategies.pieces import Piece, Range, slices_of
from smolcluster.strategies.stream import GradientStream
from smolcluster.strategies.synchronous import Synchronous

log = logging.getLogger(__name__)

# Replicas on different devices drift apart by roundings: compared this often, in steps.
COMPARE_EVERY = 100
# What all replicas hold of a parameter whose owner has come further: the name of that in a checkpoint.
REPLICA = CARRIED + "replica.{}"

Send = Callable[[Bucket], Pending]


class Replica(Synchronous):
    """A whole model on this rank, flat, with an optimizer over the ranges of it that this rank updates."""

    stream: GradientStream

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        first = self.lookups.name if self.lookups else None
        self.flat = self.layout = FlatParameters(model, context.world_size, bucket_bytes_of(model), first)
        self.sums = self.sums_over(self.flat)
        self._names = [context.node_of(rank) for rank in range(context.world_size)]
        self._steps = 0
        self._sent: list[Pending] = []

    # -- set up ---------------------------------------------------------------------------------------------------

    def start_with_whole_gradients(self, updates: Sequence[Range], send: Send | None) -> None:
        """Begin with gradients in a buffer as long as the parameters'; complete buckets of it go to `send`."""
        self.whole_grads = torch.zeros_like(self.flat.params)
        self.start([Piece(start, stop, self.whole_grads[start:stop]) for start, stop in updates])

        def leave(bucket: Bucket) -> None:
            if send is not None:
                self._sent.append(send(bucket))

        self.stream = GradientStream(self.flat, lambda bucket: self.flat.bucket(self.whole_grads, bucket), leave)
        if self.lookups is not None:
            self._offer_room(self.lookups)

    def _offer_room(self, lookups: Lookups) -> None:
        """Have the projection's gradient formed where it is collected: the first of a pass, the others are added."""
        span = next(span for span in self.flat.spans if span.name == lookups.name)
        room = self.whole_grads[span.start : span.stop].view(span.parameter.shape)
        # A view each time: autograd keeps what it is given, and makes no copy, only if nobody else holds that tensor.
        lookups.offer(lambda: room.view_as(room) if self.stream.untouched(span.name) else None)

    def start(self, grads: Sequence[Piece]) -> None:
        """Take rank 0's weights; make the optimizer over the ranges of these gradients."""
        self.collectives.broadcast(self.flat.params)
        # Who updates a part, and sends it in another format, keeps that part apart from its replica.
        parts = sum(grad.stop - grad.start for grad in grads) < self.flat.length
        self.owns_apart = parts and self.gathers.owner_copies
        updates = []
        for grad in grads:
            values = self.flat.params[grad.start : grad.stop]
            updates.append(Piece(grad.start, grad.stop, values.clone() if self.owns_apart else values))
        self.hold(self.flat, [Piece(0, self.flat.length, self.flat.params)], updates, grads)
        self.take_rank_0s_untrained()

    # -- what travels ---------------------------------------------------------------------------------------------

    def sum_gradients(self, bucket: Bucket) -> Pending:
        """All-reduce a bucket of gradients: every rank gets all of the sum."""
        return self.sums.all_reduce(bucket.index, self.flat.bucket(self.whole_grads, bucket))

    def scatter_gradients(self, bucket: Bucket) -> Pending:
        """Reduce-scatter a bucket of gradients: this rank gets its share of the sum, in place; the rest is scratch."""
        mine = self.flat.shard(self.whole_grads, bucket, self.rank)
        return self.sums.reduce_scatter(bucket.index, mine, self.flat.bucket(self.whole_grads, bucket))

    def gather_parameters(self, bucket: Bucket) -> Pending:
        """All-gather a bucket of parameters from the shares that each rank updated, `updates` by bucket."""
        return self.gathers.change(self.flat.bucket(self.flat.params, bucket), self.updates[bucket.index].values)

    # -- the parts of a step --------------------------------------------------------------------------------------

    def backward(self, batch: Batch) -> LossSum:
        """Forward and backward of all micro-batches: `whole_grads` gets the gradient of the sum of loss times tokens.

        Buckets that are complete leave while backward goes on; when this returns all of them are reduced.
        """
        self.begin()
        local = self.accumulate(batch)
        for pending in self._sent:
            pending.wait()
        self._sent = []
        self.add_lookups()
        return local

    def accumulate(self, batch: Batch) -> LossSum:
        """The same of this rank alone; what leaves meanwhile is on its way."""
        self.stream.begin()
        local = LossSum(0.0, 0)
        for index, (x, y) in enumerate(batch):
            if index == len(batch) - 1:
                self.stream.last_backward()
            local += self.differentiate(x, y)
        self.stream.flush()
        return local

    def shard_gradients(self) -> list[torch.Tensor]:
        """This rank's even share of every bucket of the whole gradients."""
        return [self.flat.shard(self.whole_grads, bucket, self.rank) for bucket in self.flat.buckets]

    def update_and_gather(self, lr: float, scale: float) -> None:
        """AdamW on this rank's share of each bucket, whose new parameters are gathered while the next is updated."""
        gathering = []
        for bucket in self.flat.buckets:
            self.adamw.step(bucket.index, lr, scale)
            gathering.append(self.gather_parameters(bucket))
        for pending in gathering:
            pending.wait()

    def result(self, verdict: Verdict) -> StepResult:
        """Close a step: compare the replicas when it is time to, and give the account of it."""
        self._steps += 1
        if self._steps % COMPARE_EVERY == 0:
            self.mend_drift()
        return super().result(verdict)

    def mend_drift(self, held: torch.Tensor | None = None) -> None:
        """Compare a hash of the parameters over all ranks; if any differs, all take rank 0's, and the log says who.

        held: what else is compared, where parameters are not meant to be equal.
        """
        held = self.flat.params if held is None else held
        if self.collectives.world_size == 1:
            return
        hashes = [row[0] for row in self.collectives.exchange([fingerprint(held)])]
        odd = [f"rank {r} on {self._names[r]}" for r, value in enumerate(hashes) if value != hashes[0]]
        if odd:
            log.warning("step %d: parameters of %s drifted from rank 0's; sent again", self._steps, ", ".join(odd))
            self.collectives.broadcast(held)

    # -- beside the step ------------------------------------------------------------------------------------------

    def export(self) -> dict[str, torch.Tensor] | None:
        """The model's parameters, whole, by name, on rank 0."""
        return {name: p.detach() for name, p in self.model.named_parameters()} if self.rank == 0 else None

    def named_slices(self) -> Iterator[Slice]:
        """See Synchronous; where an owner keeps its share apart, that and what the replicas have of it."""
        yield from super().named_slices()
        if self.owns_apart:
            yield from slices_of(self.flat, REPLICA, self.params, self.my_shards())

    def held_slices(self) -> Iterator[Slice]:
        """See Synchronous. Where an owner keeps its share apart, that is looked for as well as the replica's own."""
        yield from super().held_slices()
        if self.owns_apart:
            yield from slices_of(self.flat, "{}", self.updates, None)
            yield from slices_of(self.flat, REPLICA, self.params, None)

    def load_slices(self, slices: Iterable[Slice]) -> None:
        """See Synchronous. Replicas that lagged behind their owners do so again; else they begin equal."""
        if not self.owns_apart:
            super().load_slices(slices)
            return
        self.sums.forget()
        lagging = torch.empty_like(self.flat.params)
        held = [part for part in self.held_slices() if not part.name.startswith(REPLICA.format(""))]
        held += slices_of(self.flat, REPLICA, [Piece(0, self.flat.length, lagging)], None)
        untouched = fill(held, slices)
        if not any(REPLICA.format(span.name) in untouched for span in self.flat.spans):
            for span in self.flat.spans:
                self.flat.params[span.start : span.stop].copy_(lagging[span.start : span.stop])

    def owned_params(self) -> Sequence[Piece]:
        """The parameters as their owners have them."""
        return self.updates if self.owns_apart else self.params

    def wire_memory(self) -> list[torch.Tensor]:
        """See Synchronous."""
        apart = [piece.values for piece in self.updates] if self.owns_apart else []
        return [*super().wire_memory(), *apart]

    def gradient_memory(self) -> list[torch.Tensor]:
        """The buffers that hold gradients between steps."""
        return [self.whole_grads]

    def close(self) -> None:
        """Take the hooks off the model; its parameters stay where they are."""
        self.stream.close()
        super().close()


def fingerprint(held: torch.Tensor) -> float:
    """A hash of the bits of a 1-D tensor, as a number that an exchange carries exactly."""
    data = held.detach().to("cpu").numpy().data
    # 48 bits of the hash: a float64 carries them exactly.
    return float(int.from_bytes(hashlib.blake2b(data, digest_size=6).digest(), "little"))


def bucket_bytes_of(model: nn.Module) -> int:
    """How large a bucket of this model's gradients is."""
    return bucket_bytes(sum(parameter.nbytes for _, parameter in trainable(model)))
