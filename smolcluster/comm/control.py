"""The control star: every rank has a link to rank 0, which keeps the store and decides what a failure was.

Why a star beside the ring: when a rank dies, its neighbours see a broken connection, but the others see only neighbours
that hang up in turn. All report here; rank 0 hears each rank itself (heartbeats), so one culprit is named everywhere.
`Hub` is rank 0's side, `Spoke` (spoke.py) everybody else's; both are a `Control`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from smolcluster.comm.alarm import Alarm, copy_of, decode_error, encode_error
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link, expect
from smolcluster.comm.pulse import heartbeat_s
from smolcluster.comm.roll import Roll
from smolcluster.comm.table import Asker, Op, Reply, Table, decode_parts, encode_parts
from smolcluster.errors import DeadlineError, PeerError, PeerLostError, ProtocolError

CHANNEL = "control"
# How long a report waits for better evidence: the dead rank's own connection to rank 0 breaks within milliseconds.
GRACE_S = 0.3
# How long one rank may take to be told of a failure before the next one is.
TELL_S = 0.5


class Control(Protocol):
    """What the rest of comm needs of the star."""

    alarm: Alarm
    roll: Roll

    def call(self, op: Op, args: Sequence[bytes], seconds: float) -> list[bytes]:
        """One request to the store. DeadlineError after `seconds`; the run's failure if it failed."""

    def verdict(self, error: PeerError) -> PeerError:
        """What really happened, given what this rank saw. Rings the alarm everywhere; takes a second or two."""

    def close(self, patience_s: float) -> None:
        """Leave politely within `patience_s`, or at once after a failure. Threads are joined."""


