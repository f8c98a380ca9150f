"""Model parallel: each rank holds some layers, with their optimizer, and a batch passes all of them.

A step's batch goes through in micro-batches, one forward and one backward in turn (schedule.py); gradients are summed
over them, clipped by the norm of the whole model's, and every stage updates its own layers. So it takes the very step
of one process. A tied embedding lies in the first and the last stage: each computes the gradient of its own end, the
two are exchanged and added, and both take the same step, to the bit where their devices round alike; where they do not
the last stage is given the first one's values once in a while.

On the wire, per step: the hidden states of the batch once forward and once back between neighbours, and twice a tied
embedding between the ends.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import nn

from smolcluster.models.partition import LayerRange
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.precision import autocast
from smolcluster.strategies.base import Batch, LossSum, StepResult, TellsClasses, Verdict
from smolcluster.strategies.flat import FlatParameters
from smolcluster.strategies.layernorms import LayerNorms
from smolcluster.strategies.mp.catalogue import Shapes, tell_shapes
from smolcluster.strategies.mp.hops import Incoming, Outgoing
from smolcluster.strategies.mp.schedule import turns
from smolcluster.strategies.pieces import Piece, Range
from smolcluster.strategies.replica import COMPARE_EVERY, bucket_bytes_of, fingerprint
from smolcluster.strategies.stream import GradientStream
from smolcluster.strategies.sums import ExactSums
from smolcluster.strategies.synchronous import Synchronous

log = logging.getLogger(__name__)

# Messages of different meaning between two ranks that may be neighbours and ends at once.
FORWARD, BACKWARD, TIED, WHOLE = 1, 2, 3, 4
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
    """One stage. Every rank is given the whole step's batch: the first reads its inputs, the last its targets."""

    evaluates_together = True

    def __init__(self, context: RunContext, model: nn.Module) -> None:
        super().__init__(context, model)
        self.stage = cast(Stage, model)
        self.stages, self._last = context.world_size, context.world_size - 1
        self.flat = FlatParameters(model, 1, bucket_bytes_of(model))
        self.sums = ExactSums(self.collectives)
        self.whole_grads = torch.zeros_like(self.flat.params)
        whole = Piece(0, self.flat.length, self.flat.params)
        self.hold(self.flat, [whole], [whole], [Piece(0, self.flat.length, self.whole_grads)])
        self.stream = GradientStream(self.flat, lambda b: self.flat.bucket(self.whole_grads, b), lambda _: None)
        held = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._held = tell_shapes(held, self.collectives)
        self._layer_norms = LayerNorms([name for rank in range(self.stages) for name in self._owned_by(rank)])
        device = context.device
        before, after = self.rank > 0, self.rank < self._last
        self._inputs = Incoming(self.rank - 1, device, FORWARD) if before else None
        self._outputs = Outgoing(self.rank + 1, FORWARD) if after else None
        self._gradients = Incoming(self.rank + 1, device, BACKWARD) if after else None
        self._input_gradients = Outgoing(self.rank - 1, BACKWARD) if before else None
        self._deadline_s = context.run.step_timeout_s
        self._seconds = 0.0
        self._steps = 0

    # -- a step ---------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch, lr: float, stop: bool = False) -> StepResult:
        """Take this stage's part of a step on the batch, the same on all ranks.

        PeerError if a neighbour sends nothing for longer than the run's deadline of a step.
        """
        with self.collectives.within(self._deadline_s):
            return self._step(batch, lr, stop)

    def _step(self, batch: Batch, lr: float, stop: bool) -> StepResult:
        self.begin()
        self.stream.begin()
        local = self._pipeline(batch)
        self.stream.flush()
        self._add_other_end()
        self._account()
        verdict = self.agree(local, stop, self._owned(self.whole_grads))
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
        for turn in turns(self.rank, self.stages, len(batch)):
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

    # -- the tied embedding ---------------------------------------------------------------------------------------

    def _tied_range(self) -> Range | None:
        """Where the parameter lies that both ends hold, here."""
        return next(((span.start, span.stop) for span in self.flat.spans if span.name == self.stage.tied), None)

    def _add_other_end(self) -> None:
        """Add the other end's gradient of the tied embedding. A sum of two is the same whoever adds."""
        place = self._tied_range()
        if place is None:
            return
        mine = self.whole_grads[slice(*place)]
        peer = self._last if self.rank == 0 else 0
        going, coming = Outgoing(peer, TIED), Incoming(peer, self._device, TIED)
        coming.expect([(mine.numel(),)])
        going.send(mine.clone())
        mine.add_(coming.take())
        going.flush()
        self._seconds += coming.seconds + going.seconds

    def result(self, verdict: Verdict) -> StepResult:
        """Close a step: compare the ends when it is time to, and give the account of it."""
        self._steps += 1
        if self._steps % COMPARE_EVERY == 0:
            self._mend_drift()
        return super().result(verdict)

    def _mend_drift(self) -> None:
        """Compare both ends' tied embedding; if it differs the last stage takes the first one's, and the log says so.

        All ranks must call it.
        """
        if self.stages == 1 or not self._held[0].keys() & self._held[-1].keys():
            return
        place = self._tied_range()
        mine = self.flat.params[slice(*place)] if place is not None else self.flat.params[:0]
        prints = self.exchange([fingerprint(mine)])
        if prints[0] == prints[-1] or place is None:
            return
        log.warning("step %d: the last stage's tied embedding drifted from rank 0's; sent again", self._steps)
        if self.rank == 0:
            going = Outgoing(self._last, TIED)
            going.send(mine)
            going.flush()
        else:
            coming = Incoming(0, self._device, TIED)
            coming.expect([(mine.numel(),)])
            mine.copy_(coming.take())

    def my_shards(self) -> list[Range]:
        """What this rank is the owner of: all that it holds, but for the tied embedding in the last stage."""
        place = self._tied_range() if self.rank else None
        if place is None:
            return [(0, self.flat.length)]
        return [part for part in ((0, place[0]), (place[1], self.flat.length)) if part[0] < part[1]]

    def _owned(self, line: torch.Tensor) -> list[torch.Tensor]:
        return [line[start:stop] for start, stop in self.my_shards()]

    # -- beside the step ------------------------------------------------------------------------------------------

    def eval_loss(self, x: torch.Tensor, y: torch.Tensor) -> LossSum:
        """The loss of a batch, the same on all ranks, without training: the last stage's. All ranks must call it."""
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
        held = dict(self.model.named_parameters())
        if self.rank:
            going = Outgoing(0, WHOLE)
            for name in self._owned_by(self.rank):
                going.send(held[name])
            going.flush()
            return None
        whole = {name: parameter.detach().to("cpu", copy=True) for name, parameter in held.items()}
        for rank in range(1, self.stages):
            shapes = self._owned_by(rank)
            coming = Incoming(rank, torch.device("cpu"), WHOLE)
            coming.expect(shapes.values())
            whole.update((name, coming.take()) for name in shapes)
        return whole

    def start_from(self, given: Mapping[str, torch.Tensor] | None) -> None:
        """Take these values, which rank 0 has by name; every rank must call it, the others with None."""
        held = dict(self.model.named_parameters())
        if self.rank == 0:
            assert given is not None, "rank 0 has what the others wait for"
            for rank in range(1, self.stages):
                going = Outgoing(rank, WHOLE)
                for name in self._held[rank]:
                    going.send(given[name])
                going.flush()
        else:
            coming = Incoming(0, torch.device("cpu"), WHOLE)
            coming.expect(self._held[self.rank].values())
            given = {name: coming.take() for name in self._held[self.rank]}
        with torch.no_grad():
            for name, parameter in held.items():
                parameter.copy_(given[name])

    def whole_shapes(self) -> Shapes:
        """Every parameter of the whole model, by name."""
        return {name: shape for rank in range(self.stages) for name, shape in self._owned_by(rank).items()}

    def _owned_by(self, rank: int) -> Shapes:
        """What a rank holds, but for what an earlier one holds too."""
        before = {name for earlier in self._held[:rank] for name in earlier}
        return {name: shape for name, shape in self._held[rank].items() if name not in before}

    def gradient_memory(self) -> list[torch.Tensor]:
        """The buffer that holds gradients between steps."""
        return [self.whole_grads]

    def close(self) -> None:
        """Take the hooks off the model; its parameters stay where they are."""
        self.stream.close()
        super().close()

    def _account(self) -> None:
        """Count what was waited for at the neighbours as communication."""
        ways = (self._inputs, self._outputs, self._gradients, self._input_gradients)
        waited = self._seconds + sum(way.seconds for way in ways if way is not None)
        for way in ways:
            if way is not None:
                way.seconds = 0.0
        self._seconds = 0.0
        self.collectives.blocked_s += waited
