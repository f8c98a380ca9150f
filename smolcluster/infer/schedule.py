"""Who is in the next step. Pure bookkeeping: no clock, no sockets.

Sessions wait in one line and are let in while there is room; those that are in take turns. A step takes its share of
them (all, divided by the steps that may be under way), each at most once, and at most one piece of a prompt: a long
prompt delays the others by one piece a turn, never by all of it.
"""

from __future__ import annotations

from collections import deque

from smolcluster.infer.request import Limits
from smolcluster.infer.session import Session


class Schedule:
    """Sessions that wait, are active, or are leaving (ended, and not yet forgotten by every stage)."""

    def __init__(self, limits: Limits, slots: int) -> None:
        self._limits = limits
        self.slots = limits.in_flight or slots
        self.waiting: deque[Session] = deque()
        self.active: dict[int, Session] = {}
        self.leaving: dict[int, int] = {}
        self._turns: deque[Session] = deque()

    @property
    def held(self) -> int:
        """Tokens that caches are kept for."""
        return sum(session.max_len for session in self.active.values()) + sum(self.leaving.values())

    def fits(self, tokens: int) -> bool:
        """Whether a session of so many tokens could ever be let in."""
        return self._limits.tokens is None or tokens <= self._limits.tokens

    def admit(self) -> list[Session]:
        """Those who come in now, in the order they came."""
        admitted: list[Session] = []
        while self.waiting and len(self.active) + len(self.leaving) < self._limits.sessions:
            session = self.waiting[0]
            if self._limits.tokens is not None and self.held + session.max_len > self._limits.tokens:
                break
            admitted.append(self.waiting.popleft())
            self.active[session.number] = session
            self._turns.append(session)
        return admitted

    def next_group(self) -> list[Session]:
        """The sessions of the next step; they are in flight from now on. Empty when nobody can go."""
        share = max(1, -(-len(self.active) // self.slots))
        group: list[Session] = []
        passed: list[Session] = []
        reading = False
        while self._turns and len(group) < share:
            session = self._turns.popleft()
            if session.reading and reading:
                passed.append(session)
                continue
            reading = reading or session.reading
            session.in_flight = True
            group.append(session)
        self._turns.extendleft(reversed(passed))
        return group

    def back(self, session: Session) -> None:
        """A session's step has come back, and it goes on: it is last in turn."""
        session.in_flight = False
        if session.number in self.active:
            self._turns.append(session)

    def leave(self, session: Session) -> None:
        """It has ended; its room is kept until the stages have forgotten it."""
        if self.active.pop(session.number, None) is not None:
            self.leaving[session.number] = session.max_len
            if session in self._turns:
                self._turns.remove(session)

    def forgotten(self, number: int) -> None:
        """Every stage has forgotten it."""
        self.leaving.pop(number, None)

    def clear(self) -> list[Session]:
        """The chain is gone, and all caches with it: nobody is active. Who was, in order of arrival."""
        lost = sorted(self.active.values(), key=lambda session: session.key)
        self.active.clear()
        self.leaving.clear()
        self._turns.clear()
        return lost
