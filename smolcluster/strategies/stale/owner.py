"""An owner: one rank's shard of the model, and what comes for it from ranks that need not be at the same step.

It adds what they push to its box, takes an optimizer step when somebody asks for weights that lack one, and lets nobody
begin a step further than the bound from the slowest. No torch beyond the box, no threads, no wires: whoever drives it
holds a lock, says what has come and sends what `due` gives.

    clock of a rank     the last step whose gradient it pushed; `clock` is the slowest rank's
    version             the last step that the weights were brought to: an update before it is not needed for that step

The box is divided by the tokens of a whole global batch, however much is in it: half a batch moves AdamW's moments half
as far. The learning rate follows the tokens that were applied, not the version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import torch

from smolcluster.errors import ProtocolError

Update = Callable[[float, float], None]
Add = Callable[[torch.Tensor], object]


class Outcome(Enum):
    """What became of a push."""

    TAKEN = "taken"
    DUPLICATE = "duplicate"
    OTHER_GENERATION = "of another generation"


@dataclass(frozen=True)
class Push:
    """A rank's gradient of one step, without its numbers. step: from 1; the same on all ranks for one global batch.

    tokens: what the gradient is a sum over, 0 where it has none (float16 overflowed, or no samples). lr: the rate of
    that step. loss: summed over `loss_tokens`. stop: the rank was asked to end.
    """

    generation: int
    rank: int
    step: int
    tokens: int
    lr: float
    loss: float
    loss_tokens: int
    stop: bool


@dataclass(frozen=True)
class Reply:
    """Weights may go to a rank that asked for those of step `step`; `clock` is the slowest rank's as they are sent."""

    rank: int
    step: int
    version: int
    clock: int


@dataclass(frozen=True)
class Known:
    """What all ranks have told of the last step that all have taken: the mean loss over `tokens`, None without any."""

    step: int
    loss: float | None
    tokens: int


class Owner:
    """`box`: 1-D, where gradients are summed; `update(lr, scale)` steps the optimizer with box x scale.

    `ranks` push, none of them more than `bound` + 1 steps ahead of another. `pushed`, `applied`: how many gradients;
    `in_box`: (rank, step) of those that are in no update yet. pushed = applied + those, always. `trained`: of the steps
    that all have taken, those in which anybody had a gradient: what an optimizer of one process would have counted.
    """

    def __init__(
        self, box: torch.Tensor, update: Update, ranks: int, bound: int, batch_tokens: int, generation: int = 0
    ) -> None:
        self.box = box
        self.bound = bound
        self.generation = generation
        self.version = 0
        self.pushed = self.applied = self.trained = 0
        self.in_box: list[tuple[int, int]] = []
        self.known = Known(0, None, 0)
        self._update = update
        self._batch_tokens = batch_tokens
        self._clocks = [0] * ranks
        self._box_tokens = self._applied_tokens = 0
        self._rates: dict[int, float] = {}
        self._told: dict[int, dict[int, tuple[float, int]]] = {}
        self._with_gradient: set[int] = set()
        self._waiting: list[tuple[int, int]] = []
        self._end: int | None = None
        self._rested_at = 0

    # -- what ranks say -------------------------------------------------------------------------------------------

    def push(self, push: Push, add: Add | None) -> Outcome:
        """Take a gradient: `add` adds it to the box, None where it is 0. ProtocolError if a step was left out."""
        if push.generation != self.generation:
            return Outcome.OTHER_GENERATION
        if push.step <= self._clocks[push.rank]:
            return Outcome.DUPLICATE
        if push.step != self._clocks[push.rank] + 1:
            last = self._clocks[push.rank]
            raise ProtocolError(f"rank {push.rank} sent the gradient of step {push.step}, after that of step {last}")
        if push.step > self.clock + self.bound + 1:
            where = f"the slowest rank has taken {self.clock}, and the bound is {self.bound}"
            raise ProtocolError(f"rank {push.rank} has taken step {push.step} too early: {where}")
        if add is not None:
            add(self.box)
        self.pushed += 1
        self.in_box.append((push.rank, push.step))
        self._box_tokens += push.tokens
        self._rates[push.step] = push.lr
        if push.tokens:
            self._with_gradient.add(push.step)
        self._told.setdefault(push.step, {})[push.rank] = (push.loss, push.loss_tokens)
        if push.stop:
            # Nobody is past that step, and nobody begins the one after it without having heard of this.
            end = push.step + self.bound + 1
            self._end = end if self._end is None else min(self._end, end)
        self._clocks[push.rank] = push.step
        self._conclude()
        return Outcome.TAKEN

    def pull(self, rank: int, step: int) -> None:
        """A rank asks for the weights to take `step` with: `due` tells when it may have them."""
        self._waiting.append((step, rank))

    def due(self) -> Iterator[Reply]:
        """Whom weights may be sent to now; they are as they are to be sent when each is given out."""
        for step, rank in sorted(self._waiting):
            if self.clock < step - 1 - self.bound:
                break
            self._waiting.remove((step, rank))
            self._advance(step - 1)
            yield Reply(rank, step, self.version, self.clock)

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def clock(self) -> int:
        """The last step that all ranks have pushed."""
        return min(self._clocks)

    @property
    def slowest(self) -> int:
        """The rank that has pushed least, the first of them."""
        return self._clocks.index(self.clock)

    def ends_with(self, step: int) -> bool:
        """Whether the run ends with this step, which some rank has taken: all ranks answer alike."""
        return self._end is not None and self._end <= step

    def still(self, step: int) -> bool:
        """Whether all ranks have pushed `step`, none has gone on, and all who asked were answered."""
        return not self._waiting and all(clock == step for clock in self._clocks)

    def drain(self, step: int) -> int:
        """All ranks rest after `step`: bring what is left in the box into the weights. Nothing is under way then.

        How many gradients were applied since they rested last: one of each rank for each step.
        """
        if not self.still(step):
            raise RuntimeError(f"the box is drained at step {step}, but the ranks are at {self._clocks}")
        if self.in_box:
            self._step()
        ranks = len(self._clocks)
        if not self.applied == self.pushed == ranks * step or self._box_tokens:
            counted = f"{self.pushed} gradients were pushed and {self.applied} applied"
            raise RuntimeError(f"{counted} by step {step} of {ranks} ranks")
        self.version = step
        applied, self._rested_at = self.applied - self._rested_at, self.applied
        return applied

    def _advance(self, step: int) -> None:
        """Before weights are given out to who has taken `step`."""
        if self.in_box and (self.version < step or self._box_tokens >= self._batch_tokens):
            self._step()

    def _step(self) -> None:
        if self._box_tokens:
            tokens = self._applied_tokens + self._box_tokens
            last = max(self._rates)
            rated = min(last, max(1, math.ceil(tokens / self._batch_tokens)))
            self._update(self._rates[rated], 1.0 / self._batch_tokens)
            self._applied_tokens = tokens
            for old in [each for each in self._rates if each < rated]:
                del self._rates[old]
        self.box.zero_()
        self.applied += len(self.in_box)
        self.in_box.clear()
        self._box_tokens = 0
        self.version += 1

    def _conclude(self) -> None:
        """Add up the losses of steps that all ranks have taken now, in rank order: the same bits on every rank."""
        for step in range(self.known.step + 1, self.clock + 1):
            self.trained += step in self._with_gradient
            self._with_gradient.discard(step)
            told = self._told.pop(step)
            tokens = sum(count for _, count in told.values())
            loss = math.fsum(told[rank][0] for rank in sorted(told)) / tokens if tokens else self.known.loss
            self.known = Known(step, loss, tokens)
