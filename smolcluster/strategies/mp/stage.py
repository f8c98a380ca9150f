"""Model parallel: each rank holds some layers, with their optimizer, and a batch passes all of them.

A step's batch goes through in micro-batches, one forward and one backward in turn (schedule.py); gradients are summed
over them, clipped by the norm of the whole model's, and every stage updates its own layers. So it takes the very step
of one process. A tied embedding lies in the first and the last stage: each computes the gradient of its own end, the
two are exchanged and added (ends.py), and both take the same step, to the bit where their devices round alike; where
they do not the last stage is given the first one's values once in a while.

With replicas there are several such pipelines, each with its share of the batch, and the ranks that hold the same
layers sum their gradients around a ring, bucket by bucket, while the last micro-batch still goes back. They take the
same step then; each measures its even share of the gradient, and writes that share of the stage's state.

On the wire, per step: the hidden states of a pipeline's share once forward and once back between neighbours, twice a
tied embedding between its ends, and 2(R-1)/R times a stage's parameters from each of its R replicas.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol, cast

import torch
from torch import nn

from smolcluster.models.partition import LayerRange
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.device import Pending
from smolcluster.runtime.precision import autocast
from smolcluster.spec.problems import listed
from smolcluster.strategies.base import Batch, LossSum, StepResult, TellsClasses, Verdict
from smolcluster.strategies.flat import Bucket, FlatParameters, Layout
from smolcluster.strategies.layernorms import LayerNorms
from smolcluster.strategies.mp.catalogue import Shapes, tell_shapes
from smolcluster.strategies.mp.ends import TiedEnd
from smolcluster.strategies.mp.hops import Incoming, Outgoing
from smolcluster.strategies.mp.replicas import open_replicas
from smolcluster.strategies.mp.schedule import turns
from smolcluster.strategies.mp.whole import WholeModel
from smolcluster.strategies.pieces import Piece, Range
from smolcluster.strategies.replica import COMPARE_EVERY, bucket_bytes_of, fingerprint
from smolcluster.strategies.stream import GradientStream
from smolcluster.strategies.sums import Sums, sums_of
from smolcluster.strategies.synchronous import Synchronous

log = logging.getLogger(__name__)

# The tags of messages between neighbours (ends.py and whole.py have others).
FORWARD, BACKWARD = 1, 2
NOTHING = LossSum(0.0, 0)


class Stage(Protocol):
    """What this strategy needs of a model's part (models/gpt_stage.py, models/nn_stage.py). The last one has a loss."""

    layers: LayerRange
    tied: str | None

    def hidden_shape(self, samples: int) -> tuple[int, ...]:
        """The shape of what travels between two stages."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What came (the batch's inputs in the first stage) -> what travels on."""
        ...

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The mean loss, of the last stage."""
        ...


class ModelParallel(Synchronous):
    """One stage of one pipeline. Every rank of a pipeline is given all of its share of the step's batch: the first
    reads its inputs, the last its targets.
    """

    evaluates_together = True

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.stage = cast(Stage, model)
        self.grid = context.plan.grid
        self.stages, self._number = self.grid.stages, self.grid.stage_of(self.rank)
        self._pipeline_ranks = self.grid.pipeline(self.grid.pipeline_of(self.rank))
        self.replicas = open_replicas(self.grid, self.rank, context.device)
        self.flat = FlatParameters(model, self.grid.replicas, bucket_bytes_of(model))
        self.sums = self.sums_over(self.flat)
        self.whole_grads = torch.zeros_like(self.flat.params)
        whole = Piece(0, self.flat.length, self.flat.params)
        self.hold(self.flat, [whole], [whole], [Piece(0, self.flat.length, self.whole_grads)])
        self._sent: list[Pending] = []
        self.stream = GradientStream(self.flat, lambda b: self.flat.bucket(self.whole_grads, b), self._leave)
        held = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self.whole = WholeModel(tell_shapes(held, self.collectives), self.grid.pipeline(0))
        self._layer_norms = LayerNorms(list(self.whole.shapes))
        device = context.device
        before, after = self._number > 0, self._number < self.stages - 1
        self._inputs = Incoming(self.rank - 1, device, FORWARD) if before else None
        self._outputs = Outgoing(self.rank + 1, FORWARD) if after else None
        self._gradients = Incoming(self.rank + 1, device, BACKWARD) if after else None
        self._input_gradients = Outgoing(self.rank - 1, BACKWARD) if before else None
        self._tied = self._tied_end()
        self._deadline_s = context.run.step_timeout_s
        self._steps = 0
        self._take_first_replica_s()

    def sums_over(self, layout: Layout) -> Sums:
        """How gradients are summed over the replicas of this stage, in the plan's wire format."""
        return sums_of(self._wire, layout, self.replicas, lambda: self._tokens * self.loss_scale.factor)

    # -- a step ---------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this stage's part of a step on its pipeline's share of the batch, the same on all ranks of the pipeline.

        PeerError if a rank that is waited for sends nothing for longer than the run's deadline of a step.
        """
        with ExitStack() as deadlines:
            for group in (self.collectives, self.replicas):
                deadlines.enter_context(group.within(self._deadline_s))
            return self._step(batch, lr, stop)

    def _step(self, batch: Batch, lr: float, stop: bool) -> StepResult:
        self.begin()
        self.stream.begin()
        local = self._pipeline(batch)
        self.stream.flush()
        for pending in self._sent:
            pending.wait()
        self._sent = []
        if self._tied is not None:
            self._tied.add_other(self.whole_grads)
        self._account()
        verdict = self.agree(local, stop, [self.whole_grads[start:stop] for start, stop in self.my_shards()])
        if not verdict.skip:
            self.adamw.step(0, lr, verdict.scale)
        return self.result(verdict)

    def _pipeline(self, batch: Batch) -> LossSum:
        """All micro-batches there and back. The sum of the losses, of the last stage."""
        shapes = [self.stage.hidden_shape(len(x)) for x, _ in batch]
        for coming in (self._inputs, self._gradients):
            if coming is not None:
                coming.expect(shapes)
        alive: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        total = NOTHING
        for turn in turns(self._number, self.stages, len(batch)):
            if turn.way == "forward":
                x, y = batch[turn.micro]
                given = self._given(x)
                out = self._ahead(given, y)
                alive.append((given, out))
                if self._outputs is not None:
                    self._outputs.send(out)
                else:
                    total += LossSum(out.item(), y.numel())
            else:
                if turn.micro == len(batch) - 1:
                    self.stream.last_backward()
                self._back(*alive.popleft())
        for going in (self._outputs, self._input_gradients):
            if going is not None:
                going.flush()
        return total

    def _given(self, x: torch.Tensor) -> torch.Tensor:
        """What this stage computes on: the batch's inputs, or what the stage before it made of them."""
        return x.to(self._device) if self._inputs is None else self._inputs.take().requires_grad_()

    def _ahead(self, given: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """This stage's forward: hidden states; of the last one the loss, summed over tokens."""
        with autocast(self._precision, self._device):
            if self._outputs is not None:
                return self.stage(given)
            return self.stage.loss(given, y.to(self._device)) * y.numel()

    def _back(self, given: torch.Tensor, out: torch.Tensor) -> None:
        """This stage's backward; what came gets its gradient, which goes to where it came from."""
        if self._gradients is None:
            torch.autograd.backward([self.loss_scale.scaled(out)])
        else:
            torch.autograd.backward([out], [self._gradients.take().to(out.dtype)])
        if self._input_gradients is not None:
            assert given.grad is not None, "all of a stage's output comes from its input"
            self._input_gradients.send(given.grad)

    def _leave(self, bucket: Bucket) -> None:
        """A bucket of gradients is complete: sum it over this stage's replicas."""
        self._sent.append(self.sums.all_reduce(bucket.index, self.flat.bucket(self.whole_grads, bucket)))

    # -- what lies in more than one place -------------------------------------------------------------------------

    def _tied_end(self) -> TiedEnd | None:
        """The parameter that both ends of a pipeline hold, if this rank is one of them."""
        place = next(((span.start, span.stop) for span in self.flat.spans if span.name == self.stage.tied), None)
        if place is None:
            return None
        return TiedEnd(place, self._pipeline_ranks[0 if self._number else -1], self._device)

    def my_shards(self) -> list[Range]:
        """What this rank is the owner of: its even share of the stage, but for the tied embedding in the last one."""
        shards = [self.flat.shard_range(bucket, self.replicas.rank) for bucket in self.flat.buckets]
        if self._tied is None or not self._number:
            return shards
        first, last = self._tied.place
        parts = [part for start, stop in shards for part in ((start, min(stop, first)), (max(start, last), stop))]
        return [(start, stop) for start, stop in parts if start < stop]

    def result(self, verdict: Verdict) -> StepResult:
        """Close a step: compare what should be equal when it is time to, and give the account of it."""
        self._steps += 1
        if self._steps % COMPARE_EVERY == 0:
            self._mend_drift()
        return super().result(verdict)

    def _mend_drift(self) -> None:
        """Compare replicas, and both ends' tied embedding. Replicas that differ take the first one's values, a last
        stage the first stage's, and the log says so.

        All ranks must call it.
        """
        if self.grid.replicas == 1 and not self.whole.ties_ends:
            return
        tied = self._tied.of(self.flat.params) if self._tied is not None else self.flat.params[:0]
        whole, ends = zip(*self.exchange([fingerprint(self.flat.params), fingerprint(tied)]), strict=True)
        alike = self.grid.stage(self._number)
        odd = [rank for rank in alike if whole[rank] != whole[alike[0]]]
        if odd:
            who = listed(f"rank {rank}" for rank in odd)
            log.warning("step %d: parameters of %s drifted from rank %d's; sent again", self._steps, who, alike[0])
            self._take_first_replica_s()
        # Replicas are equal by now to those of the first pipeline, so what its ends are to each other all are.
        if self._tied is None or ends[0] == ends[self.stages - 1]:
            return
        log.warning("step %d: the last stage's tied embedding drifted from the first's; sent again", self._steps)
        if self._number:
            self._tied.take(self.flat.params)
        else:
            self._tied.send(self.flat.params)

    def _take_first_replica_s(self) -> None:
        """Parameters and what is not trained become those of the first pipeline's replica."""
        for tensor in (self.flat.params, *self.untrained().values()):
            self.replicas.broadcast(tensor)

    # -- beside the step ------------------------------------------------------------------------------------------

    def eval_loss(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        """The loss of a batch, the same on all ranks of a pipeline, who all must call it: the last stage's.

        Without training.
        """
        if not y.numel():
            return NOTHING
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), autocast(self._precision, self._device):
            if self._inputs is not None:
                self._inputs.expect([self.stage.hidden_shape(len(x))])
            given = x.to(self._device) if self._inputs is None else self._inputs.take()
            if self._outputs is not None:
                self._outputs.send(self.stage(given))
                local = NOTHING
            else:
                local = self._graded_sum(given, y)
        self.model.train(was_training)
        self._account()
        return local

    def _graded_sum(self, given: torch.Tensor, y: torch.Tensor) -> LossSum:
        if isinstance(self.model, TellsClasses):
            loss, right = self.model.graded(given, y.to(self._device))
            return LossSum(loss.item() * y.numel(), y.numel(), int(right.item()))
        return LossSum(self.stage.loss(given, y.to(self._device)).item() * y.numel(), y.numel())

    def export(self) -> dict[str, torch.Tensor] | None:
        """The model's parameters, whole, by name, on rank 0, which holds all of them for it."""
        if self.replicas.rank:
            return None
        return self.whole.collect(self.rank, dict(self.model.named_parameters()))

    def start_from(self, given: Mapping[str, torch.Tensor] | None) -> None:
        """Take these values, which rank 0 has by name; every rank must call it, the others with None."""
        if not self.replicas.rank:
            mine = self.whole.hand_out(self.rank, given)
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(mine[name])
        self._take_first_replica_s()

    def whole_shapes(self) -> Shapes:
        """Every parameter of the whole model, by name."""
        return self.whole.shapes

    def gradient_memory(self) -> list[torch.Tensor]:
        """The buffer that holds gradients between steps."""
        return [self.whole_grads]

    def close(self) -> None:
        """Take the hooks off the model; its parameters stay where they are."""
        self.stream.close()
        super().close()

    def _account(self) -> None:
        """Count what was waited for at neighbours and replicas as communication."""
        ways = (self._inputs, self._outputs, self._gradients, self._input_gradients, self._tied)
        for way in ways:
            if way is not None:
                self.collectives.blocked_s += way.seconds
                way.seconds = 0.0
        self.collectives.blocked_s += self.replicas.blocked_s
        self.replicas.blocked_s = 0.0
