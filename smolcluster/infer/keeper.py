"""Keeps the chain up. A thread of its own, so that the head's goes on keeping deadlines while stages are waited for.

    a loss             wait `rejoin_s` for the lost ranks (their supervisors start them again), with all of them back
                       at once take the first layout again; else plan over those who are left
    it does not fit    stay lost, with the reason, until somebody comes
    a rank comes back  to a smaller layout: take it in when nothing is active
    connect            at once, with whoever is there
    a tablet           is waited for longer than a machine that is started again, unless it is optional; when it has
                       not come by then, requests that wait for it end

A rank whose fault it was that an epoch could not begin is left out for a while, longer each time. Without a policy
nothing happens by itself: `connect` waits for all.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from smolcluster.comm.clock import Deadline
from smolcluster.errors import ConfigError, PeerError, PeerLostError
from smolcluster.infer.control import StageError
from smolcluster.infer.layout import Here, Layout
from smolcluster.infer.pipeline import Pipeline

log = logging.getLogger("smolcluster.infer")
# After an epoch that could not begin, and between looks at whether a stage can be taken in.
_PAUSE_S = 1.0
# How long a rank that is to blame is left out, the first time and at most.
_BLAME_S, _MOST_BLAME_S = 30.0, 3600.0

# Layers for these ranks (rank 0, the head, is always one), by what they said of themselves. ConfigError: none that fit.
Replan = Callable[[Mapping[int, Here]], Layout]


@dataclass(frozen=True)
class TabletPatience:
    """How long the rank of a tablet is waited for, and whether the others serve without it then."""

    wait_s: float
    optional: bool = False


@dataclass(frozen=True)
class Policy:
    """`first_s`: how long all ranks are waited for at the start; `open_s`: how long an epoch may take to begin.

    `tablets`: the ranks of tablets, for which there are other times.
    """

    replan: Replan
    rejoin_s: float = 15.0
    first_s: float = 150.0
    open_s: float = 150.0
    tablets: Mapping[int, TabletPatience] = field(default_factory=dict)


class Head(Protocol):
    """What the keeper needs of the head's thread; each waits until that has come to it. PeerLostError: it has ended."""

    def leave(self, reason: str, only_if_idle: bool) -> bool:
        """Send nothing more. False: it is not idle."""
        ...

    def go(self) -> bool:
        """The chain is there. False: not any more."""
        ...

    def say(self, reason: str, hopeless: bool) -> None:
        """Why there is no chain. `hopeless`: nothing is being done about it."""
        ...

    def give_up(self, reason: str) -> None:
        """Nobody comes to compute: end every request."""
        ...

    def fail(self, error: Exception) -> None:
        """Something that no other stage can help with: end."""
        ...


