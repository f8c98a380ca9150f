"""Rank 0 of a star: hears everybody, gives out leases, answers pushes, keeps the ledger. Never waits for anybody.

What is done with a gradient is the strategy's (`on_push`); when and what is evaluated or saved is train/star's. One
thread drives it, with `turn`; the mailbox's threads only carry letters.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from smolcluster.comm.clock import Deadline
from smolcluster.comm.codec import codec_of
from smolcluster.comm.letter import Letter, Value, no_body
from smolcluster.comm.mailbox import Delivered, Event, Joined, Left, Mailbox, Member
from smolcluster.errors import ProtocolError
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.runfolder import GradientAccount
from smolcluster.strategies.base import NotFiniteError
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.leases import Lease, Leases
from smolcluster.strategies.star.ledger import ROLLED_BACK, Ledger
from smolcluster.strategies.star.messages import APPLIED, Op, Weights, flat_leases, op_of
from smolcluster.strategies.star.weights import Outgoing

log = logging.getLogger(__name__)

# A worker that lives has that long for a lease: as long as an operation of the synchronous strategies may take.
LEASE_S = 1800.0
NOT_LEASED = "its samples were given to another"
DUPLICATE = "a duplicate"
TOO_LATE = "the run was over"


@dataclass(frozen=True, eq=False)
class Push:
    """A gradient that is new, of this generation, and whose lease stands. `loss`: summed over its `tokens`."""

    member: Member
    number: int
    lease: Lease
    base: int
    tokens: int
    loss: float
    pull: bool
    frame: Tensor


@dataclass(frozen=True)
class Update:
    """One update of the weights. `grad_norm` is that of its gradient, before clipping; `rank`: whose that was, 0 for a
    mean of several. Of so many `gradients` it was made; `late` of them had been meant for an update before.
    """

    rank: int
    samples: int
    tokens: int
    loss: float
    lr: float
    grad_norm: float
    staleness: int
    gradients: int = 1
    late: int = 0


class StarServer:
    """`context` is solo's, `batch` the run's global batch; `rate` gives the learning rate of a step, which may lie
    between two. `leases` and `ledger` may be replaced before the first turn; `note` is called when they have changed,
    and before anybody hears of it.
    """

    # How many leases a worker has at once: with two it computes while the answer to its push is on its way.
    ahead = 2
    # Whether all that has come is heard before anything is due: what came in time is not late because this was busy.
    hears_all = False

    def __init__(
        self, context: RunContext, centre: Centre, mailbox: Mailbox, batch: int, rate: Callable[[float], float]
    ) -> None:
        self.centre = centre
        self.leases = Leases(0)
        self.ledger = Ledger()
        self.note: Callable[[], None] = lambda: None
        self.updates: list[Update] = []
        self.lease_s = LEASE_S
        self.waited_s = 0.0
        self._alone_since = time.monotonic()
        self.mailbox = mailbox
        self.rate = rate
        self.batch = batch
        wire = context.plan.wire
        self.outgoing = Outgoing(self.centre.flat.params, tuple(self.centre.untrained().values()), wire)
        self._codec = codec_of(wire)
        self._samples: dict[Member, int] = {}
        # Those whose lease expired, and who said nothing since.
        self._overdue: set[Member] = set()
        # By incarnation: the versions that its own updates made, since the weights it works on.
        self._own: dict[int, list[int]] = {}
        self._done: Letter | None = None

    # -- for the strategy -----------------------------------------------------------------------------------------

    def on_push(self, push: Push) -> None:
        """A gradient came: apply it, refuse it, or keep it for later."""
        raise NotImplementedError

    def on_turn(self) -> None:
        """Something may have become due."""

    def patience_s(self) -> float:
        """In how many seconds something becomes due, at the latest."""
        return math.inf

    def on_join(self, member: Member) -> None:
        """A worker is there, and is about to get weights and leases."""

    def on_leave(self, member: Member) -> None:
        """It is gone, and its leases are given back."""

    def share(self, member: Member) -> int:
        """How many samples its next lease has, at most; 0: it gets none now."""
        return self._samples[member]

    def next_update(self, member: Member) -> int:
        """Of how many samples the update is that its next gradient is part of."""
        return self._samples.get(member, 0)

    def on_lease(self, member: Member, lease: Lease) -> None:
        """It was given a lease."""

    def on_expire(self, member: Member, lease: Lease) -> None:
        """Its lease is over: nobody waits for that any more."""

    @property
    def active(self) -> int:
        """How many workers are there."""
        return len(self._samples)

    @property
    def alone_s(self) -> float:
        """For how long no worker has been there."""
        return 0.0 if self._samples else time.monotonic() - self._alone_since

    def staleness(self, push: Push) -> int:
        """Updates since the weights it was computed on were pulled, the worker's own excluded."""
        own = sum(version > push.base for version in self._own.get(push.member.incarnation, ()))
        return max(0, self.centre.version - push.base - own)

    def decode(self, push: Push, out: Tensor) -> None:
        """The gradient of a push, float32, as long as the model's flat line."""
        self._codec.decode(push.frame.to(out.device), out)

    def rate_after(self, samples: int) -> float:
        """The learning rate of an update with which so many more samples are applied."""
        return self.rate((self.leases.applied + samples) / self.batch)

    def applied(self, push: Push, lr: float, grad_norm: float, staleness: int) -> None:
        """It is in the weights: acknowledge and answer it."""
        self.leases.acknowledge(push.lease)
        self.ledger.apply()
        self._own.setdefault(push.member.incarnation, []).append(self.centre.version)
        self.updates.append(
            Update(push.member.rank, push.lease.count, push.tokens, push.loss, lr, grad_norm, staleness)
        )
        self.note()
        self._answer(push.member, push.number, APPLIED, push.pull, staleness)

    def refused(self, push: Push, reason: str, staleness: int) -> None:
        """It never will be. Its samples are leased again, and its worker gets fresh weights."""
        self.leases.release(push.lease)
        self.ledger.refuse(reason)
        self.note()
        self._answer(push.member, push.number, reason, True, staleness, jump=True)

    # -- for who drives it ----------------------------------------------------------------------------------------

    def turn(self, wait_s: float) -> None:
        """See to the next thing that happens; waits at most so long. NotFiniteError: the numbers went wrong."""
        began = time.monotonic()
        event = self.mailbox.receive(min(wait_s, self.patience_s()))
        self.waited_s += time.monotonic() - began
        while event is not None:
            self._hear(event)
            event = self.mailbox.receive(0.0) if self.hears_all else None
        self._expire()
        self.on_turn()

    def account(self) -> GradientAccount:
        """Ledger and leases."""
        leases = self.leases
        return self.ledger.account(leases.leased, leases.applied, leases.outstanding, leases.released)

    def finish(self, status: str, reason: str, linger_s: float) -> None:
        """Tell all who are there, or come within that time, that the run is over. Ends when nobody is there who has not
        been told and all workers of the run have been, or at that time.
        """
        self._done = Letter(Op.DONE, 0, {"status": status, "reason": reason})
        told = {member.rank for member in self._samples}
        for member in self._samples:
            self.mailbox.send(member, self._done)
        deadline = Deadline(linger_s)
        while not deadline.expired and (self.mailbox.members() or len(told) < self.mailbox.workers):
            event = self.mailbox.receive(deadline.left())
            if isinstance(event, Joined):
                told.add(event.member.rank)
            elif isinstance(event, Left) and not event.orderly:
                told.discard(event.member.rank)  # it may have died before it heard: its next process will ask
            if event is not None:
                self._hear(event)

    # -- letters --------------------------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        try:
            match event:
                case Joined(member, words):
                    self._join(member, Letter(0, 0, words).say("samples", int))
                case Delivered(member, letter):
                    self._read(member, letter)
                case Left(member, reason, orderly):
                    self._leave(member, reason, orderly)
        except ProtocolError as error:
            self._let_go(event.member, str(error))

    def _let_go(self, member: Member, reason: str) -> None:
        """It said what it may not say, and would again: others get its samples, and it is told why it is to end."""
        log.warning("rank %d is let go: %s", member.rank, reason)
        self._leave(member, reason, orderly=False)
        self.mailbox.send(member, Letter(Op.REFUSED, 0, {"reason": reason[:500]}))

    def _join(self, member: Member, samples: int) -> None:
        if self._done is not None:
            self.mailbox.send(member, self._done)
            return
        if not 0 < samples <= self.batch:
            raise ProtocolError(f"it takes {samples} samples at once, of a global batch of {self.batch}")
        self._samples[member] = samples
        log.info("rank %d is here, %d worker(s) now", member.rank, self.active)
        self._own.setdefault(member.incarnation, [])
        self.on_join(member)
        self._answer(member, 0, APPLIED, True, 0)

    def _leave(self, member: Member, reason: str, orderly: bool) -> None:
        self.outgoing.forget(member.number)
        self._overdue.discard(member)
        if self._samples.pop(member, None) is None:
            return
        self._alone_since = time.monotonic()
        self.on_leave(member)
        again = self.leases.leave(member.number)
        here = {one.incarnation for one in self._samples}
        self._own = {one: own for one, own in self._own.items() if one in here or one == member.incarnation}
        how = "left" if orderly else "is gone"
        log.info("rank %d %s (%s); %d samples are given out again", member.rank, how, reason, again)
        self._hand_out()

    def _read(self, member: Member, letter: Letter) -> None:
        if self._done is not None:
            if letter.op == Op.PUSH and self.ledger.arrive(member.rank, member.incarnation, letter.number):
                self.ledger.refuse(TOO_LATE)
            return
        if member not in self._samples:  # it was let go, and has heard that or will
            self.mailbox.cut(member)
            return
        match op_of(letter):
            case Op.PUSH:
                self._take_push(member, letter)
            case Op.FAILED:
                raise NotFiniteError(letter.say("reason", str)[:500], member.rank)
            case other:
                raise ProtocolError(f"it sent {other.name}, which is for a server to send")

    def _take_push(self, member: Member, letter: Letter) -> None:
        number, base, pull = letter.number, letter.say("base", int), letter.say("pull", bool)
        tokens, loss, generation = letter.say("tokens", int), letter.say("loss", float), letter.say("generation", int)
        leased = letter.say("lease", int)
        self._own[member.incarnation] = [one for one in self._own.get(member.incarnation, ()) if one > base]
        due = self._codec.frame_bytes(self.centre.flat.length)
        if letter.body.numel() != due or tokens <= 0:
            raise ProtocolError(f"it pushed {letter.body.numel()} bytes for {tokens} tokens; {due} bytes were due")
        self._overdue.discard(member)
        if not self.ledger.arrive(member.rank, member.incarnation, number):
            self._answer(member, number, DUPLICATE, pull, 0)
            return
        lease = self.leases.find(leased, member.number)
        if generation != self.mailbox.generation or lease is None:
            reason = NOT_LEASED if generation == self.mailbox.generation else ROLLED_BACK
            self.ledger.refuse(reason)
            self.note()
            self._answer(member, number, reason, pull, 0)
            return
        self.on_push(Push(member, number, lease, base, tokens, loss, pull, letter.body))

    def _answer(
        self, member: Member, number: int, outcome: str, pull: bool, staleness: int, jump: bool = False
    ) -> None:
        """`jump`: it goes on from these weights alone, whatever it would make of a pull."""
        version = self.centre.version
        weights: Weights = ""
        body: Tensor | None = None
        if pull:
            send = self.outgoing.pull if number else self.outgoing.full
            weights, body = send(member.number, version)
        words: dict[str, Value] = {
            "outcome": outcome,
            "version": version,
            "lr": self.rate_after(self.next_update(member)),
            "staleness": staleness,
            "left": self.leases.left,
            "leases": self._granted(member),
            "weights": weights,
            "jump": jump,
        }
        self.mailbox.send(member, Letter(Op.ANSWER, number, words, no_body() if body is None else body))

    def _expire(self) -> None:
        """Give out again what was not used in its time: to others, and to its holder only when that is heard again."""
        over = self.leases.expire(time.monotonic())
        for number, lease in over:
            member = next(one for one in self._samples if one.number == number)
            self._overdue.add(member)
            self.on_expire(member, lease)
            log.warning("rank %d did not use its lease for %.0f s; others get the samples", member.rank, self.lease_s)
        if over:
            self._hand_out()

    def _granted(self, member: Member) -> list[int]:
        """New leases for a member, as many as it lacks."""
        leases: list[Lease] = []
        count = self.share(member) if member in self._samples and member not in self._overdue else 0
        while count and self.leases.held(member.number) < self.ahead:
            lease = self.leases.give(member.number, count, time.monotonic() + self.lease_s)
            if lease is None:
                break
            self.on_lease(member, lease)
            leases.append(lease)
        return flat_leases(leases)

    def _hand_out(self) -> None:
        """Samples came back: those who wait get them, in the order of their ranks."""
        for member in sorted(self._samples, key=lambda one: one.rank) if self._done is None else ():
            leases = self._granted(member)
            if leases:
                self.mailbox.send(member, Letter(Op.LEASES, 0, {"leases": leases}))
