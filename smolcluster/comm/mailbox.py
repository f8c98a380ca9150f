"""Letters without lockstep between rank 0 and ranks that come, go, die and come again: the centre's side.

A worker (caller.py) dials rank 0 over the channel MAIL, says JOIN and is told WELCOME; then either side sends letters
(letter.py) whenever it wants to. All that happens comes out of one queue, in order, of `receive`:

    Joined(member, words)       it is there, with what it said of itself
    Delivered(member, letter)   it sent a letter
    Left(member, reason)        it is gone: nothing more comes from it. `orderly`: it said goodbye

A `Member` is one connection: its rank, the incarnation (a number that each process of the rank draws anew), and how
many joined before it. A link that broke and is dialled again is another member of the same incarnation. Each member has
its own two threads and its own place for what is to be sent, so a slow or frozen one delays nobody:

    a dead process              its sockets close: Left at once
    a frozen one, a cable       no heartbeat for the run's peer_timeout: Left then
    a slow reader               keeps its own answers waiting

What waits is bounded where letters have bodies: of each member at most MOST_UNREAD letters are read ahead. How many
answers may wait is the caller's affair: it answers what was asked.

    mailbox = Mailbox(config, most_bytes)      # listens; config.generation is the centre's
    while ...:
        match mailbox.receive(0.5):
            case Delivered(member, letter): mailbox.send(member, Letter(op, letter.number, {...}, body))
    mailbox.close(5.0)

It knows nothing of what letters are about.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Protocol

from smolcluster.comm.announce import announce
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.letter import Letter, Value
from smolcluster.comm.mailline import Line
from smolcluster.comm.opening import open_mesh
from smolcluster.comm.pulse import Pulse, heartbeat_s
from smolcluster.errors import PeerError, PeerLostError, ProtocolError

MAIL = "mail"
MOST_UNREAD = 2


class Own(IntEnum):
    """Letters that Mailbox and Caller say to each other. Those of the strategies have lower numbers."""

    JOIN = 200
    WELCOME = 201


@dataclass(frozen=True)
class Member:
    """One connection of a worker. `number` counts all of a mailbox, from 1."""

    rank: int
    incarnation: int
    number: int


@dataclass(frozen=True)
class Joined:
    """A worker is there. `words`: what it said of itself."""

    member: Member
    words: Mapping[str, Value]


@dataclass(frozen=True, eq=False)
class Delivered:
    """It sent a letter."""

    member: Member
    letter: Letter


@dataclass(frozen=True)
class Left:
    """It is gone."""

    member: Member
    reason: str
    orderly: bool


Event = Joined | Delivered | Left


class Mailbox:
    """The centre's. `config` is rank 0's of the run, `most_bytes` what a letter's body may have. PeerError if it cannot
    listen.
    """

    def __init__(self, config: GroupConfig, most_bytes: int) -> None:
        self.mesh = open_mesh(config)
        self.generation = config.generation
        self._most_bytes = most_bytes
        self._ranks = tuple(rank for rank in range(config.world_size) if rank != config.rank)
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._lines: dict[int, _Place] = {}
        self._joined = 0
        self._inside = 0
        self._closed = False
        self._pulse = Pulse(self.mesh.pulse, heartbeat_s(config.timeout_s))
        if config.faults is not None:
            config.faults.enter(config.generation)
        self.mesh.watch(MAIL, self._come)
        if config.endpoint_file is not None and self.mesh.listener is not None:
            announce(config.endpoint_file, self.mesh.listener.endpoint, config.run_id, config.generation)
        self._come()

    @property
    def workers(self) -> int:
        """How many ranks may come, one inside this process too if there is to be one."""
        return len(self._ranks) + self._inside

    def receive(self, timeout_s: float) -> Event | None:
        """What happened next; None if nothing does within that time. For one thread."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._events, timeout_s):
                return None
            event = self._events.popleft()
            if isinstance(event, Delivered):
                place = self._lines.get(event.member.rank)
                if place is not None and place.member == event.member:
                    place.unread -= 1
                    self._changed.notify_all()
            return event

    def send(self, member: Member, letter: Letter) -> None:
        """Have it sent. Never waits; to one who is gone nothing is sent."""
        with self._changed:
            place = self._lines.get(member.rank)
        if place is not None and place.member == member:
            place.line.put(letter)

    def members(self) -> tuple[Member, ...]:
        """Those who are there, by rank."""
        with self._changed:
            return tuple(place.member for _, place in sorted(self._lines.items()) if place.member is not None)

    def cut(self, member: Member) -> None:
        """End its link at once; Left comes. It may join again."""
        with self._changed:
            place = self._lines.get(member.rank)
        if place is not None and place.member == member:
            place.line.cut()

    def expect_inside(self) -> None:
        """The centre's own rank works too: see inside.py."""
        self._inside = 1

    def admit(self, rank: int, incarnation: int, line: LetterBox, words: Mapping[str, Value]) -> Member:
        """A worker inside this process joins; `line` gets what is sent to it. PeerLostError once this is closed."""
        with self._changed:
            if self._closed:
                raise PeerLostError("the mailbox is closed")
            self._joined += 1
            place = self._lines[rank] = _Place(line)
            place.member = Member(rank, incarnation, self._joined)
            self._put(Joined(place.member, words))
            return place.member

    def hand_in(self, member: Member, letter: Letter) -> None:
        """A letter of a worker inside this process."""
        with self._changed:
            place = self._lines.get(member.rank)
            if place is not None and place.member == member:
                place.unread += 1
                self._put(Delivered(member, letter))

    def dismiss(self, member: Member, orderly: bool) -> None:
        """A worker inside this process is gone. Idempotent."""
        with self._changed:
            place = self._lines.get(member.rank)
            if place is not None and place.member == member:
                del self._lines[member.rank]
                self._put(Left(member, f"rank {member.rank} has left", orderly))

    def close(self, patience_s: float) -> None:
        """Send what waits, say goodbye to all, and stop listening. No thread is left. Idempotent."""
        with self._changed:
            closed, self._closed = self._closed, True
            places = tuple(self._lines.values())
            self._changed.notify_all()
        self.mesh.unwatch(MAIL)
        for place in places:
            place.line.leave()
        deadline = Deadline(patience_s)
        for place in places:
            place.line.join(deadline.left())
        if not closed:
            self._pulse.close()
            if self.mesh.listener is not None:
                self.mesh.listener.close()

    def _come(self) -> None:
        """Somebody is at the door. Called in a thread of the listener's."""
        with self._changed:
            for rank in self._ranks:
                # Of a rank whose last link is being let go the next one waits: `_gone` comes here again.
                if self._closed or rank in self._lines or not self.mesh.has_come(rank, MAIL):
                    continue
                with contextlib.suppress(PeerError):
                    link = self.mesh.link(rank, MAIL, deadline=Deadline(0.0))
                    line = Line(link, self.mesh, self._most_bytes, partial(self._take, rank), partial(self._gone, rank))
                    self._lines[rank] = _Place(line)
                    line.start()

    def _take(self, rank: int, letter: Letter) -> None:
        """On the rank's reading thread."""
        with self._changed:
            place = self._lines[rank]
            if place.member is None:
                if letter.op != Own.JOIN:
                    raise ProtocolError(f"rank {rank} sent a letter before it joined")
                self._joined += 1
                place.member = Member(rank, letter.say("incarnation", int), self._joined)
                place.line.put(Letter(Own.WELCOME, letter.number, {"generation": self.generation}))
                self._put(Joined(place.member, letter.words))
                return
            self._changed.wait_for(lambda: place.unread < MOST_UNREAD or self._closed)
            place.unread += 1
            self._put(Delivered(place.member, letter))

    def _gone(self, rank: int, error: PeerError | None) -> None:
        """On the rank's reading thread, which ends."""
        with self._changed:
            place = self._lines.pop(rank)
            if place.member is not None:
                reason = str(error) if error is not None else f"rank {rank} has left"
                self._put(Left(place.member, reason, orderly=error is None))
        self._come()

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self._changed.notify_all()


class LetterBox(Protocol):
    """Where a member's letters go: a Line, or the inside of this process."""

    def put(self, letter: Letter) -> None:
        """Have it sent, in order. Never waits."""
        ...

    def cut(self) -> None:
        """End it at once."""
        ...

    def leave(self) -> None:
        """Say goodbye once all is sent."""
        ...

    def join(self, patience_s: float) -> None:
        """Wait for the end, so long; then make it."""
        ...


class _Place:
    """A line, who is at its other end once that is known, and how many of its letters wait in the queue."""

    def __init__(self, line: LetterBox) -> None:
        self.line = line
        self.member: Member | None = None
        self.unread = 0