class Hub:
    """Rank 0's side: the store's table, a thread per spoke, and the last word on failures."""

    def __init__(self, alarm: Alarm, timeout_s: float) -> None:
        self.alarm = alarm
        self.roll = Roll()
        self.table = Table()
        self._timeout_s = timeout_s
        self._links: dict[int, Link] = {}
        self._threads: list[threading.Thread] = []
        self._state = threading.Condition()
        self._present: set[int] = set()
        self._callers: set[threading.Event] = set()
        self._asked = 0
        alarm.on_ring(self._tell_all)

    def attach(self, link: Link) -> None:
        """Serve a spoke from now on."""
        thread = threading.Thread(target=self._serve, args=(link,), name=f"smol-hub-{link.peer}", daemon=True)
        with self._state:
            self._links[link.peer] = link
            self._present.add(link.peer)
            self._threads.append(thread)
        thread.start()

    def call(self, op: Op, args: Sequence[bytes], seconds: float) -> list[bytes]:
        """One request of rank 0 itself."""
        answers: list[list[bytes]] = []
        done = threading.Event()

        def reply(answer: list[bytes]) -> None:
            answers.append(answer)
            done.set()

        with self._state:
            self._asked += 1
            asker = (0, self._asked)
        self._submit(op, args, reply, asker)
        if not answers:
            with self._state:
                self._callers.add(done)
            if self.alarm.error is None:
                done.wait(min(seconds, threading.TIMEOUT_MAX))
            with self._state:
                self._callers.discard(done)
            self.table.forget(lambda waiting: waiting == asker)
        if answers:
            return answers[0]
        if self.alarm.error:
            raise copy_of(self.alarm.error)
        raise DeadlineError(f"nobody set {b', '.join(args).decode(errors='replace')} in the store within {seconds:g} s")

    def verdict(self, error: PeerError) -> PeerError:
        """Rank 0's own operation failed with `error`."""
        return copy_of(self._judge(error))

    def pulse(self) -> None:
        """Heartbeats to all spokes."""
        for link in self._here():
            # A spoke may be leaving right now; one that is lost is noticed by the thread that serves it.
            with contextlib.suppress(PeerError):
                link.pulse(heartbeat_s(self._timeout_s))

    def close(self, patience_s: float) -> None:
        """Wait until every spoke has left, then hang up. After a failure: hang up."""
        if self.alarm.error is None:
            with self._state:
                self._state.wait_for(lambda: not self._present or self.alarm.error is not None, patience_s)
        if self.alarm.error is not None:
            self.alarm.wait(GRACE_S)  # another thread may still be telling the spokes
        for link in self._here():
            link.say_fin()
            link.abort()
        for thread in self._threads:
            thread.join()

    def _here(self) -> list[Link]:
        with self._state:
            return [self._links[rank] for rank in sorted(self._present)]

    def _judge(self, error: PeerError) -> PeerError:
        """Decide what `error` means for the whole run and tell everybody."""
        known = self.alarm.wait(GRACE_S if isinstance(error, PeerLostError) else 0.0)
        return known or self.alarm.ring(self._silent(error) or error)

    def _silent(self, error: PeerError) -> PeerError | None:
        """For a wait that ran out: the rank that has not been heard from, if there is one."""
        if not isinstance(error, DeadlineError):
            return None
        quiet = {link.peer: time.monotonic() - link.last_heard for link in self._here()}
        worst = max(quiet, key=lambda rank: quiet[rank], default=None)
        if worst is None or quiet[worst] < 3 * heartbeat_s(self._timeout_s):
            return None
        return DeadlineError(f"rank {worst} has not been heard from for {quiet[worst]:.1f} s: it is frozen or cut off")

    def _tell_all(self, error: PeerError) -> None:
        for link in self._here():
            # One that is gone needs no telling, and one that takes nothing must not keep the others from hearing it.
            with contextlib.suppress(PeerError):
                link.tell(Kind.ABORT, encode_error(error), TELL_S)
        with self._state:  # after the telling: `close` may hang up now
            callers = tuple(self._callers)
            self._state.notify_all()
        for caller in callers:
            caller.set()

    def _serve(self, link: Link) -> None:
        """One spoke's requests, until it leaves or is lost."""
        try:
            while True:
                message = expect(link.receive(self._timeout_s), link.who, Kind.REQUEST, Kind.ABORT, Kind.FIN)
                if message.header.kind is Kind.FIN:
                    self._gone(link)
                    link.answer_fin()
                    return
                if message.header.kind is Kind.ABORT:
                    self._judge(decode_error(message.payload, seen_by=link.peer))
                    continue
                self._request(link, message.header.op, message.header.tag, message.payload)
        except PeerError as error:
            self._gone(link)
            # What the control link itself shows is better evidence than any report: no grace.
            error = self.alarm.ring(error)
            # If it lives it is told too, or it would take the end of this link for the loss of rank 0.
            with contextlib.suppress(PeerError):
                link.tell(Kind.ABORT, encode_error(error), TELL_S)
            link.abort()
        finally:
            self._gone(link)
            if not link.closed:
                link.discard()

    def _request(self, link: Link, op: int, tag: int, payload: bytearray) -> None:
        def reply(answer: list[bytes]) -> None:
            try:
                link.send(Kind.REPLY, encode_parts(answer), tag=tag)
            except PeerError:
                link.abort()  # its own thread reports the loss

        try:
            known, args = Op(op), decode_parts(payload)
            if known is Op.FORGET:
                number = int(args[0])
                self.table.forget(lambda waiting: waiting == (link.peer, number))
                return
            self._submit(known, args, reply, (link.peer, tag))
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"{link.who} asked for operation {op} of the store, which cannot be read") from error
        except ProtocolError as error:
            raise ProtocolError(f"{link.who}: {error}") from error

    def _submit(self, op: Op, args: Sequence[bytes], reply: Reply, asker: Asker) -> None:
        if op is not Op.ROLL:
            self.table.submit(op, args, reply, asker)
            return
        self.table.submit(Op.SET, self.roll.answer((*args, b"0")), lambda _: None)
        for link in self._here():
            with contextlib.suppress(PeerError):  # its own thread reports the loss
                link.tell(Kind.ROLL, encode_parts((*args, str(link.peer).encode())), TELL_S)
        reply([])

    def _gone(self, link: Link) -> None:
        self.table.forget(lambda waiting: waiting is not None and waiting[0] == link.peer)
        with self._state:
            self._present.discard(link.peer)
            self._state.notify_all()
