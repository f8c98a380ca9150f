"""The server of the synchronous parameter server: one AdamW step on the mean of the gradients that a step has.

Per step (rounds.py says which gradients, leases.py which samples):

1. Whoever is idle gets a task: a share of a global batch, and the newest weights when it is time for them.
2. A gradient comes, of the loss summed over a task's tokens: box += gradient. Its sender waits for the step to close;
   if it was late it gets the next task at once.
3. The step closes: AdamW on box / tokens of all in it, clipped by its norm. Go to 1.

Shares are cut out of the global batch in proportion to what the plan gives those who are there. So they follow whoever
comes or goes, and the batch of a step stays the plan's as long as nobody is late. Until all of the plan have come, or
`begin` says not to wait, nobody gets a task: a run whose workers keep up takes the very steps of a single process.

It is driven from outside, by one thread: events of the mailbox go in, letters go out through `send`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from smolcluster.comm.codec import codec_of
from smolcluster.comm.letter import Letter, Value
from smolcluster.comm.mailbox import Member
from smolcluster.errors import ProtocolError
from smolcluster.plan.shares import shares
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.base import LossSum, NotFiniteError, StepResult
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.syncps.alone import alone, gradient_unit, wire_of
from smolcluster.strategies.syncps.leases import Leases
from smolcluster.strategies.syncps.letters import Op, Pull
from smolcluster.strategies.syncps.pulls import Shipping
from smolcluster.strategies.syncps.rounds import Closed, Rounds, Task

Send = Callable[[Member, Letter], None]


@dataclass(frozen=True)
class ServerStep:
    """A step that closed: its result, and the gradients in it."""

    result: StepResult
    closed: Closed


class Server:
    """`replica` is the model that is trained, evaluated and saved. `seats`: the plan's samples of each who computes."""

    def __init__(self, context: RunContext, model: nn.Module, send: Send) -> None:
        self.replica = Replica(alone(context), model)
        self._length = self.replica.flat.length
        self.replica.start_with_whole_gradients([(0, self._length)], send=None)
        self._box = self.replica.whole_grads
        run = context.run
        wire = wire_of(context)
        self.rounds = Rounds(run.syncps_timeout_s, run.worker_update_interval)
        self.leases = Leases()
        self.seats = {rank.rank: rank.samples for rank in context.plan.ranks if rank.samples}
        self._global_batch = context.plan.global_batch
        self._codec = codec_of(wire)
        self._unit = gradient_unit(context)
        self._shipping = Shipping(self.replica.flat.params, list(self.replica.untrained().values()), wire)
        self._send = send
        self._guests: dict[int, Member] = {}
        self._new: set[int] = set()
        self._begun = False
        self._loss = 0.0

    # -- who is there -----------------------------------------------------------------------------------------------

    def joined(self, member: Member) -> None:
        """A worker has come. It gets a task as soon as there are any."""
        self.rounds.join(member.rank)
        self._guests[member.rank] = member
        self._new.add(member.rank)
        if set(self._guests) >= set(self.seats):
            self.begin()
        self.assign()

    def left(self, member: Member) -> None:
        """It is gone: others get its samples."""
        task = self.rounds.leave(member.rank)
        if task is not None:
            self.leases.give_back(task.number)
        del self._guests[member.rank]
        self._shipping.forget(member.rank)

    def begin(self) -> None:
        """Do not wait for anybody else of the plan."""
        self._begun = True

    @property
    def begun(self) -> bool:
        """Whether tasks are given."""
        return self._begun

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is there, by rank."""
        return tuple(member for _, member in sorted(self._guests.items()))

    # -- a step -----------------------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Send a task to everybody who is idle."""
        if not self._begun:
            return
        parts = self._shares()
        for task in self.rounds.assign(rank for rank, part in parts.items() if part):
            self._send(self._guests[task.worker], self._work(task, parts[task.worker]))

    def _shares(self) -> dict[int, int]:
        """The samples of each member's next task."""
        there = sorted(self._guests)
        if not there:
            return {}
        parts = shares(self._global_batch, [max(1, self.seats.get(rank, 1)) for rank in there])
        return dict(zip(there, parts, strict=True))

    def _work(self, task: Task, samples: int) -> Letter:
        ranges = self.leases.lease(task.number, samples)
        pull, body = Pull.NONE, torch.empty(0, dtype=torch.uint8)
        if task.worker in self._new:
            self._new.discard(task.worker)
            pull, body = Pull.WHOLE, self._shipping.whole(task.worker)
        elif task.pull:
            pull, body = Pull.NEWER, self._shipping.newer(task.worker)
        words: dict[str, Value] = {
            "step": task.step,
            "version": task.version,
            "pull": int(pull),
            "ranges": [position for each in ranges for position in each],
        }
        return Letter(Op.WORK, task.number, words, body)

    def delivered(self, member: Member, letter: Letter, now: float) -> None:
        """A gradient. ProtocolError if it is of another model; NotFiniteError if its loss is not finite."""
        tokens, loss = letter.say("tokens", int), letter.say("loss", float)
        if tokens <= 0 or letter.body.numel() != self._codec.frame_bytes(self._length):
            raise ProtocolError(f"rank {member.rank} sent a gradient of another model")
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss of rank {member.rank} is not finite", member.rank)
        arrived = self.rounds.push(member.rank, letter.number, tokens, now)
        if not isinstance(arrived, str):
            self.leases.done(letter.number)
            self._loss += loss
            self._add(letter.body.to(self._box.device))
        self.assign()  # who was late

    def _add(self, frame: torch.Tensor) -> None:
        """Add a gradient of a summed loss: so it weighs by its tokens."""
        if self._unit == 1:
            self._codec.add(frame, self._box)
            return
        gradient = torch.empty_like(self._box)
        self._codec.decode(frame, gradient)
        self._box.add_(gradient, alpha=1 / self._unit)

    def closes_in(self, now: float) -> float | None:
        """See Rounds."""
        return self.rounds.closes_in(now)

    def close(self, lr: float) -> ServerStep:
        """Close the step: one update. Its members are idle until `assign`."""
        replica = self.replica
        replica.begin()
        closed = self.rounds.close()
        verdict = replica.agree(LossSum(self._loss, closed.tokens), False, [self._box])
        replica.adamw.step(0, lr, verdict.scale)
        self._box.zero_()
        self._loss = 0.0
        self._shipping.changed()
        return ServerStep(replace(replica.result(verdict), staleness=closed.staleness), closed)
