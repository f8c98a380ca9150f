"""The server of the synchronous parameter server: one AdamW step on the mean of the gradients that a step has.

1. Whoever is idle gets samples, a share of the global batch, with the newest weights every `worker_update_interval`
   gradients and after a late one.
2. A gradient comes: box += tokens x gradient. Its sender waits for the step to close, or if it was late gets the next
   samples and weights at once.
3. The step closes (rounds.py): AdamW on box / tokens of all in it, clipped by its norm. Go to 1.

The samples of the run stand in one line (star/leases.py), and every one of them is in exactly one step, whoever comes,
goes or is late: what somebody leaves behind is leased again before anything new. Shares follow those who are there, in
proportion to what the plan gives each, so that together they are the plan's global batch. Who is late has its share
when it comes, and the steps in between are smaller by that. Nobody gets samples before all workers of the plan have
come, or have been waited for: as long as all keep up, the steps are those of a single process, sample by sample.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from smolcluster.comm.mailbox import Mailbox, Member
from smolcluster.plan.shares import shares
from smolcluster.runtime.context import RunContext
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.leases import Lease
from smolcluster.strategies.star.messages import APPLIED
from smolcluster.strategies.star.server import Push, StarServer, Update
from smolcluster.strategies.syncps.rounds import Arrived, Rounds

log = logging.getLogger(__name__)

TOO_STALE = "too stale"


class Server(StarServer):
    """Collects, and updates once a step."""

    # A worker computes for the open step, which it cannot know before the one before has closed.
    ahead = 1
    # That does not go on for ever: who has delivered for the open step delivers no more before it closes.
    hears_all = True

    def __init__(
        self, context: RunContext, centre: Centre, mailbox: Mailbox, batch: int, rate: Callable[[float], float]
    ) -> None:
        super().__init__(context, centre, mailbox, batch, rate)
        run = context.run
        self.clock = time.monotonic
        self.rounds: Rounds[Push] = Rounds(run.syncps_timeout_s)
        self._max_staleness = run.max_staleness
        self._wait_s = run.recovery.elastic_wait_s
        self._begins_at: float | None = None
        self._begun = False
        self._gradient = torch.empty_like(centre.whole_grads)

    # -- who is there ---------------------------------------------------------------------------------------------

    def on_join(self, member: Member) -> None:
        """It takes part from the open step on."""
        self.rounds.join(member.number)
        if self._begins_at is None:
            self._begins_at = self.clock() + self._wait_s

    def on_leave(self, member: Member) -> None:
        """The open step does not wait for it."""
        self.rounds.leave(member.number)
        if not self.active:
            self._begins_at = None

    def share(self, member: Member) -> int:
        """Its part of the global batch, among those who are there; nothing while it waits for the step to close."""
        if not self._begun or self.rounds.waits(member.number):
            return 0
        here = sorted(self._samples, key=lambda one: one.rank)
        parts = shares(self.batch, [self._samples[one] for one in here])
        return parts[here.index(member)]

    def next_update(self, member: Member) -> int:  # noqa: ARG002
        """A step's, of a whole global batch."""
        return self.batch

    def on_lease(self, member: Member, lease: Lease) -> None:
        """Its next gradient is for the open step."""
        self.rounds.assign(member.number, lease.number)

    def on_expire(self, member: Member, lease: Lease) -> None:
        """The open step does not wait for it."""
        self.rounds.drop(member.number, lease.number)

    # -- a step ---------------------------------------------------------------------------------------------------

    def on_push(self, push: Push) -> None:
        """Into the box. Its samples are this step's now, whatever becomes of its sender."""
        staleness = self.centre.version - push.base
        if staleness > self._max_staleness:
            self.rounds.drop(push.member.number, push.lease.number)
            self.refused(push, TOO_STALE, staleness)
            return
        self.decode(push, self._gradient)
        self.centre.whole_grads.add_(self._gradient, alpha=push.tokens)
        self.leases.keep(push.lease)
        self.note()
        if self.rounds.put(push.member.number, push.lease.number, push, self.clock()):
            self._answer(push.member, push.number, APPLIED, True, staleness, jump=True)

    def on_turn(self) -> None:
        """Begin, if it is time; close the step, if it is time."""
        if not self._begun and self._may_begin():
            self._begun = True
            self._hand_out()
        if self.rounds.closes_in(self.clock(), more=self.leases.free > 0) == 0:
            self._close(self.rounds.close())

    def patience_s(self) -> float:
        """Until the step closes, or all have been waited for."""
        now = self.clock()
        if not self._begun:
            return float("inf") if self._begins_at is None else max(0.0, self._begins_at - now)
        left = self.rounds.closes_in(now, more=self.leases.free > 0)
        return float("inf") if left is None else left

    def _may_begin(self) -> bool:
        missing = self.mailbox.workers - self.active
        if missing and (self._begins_at is None or self.clock() < self._begins_at):
            return False
        if missing:
            log.warning("%d worker(s) did not come within %.0f s; the others begin", missing, self._wait_s)
        return self.active > 0

    def _close(self, arrived: tuple[Arrived[Push], ...]) -> None:
        pushes = [one.gradient for one in arrived]
        tokens, samples = sum(push.tokens for push in pushes), sum(push.lease.count for push in pushes)
        staleness = self.centre.version - min(push.base for push in pushes)
        lr = self.rate_after(samples)
        self.centre.whole_grads.mul_(1 / tokens)
        norm = self.centre.update(lr)
        self.centre.whole_grads.zero_()
        for one in arrived:
            self.leases.acknowledge(one.gradient.lease)
            self.ledger.apply(one.late)
        late = sum(one.late for one in arrived)
        loss = sum(push.loss for push in pushes)
        self.updates.append(Update(0, samples, tokens, loss, lr, norm, staleness, late=late, gradients=len(pushes)))
        self.note()
        for one in sorted(arrived, key=lambda one: one.gradient.member.rank):
            push = one.gradient
            if not one.late and push.member in self._samples:  # who has left is told all when it comes again
                self._answer(push.member, push.number, APPLIED, push.pull, self.centre.version - 1 - push.base)
