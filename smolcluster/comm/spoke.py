"""The control star as any rank but 0 sees it: one link, requests out, replies and alarms in."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

from smolcluster.comm.alarm import Alarm, copy_of, decode_error, encode_error
from smolcluster.comm.control import GRACE_S
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link, expect
from smolcluster.comm.pulse import heartbeat_s
from smolcluster.comm.roll import Roll
from smolcluster.comm.table import Op, decode_parts, encode_parts
from smolcluster.errors import DeadlineError, PeerError, PeerLostError

# How long rank 0 may take to say what happened, on top of its own grace, before we settle for what we saw.
VERDICT_S = 1.5
_FROM_THE_HUB = (Kind.REPLY, Kind.ROLL, Kind.ABORT, Kind.FIN, Kind.FIN_ACK)
_NOBODY_WAITS = -1


class _Call:
    """A request that waits for its reply."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: list[bytes] | None = None


class Spoke:
    """A `Control`. Any number of threads may call at once: replies find their caller by number."""

    def __init__(self, link: Link, alarm: Alarm, timeout_s: float, first_s: float = 0.0) -> None:
        """`first_s`: how long rank 0 may be silent at first: it may still be busy with its own start."""
        self.alarm = alarm
        self._first_s = max(first_s, timeout_s)
        self.roll = Roll()
        self._link = link
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._next = 0
        self._calls: dict[int, _Call] = {}
        self._leaving = False
        alarm.on_ring(self._release_callers)
        self._thread = threading.Thread(target=self._listen, name="smol-spoke", daemon=True)
        self._thread.start()

    def call(self, op: Op, args: Sequence[bytes], seconds: float) -> list[bytes]:
        """One request to rank 0's table."""
        call = _Call()
        with self._lock:
            number = self._next
            self._next += 1
            self._calls[number] = call
        try:
            if self.alarm.error is None:
                self._link.send(Kind.REQUEST, encode_parts(args), op=op, tag=number)
                call.done.wait(min(seconds, threading.TIMEOUT_MAX))
                if call.answer is None and self.alarm.error is None:
                    self._link.send(Kind.REQUEST, encode_parts([str(number).encode()]), op=Op.FORGET, tag=number)
        except PeerError as error:
            raise self.verdict(error) from error
        finally:
            with self._lock:
                self._calls.pop(number, None)
        if call.answer is not None:
            return call.answer
        if self.alarm.error:
            raise copy_of(self.alarm.error)
        if time.monotonic() - self._link.last_heard > 3 * heartbeat_s(self._timeout_s):
            raise DeadlineError(f"rank 0, which keeps the store, has not answered for {seconds:g} s")
        keys = b", ".join(args).decode(errors="replace")
        raise DeadlineError(f"nobody set {keys} in the store within {seconds:g} s")

    def verdict(self, error: PeerError) -> PeerError:
        """Report to rank 0 and wait for its word; without it, what we saw ourselves."""
        if self.alarm.error is None:
            try:
                self._link.send(Kind.ABORT, encode_error(error))
            except PeerError:
                self.alarm.wait(GRACE_S)  # the listening thread sees that rank 0 has gone
        known = self.alarm.wait(GRACE_S + VERDICT_S)
        if known is None:
            quiet_s = time.monotonic() - self._link.last_heard
            if isinstance(error, DeadlineError) and quiet_s > 3 * heartbeat_s(self._timeout_s):
                error = DeadlineError(f"rank 0 has not been heard from for {quiet_s:.1f} s: it is frozen or cut off")
            known = self.alarm.ring(error)
        return copy_of(known)

    def pulse(self) -> None:
        """A heartbeat to rank 0."""
        try:
            self._link.pulse(heartbeat_s(self._timeout_s))
        except PeerError:
            return  # the listening thread reports it

    def close(self, patience_s: float) -> None:
        """Say FIN and wait for rank 0's acknowledgement; after a failure hang up at once."""
        self._leaving = True
        if self.alarm.error is None:
            self._link.say_fin()
            self._thread.join(patience_s)
        if self._thread.is_alive():
            self._link.abort()
        self._thread.join()

    def _listen(self) -> None:
        silence_s = self._first_s
        try:
            while True:
                message = expect(self._link.receive(silence_s), self._link.who, *_FROM_THE_HUB)
                silence_s = self._timeout_s
                kind = message.header.kind
                if kind is Kind.REPLY:
                    with self._lock:
                        call = self._calls.get(message.header.tag)
                    if call is not None:  # else its caller's deadline has passed
                        call.answer = decode_parts(message.payload)
                        call.done.set()
                elif kind is Kind.ROLL:
                    answer = self.roll.answer(decode_parts(message.payload))
                    # Rank 0 may be leaving: why is in what it sent before, and that is still to be read.
                    with contextlib.suppress(PeerError):
                        self._link.send(Kind.REQUEST, encode_parts(answer), op=Op.SET, tag=_NOBODY_WAITS)
                elif kind is Kind.ABORT:
                    self.alarm.ring(decode_error(message.payload))
                elif kind is Kind.FIN:
                    self._link.answer_fin()
                    if not self._leaving:
                        self.alarm.ring(PeerLostError("rank 0 was lost: it left the run before this rank was done"))
                    return
        except PeerError as error:
            if not self._leaving:
                self.alarm.ring(error)
        finally:
            if not self._link.closed:
                self._link.discard()

    def _release_callers(self, _: PeerError) -> None:
        with self._lock:
            calls = tuple(self._calls.values())
        for call in calls:
            call.done.set()