class Keeper:
    """`start` it, `close` it. `lost` and `connect` are for others' threads."""

    def __init__(self, pipeline: Pipeline, head: Head, policy: Policy | None) -> None:
        self._pipeline = pipeline
        self._roster = pipeline.roster
        self._head = head
        self._policy = policy
        self._whole = pipeline.layout
        self._changed = pipeline.roster.changed
        self._asked: deque[tuple[Deadline, bool, Future[None]]] = deque()
        self._closing = False
        self._is_lost = True
        self._why = ""
        self._seen: frozenset[int] | None = None  # who was there at the last look
        self._tried: frozenset[int] | None = None  # and at the last attempt
        self._look_at = 0.0
        self._rejoin_until = 0.0
        # The same of tablets, by rank.
        self._tablet_until: dict[int, float] = {}
        self._pause_s = _PAUSE_S
        self._blamed: dict[int, tuple[int, float]] = {}
        self._thread = threading.Thread(target=self._run, name="smol-keeper", daemon=True)

    def start(self) -> None:
        """Begin. With a policy the first epoch comes by itself."""
        with self._changed:
            if self._policy is not None:
                now = time.monotonic()
                self._rejoin_until = now + self._policy.first_s
                # Without one that is not optional its own rank ends the run in time.
                self._tablet_until = {
                    rank: now + one.wait_s if one.optional else math.inf for rank, one in self._policy.tablets.items()
                }
        self._thread.start()

    def lost(self, why: str) -> None:
        """The chain has broken. Never waits."""
        with self._changed:
            self._is_lost = True
            self._why = f"{why}; "
            self._seen = self._tried = None
            self._pause_s = _PAUSE_S
            self._look_at = 0.0
            if self._policy is not None:
                now, rejoin_s = time.monotonic(), self._policy.rejoin_s
                self._rejoin_until = now + rejoin_s
                self._tablet_until = {
                    rank: now + (rejoin_s if one.optional else max(rejoin_s, one.wait_s))
                    for rank, one in self._policy.tablets.items()
                }
            self._changed.notify_all()

    def connect(self, within_s: float, all_of_them: bool) -> Future[None]:
        """Begin a new epoch, whatever is now. The future's PeerError tells who did not come.

        `all_of_them`: wait for every rank, even if those who are there would be enough.
        """
        answer: Future[None] = Future()
        with self._changed:
            if self._closing:
                answer.set_exception(PeerLostError("it is closed"))
            else:
                self._asked.append((Deadline(within_s), all_of_them, answer))
                self._changed.notify_all()
        return answer

    def close(self) -> None:
        """Break off what is under way, and join. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        for *_, answer in self._asked:
            answer.set_exception(PeerLostError("it is closed"))
        self._asked.clear()

    # The keeper's thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._due, timeout=_PAUSE_S)
                if self._closing:
                    return
                self._seen = frozenset(self._roster.here())
                asked = self._asked.popleft() if self._asked else None
            try:
                if asked is not None:
                    self._connect(*asked)
                elif self._policy is not None and self._is_lost:
                    self._repair(self._policy)
                elif self._policy is not None:
                    self._grow(self._policy)
            except PeerError as error:  # the head's thread has ended, and this one will be closed
                log.info("%s", error)
            except Exception as error:  # noqa: BLE001  its own layers cannot be had, or a bug
                self._head.fail(error)
                return

    def _due(self) -> bool:
        """Whether to look now rather than a little later."""
        return self._interrupted() or frozenset(self._roster.here()) != self._seen

    def _interrupted(self) -> bool:
        return self._closing or bool(self._asked)

    def _there(self) -> dict[int, Here]:
        return {rank: control.here for rank, control in self._roster.here().items() if control.here is not None}

    def _connect(self, deadline: Deadline, all_of_them: bool, answer: Future[None]) -> None:
        self._blamed.clear()
        try:
            layout = self._whole_or_less(deadline, all_of_them)
            self._head.leave("the stages are being connected anew", only_if_idle=False)
            self._is_lost = True
            while not self._opened(layout, deadline):
                layout = self._whole_or_less(deadline, all_of_them)
        except Exception as error:  # noqa: BLE001  whoever asked gets it
            if self._is_lost:
                self._head.say(str(error), hopeless=False)
                self.lost(str(error))
            answer.set_exception(error)
        else:
            answer.set_result(None)

    def _opened(self, layout: Layout, deadline: Deadline) -> bool:
        """Begin an epoch. False: a rank of the layout has gone since it was chosen."""
        try:
            self._open(layout, deadline, lambda: self._closing)
        except StageError as error:
            if deadline.expired or error.rank not in self._roster.missing():
                raise  # it is there, and cannot take its place
            return False
        return True

    def _whole_or_less(self, deadline: Deadline, all_of_them: bool) -> Layout:
        """The layout to connect: of those who are there, if they are enough; else of all, who are waited for."""
        with self._changed:
            while True:
                missing = self._roster.missing()
                if not missing:
                    return self._whole
                if self._policy is not None and not all_of_them:
                    try:
                        return self._policy.replan(self._there())
                    except ConfigError as error:
                        log.info("rank %s is needed: %s", missing[0], error)
                if self._closing:
                    raise PeerLostError("it is closed")
                if deadline.expired:
                    break
                self._changed.wait(deadline.left())
        raise self._roster.not_come(missing[0], deadline)

    def _repair(self, policy: Policy) -> None:
        there = self._there()
        missing = self._roster.missing()
        now = time.monotonic()
        if self._tried == frozenset(there) and now < self._look_at:
            return
        if any(now < self._tablet_until.get(rank, self._rejoin_until) for rank in missing):
            self._head.say(f"{self._why}waiting for rank {_listed(missing)}", hopeless=False)
            return
        blamed = (
            {rank for rank, (_, until) in self._blamed.items() if until > now} if now > self._rejoin_until else set()
        )
        layout = self._plan(policy, there, blamed) or (self._plan(policy, there, set()) if blamed else None)
        if layout is None:
            return
        self._tried = frozenset(there)
        try:
            self._open(layout, Deadline(policy.open_s), self._interrupted)
        except PeerError as error:
            log.warning("the stages could not be connected: %s", error)
            self._head.say(str(error), hopeless=False)
            self._look_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, policy.rejoin_s)

    def _plan(self, policy: Policy, there: Mapping[int, Here], without: set[int]) -> Layout | None:
        """The layout of those who are there; None if they are too few, which is said."""
        left = {rank: here for rank, here in there.items() if rank not in without}
        if len(left) == len(self._roster.ranks):
            return self._whole
        try:
            return policy.replan(left)
        except ConfigError as error:
            gone = [rank for rank in self._roster.ranks if rank not in left]
            what = " ".join(problem.what for problem in error.problems)
            told = f"rank {_listed(gone)} is gone, and the others are too few: {what}"
            self._head.say(told, hopeless=True)
            if any(rank in policy.tablets and not policy.tablets[rank].optional for rank in gone):
                self._head.give_up(told)
            return None

    def _grow(self, policy: Policy) -> None:
        """Take in who came back to a smaller layout."""
        there, now = self._there(), time.monotonic()
        have = {place.rank for place in self._pipeline.layout.places}
        back = [rank for rank in there if rank not in have and self._blamed.get(rank, (0, 0.0))[1] <= now]
        if not back:
            return
        try:
            wanted = {rank: here for rank, here in there.items() if rank in have or rank in back}
            layout = self._whole if len(wanted) == len(self._roster.ranks) else policy.replan(wanted)
        except ConfigError:
            return
        if len(layout.places) <= len(have):  # it cannot be reached by those who would be its neighbours
            return
        if self._head.leave(f"rank {_listed(back)} came back, the layers are spread anew", only_if_idle=True):
            self._is_lost = True
            self._rejoin_until = time.monotonic()
            try:
                self._open(layout, Deadline(policy.open_s), self._interrupted)
            except PeerError as error:
                log.warning("rank %s could not be taken in: %s", _listed(back), error)
                self._head.say(str(error), hopeless=False)
                self._tried, self._look_at = None, 0.0

    def _open(self, layout: Layout, deadline: Deadline, stop: Callable[[], bool]) -> None:
        ranks = [place.rank for place in layout.places]
        log.info("connecting: %s", ", ".join(f"rank {p.rank} {p.start}:{p.stop}" for p in layout.places))
        try:
            self._pipeline.open(layout, deadline, stop)
        except StageError as error:
            times = self._blamed.get(error.rank, (0, 0.0))[0]
            until = time.monotonic() + min(_BLAME_S * 2**times, _MOST_BLAME_S)
            self._blamed[error.rank] = (times + 1, until)
            raise
        # Before the head's thread goes on: it may see the next loss at once.
        self._is_lost = False
        if not self._head.go():
            self._is_lost = True
            raise PeerLostError("the chain broke as soon as it was there")
        for rank in ranks:
            self._blamed.pop(rank, None)
        log.info("epoch %d serves", self._pipeline.epoch)


def _listed(ranks: list[int] | tuple[int, ...]) -> str:
    return ", ".join(str(rank) for rank in ranks)
