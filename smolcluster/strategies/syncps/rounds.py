"""Which gradients make up a step of the synchronous parameter server. Pure: no clock, thread, socket or tensor here.

A step is open until it closes; the gradients that have arrived by then are its own. A member computes one task at a
time, and delivers it before it gets another:

    idle        joined, or delivered: gets a task of the open step with the next `assign`
    computing   has a task; of the open step, or of an earlier one that closed without it
    waiting     delivered its task of the open step, and is idle again when that closes

The first gradient that was computed for the open step starts its timeout. The step closes as soon as everybody who got
a task of it has delivered, or at the timeout; what was computed for an earlier step and arrived in this one is in it
too, labelled late. It neither starts the timeout nor is waited for: one slow member costs the others a timeout in the
steps that it takes part in, and nothing in those that it misses. Who delivered late is idle at once, so it goes on with
the open step and newest weights; whoever closes a step has been on time, so there is always one who can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """One gradient that a member is to compute for step `step` (from 1). `number` is never used again.

    pull: it takes the newest weights first, which are those after step `step` - 1. version: the step after which it
    has taken any, itself included.
    """

    number: int
    worker: int
    step: int
    pull: bool
    version: int


@dataclass(frozen=True)
class Arrived:
    """A gradient that is in a step: the task it answers, and its targets, by which it weighs."""

    task: Task
    tokens: int
    late: bool


@dataclass(frozen=True)
class Closed:
    """A step and all gradients in it, in the order in which they arrived."""

    step: int
    gradients: tuple[Arrived, ...]

    @property
    def tokens(self) -> int:
        """Targets of all of them."""
        return sum(each.tokens for each in self.gradients)

    @property
    def late(self) -> int:
        """How many had been computed for an earlier step."""
        return sum(each.late for each in self.gradients)

    @property
    def staleness(self) -> int:
        """The most updates that any of the weights they were computed on lacked."""
        return max(self.step - 1 - each.task.version for each in self.gradients)


@dataclass
class Account:
    """Every gradient that was ever pushed is applied, pending (in the open step), or refused for a reason."""

    pushed: int = 0
    applied: int = 0
    late: int = 0  # of those applied
    pending: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def closes(self) -> bool:
        """Whether nothing was lost or counted twice."""
        return self.pushed == self.applied + self.pending + self.refused.total()


@dataclass
class _Member:
    task: Task | None = None
    waiting: bool = False
    last: int = -1  # the task it delivered last
    version: int = 0
    since_pull: int = 0
    behind: bool = True  # it takes the newest weights with its next task, whatever the interval


class Rounds:
    """The steps of one generation. `closed`: how many a checkpoint has already.

    timeout_s: counts from a step's first gradient. interval: tasks for which a member keeps its weights.
    max_staleness: a gradient whose weights lack more updates than that is refused.
    Times are seconds of one clock that does not go back.
    """

    def __init__(self, timeout_s: float, interval: int, closed: int = 0, max_staleness: int | None = None) -> None:
        self.step = closed + 1
        self.account = Account()
        self._timeout_s = timeout_s
        self._interval = interval
        self._max_staleness = max_staleness
        self._members: dict[int, _Member] = {}
        self._arrived: list[Arrived] = []
        self._closes_at: float | None = None
        self._numbers = 0

    @property
    def members(self) -> tuple[int, ...]:
        """Who takes part, ascending."""
        return tuple(sorted(self._members))

    def join(self, worker: int) -> None:
        """A member comes, or comes again after it left. It has no weights yet."""
        if worker in self._members:
            raise ValueError(f"worker {worker} has not left")
        self._members[worker] = _Member()

    def leave(self, worker: int) -> Task | None:
        """A member is gone: the task it owes, which nobody will deliver. What it has delivered stays."""
        return self._members.pop(worker).task

    def assign(self, only: Iterable[int] | None = None) -> list[Task]:
        """Tasks of the open step for all (or `only` those) who are idle, in the order of their numbers."""
        tasks = []
        for worker in self.members if only is None else sorted(only):
            member = self._members[worker]
            if member.task is None and not member.waiting:
                tasks.append(self._task(worker, member))
        return tasks

    def _task(self, worker: int, member: _Member) -> Task:
        pull = member.behind or member.since_pull >= self._interval
        if pull:
            member.version, member.since_pull, member.behind = self.step - 1, 0, False
        member.since_pull += 1
        member.task = Task(self._numbers, worker, self.step, pull, member.version)
        self._numbers += 1
        return member.task

    def push(self, worker: int, number: int, tokens: int, now: float) -> Arrived | str:
        """A gradient has come: what it is in the open step, or why it is refused.

        Refused is what was delivered before (`duplicate`), what its sender was not asked for or is no longer
        (`expired`), and what is `too stale`; the sender of the last is idle, and its task's samples are anybody's.
        """
        self.account.pushed += 1
        member = self._members.get(worker)
        if member is None or member.task is None or member.task.number != number:
            return self._refuse("duplicate" if member is not None and member.last == number else "expired")
        task, member.task, member.last = member.task, None, number
        late = task.step < self.step
        member.waiting, member.behind = not late, late
        if self._max_staleness is not None and self.step - 1 - task.version > self._max_staleness:
            member.waiting, member.behind = False, True
            return self._refuse("too stale")
        if not late and self._closes_at is None:
            self._closes_at = now + self._timeout_s
        arrived = Arrived(task, tokens, late)
        self._arrived.append(arrived)
        self.account.pending += 1
        return arrived

    def _refuse(self, why: str) -> str:
        self.account.refused[why] += 1
        return why

    def closes_in(self, now: float, more: bool = True) -> float | None:
        """Seconds until the open step closes, 0 when it is to close now; None when that waits for a gradient.

        more: whether anybody who is idle will get a task of it. At the end of a run, when there is no sample left, late
        gradients close a step of their own once nobody owes one.
        """
        if self._closes_at is None:
            last = not more and self._arrived and all(member.task is None for member in self._members.values())
            return 0.0 if last else None
        expected = any(m.task is not None and m.task.step == self.step for m in self._members.values())
        return max(0.0, self._closes_at - now) if expected else 0.0

    def close(self) -> Closed:
        """Close the open step and open the next one. Who waited for it is idle. ValueError if it is empty."""
        if not self._arrived:
            raise ValueError(f"step {self.step} has no gradient yet")
        closed = Closed(self.step, tuple(self._arrived))
        self.account.pending -= len(closed.gradients)
        self.account.applied += len(closed.gradients)
        self.account.late += closed.late
        self._arrived, self._closes_at = [], None
        self.step += 1
        for member in self._members.values():
            member.waiting = False
        return closed
