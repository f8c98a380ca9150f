"""Which gradients make up a step of the synchronous parameter server. Pure: no clock, thread, socket or tensor here.

A step is open until it closes; the gradients that have arrived by then are its own. A member computes one task at a
time, and delivers it before it gets another:

    idle        joined, or delivered: may be given a task of the open step
    computing   has a task; of the open step, or of an earlier one that closed without it
    waiting     delivered its task of the open step, and is idle again when that closes

The first gradient that was computed for the open step starts its timeout. The step closes as soon as everybody who got
a task of it has delivered, or at the timeout; what was computed for an earlier step and arrived in this one is in it
too, labelled late. It neither starts the timeout nor is waited for: one slow member costs the others a timeout in the
steps that it takes part in, and nothing in those that it misses. Who delivered late is idle at once, so it goes on with
the open step and newest weights; whoever closes a step has been on time, so there is always one who can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Gradient = TypeVar("Gradient")


@dataclass(frozen=True)
class Arrived(Generic[Gradient]):
    """A gradient that is in a step. late: it was computed for an earlier one."""

    gradient: Gradient
    late: bool


@dataclass
class _Member:
    # What it computes, and for which step; None: it is idle or waits.
    task: int | None = None
    step: int = 0
    waiting: bool = False


class Rounds(Generic[Gradient]):
    """The steps of one generation, counted from 1. Members and tasks are any numbers, each used once.

    timeout_s: counts from a step's first gradient. Times are seconds of one clock that does not go back.
    """

    def __init__(self, timeout_s: float) -> None:
        self.step = 1
        self._timeout_s = timeout_s
        self._members: dict[int, _Member] = {}
        self._arrived: list[Arrived[Gradient]] = []
        self._closes_at: float | None = None

    @property
    def pending(self) -> int:
        """Gradients in the open step."""
        return len(self._arrived)

    def join(self, member: int) -> None:
        """It takes part from now on."""
        self._members[member] = _Member()

    def leave(self, member: int) -> None:
        """It is gone, and nobody will deliver what it computes. What it has delivered stays. Idempotent."""
        self._members.pop(member, None)

    def waits(self, member: int) -> bool:
        """Whether it has delivered what the open step wants of it."""
        return self._members[member].waiting

    def assign(self, member: int, task: int) -> None:
        """It is given a task of the open step, instead of any that it had. ValueError if it waits."""
        one = self._members[member]
        if one.waiting:
            raise ValueError(f"member {member} waits for step {self.step} to close")
        one.task, one.step = task, self.step

    def put(self, member: int, task: int, gradient: Gradient, now: float) -> bool:
        """A gradient is in the open step from now on. Whether it is late.

        A task that its sender does not have is one of a life before, whose answer was lost with the link: late, and it
        keeps the task that it has.
        """
        one = self._members.get(member)
        own = one is not None and one.task == task
        on_time = False
        if one is not None and own:
            on_time = one.step == self.step
            one.task, one.waiting = None, on_time
        if on_time and self._closes_at is None:
            self._closes_at = now + self._timeout_s
        self._arrived.append(Arrived(gradient, not on_time))
        return not on_time

    def drop(self, member: int, task: int) -> None:
        """It delivered its task, and that is in no step: it is idle."""
        one = self._members.get(member)
        if one is not None and one.task == task:
            one.task = None

    def closes_in(self, now: float, more: bool = True) -> float | None:
        """Seconds until the open step closes, 0 when it is to close now; None when that waits for a gradient.

        more: whether anybody who is idle will get a task of it. At the end of a run, when there is no sample left, late
        gradients close a step of their own once nobody owes one.
        """
        if self._closes_at is None:
            last = not more and self._arrived and all(one.task is None for one in self._members.values())
            return 0.0 if last else None
        expected = any(one.task is not None and one.step == self.step for one in self._members.values())
        return max(0.0, self._closes_at - now) if expected else 0.0

    def close(self) -> tuple[Arrived[Gradient], ...]:
        """Close the open step and open the next one: the gradients in it, in the order in which they came.

        Who waited for it is idle. ValueError if it is empty.
        """
        if not self._arrived:
            raise ValueError(f"step {self.step} has no gradient yet")
        closed = tuple(self._arrived)
        self._arrived, self._closes_at = [], None
        self.step += 1
        for one in self._members.values():
            one.waiting = False
        return closed
