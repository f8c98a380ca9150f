"""The head's side of its link to the API: takes words, hands them to the Head, sends back what the Head says.

    reading thread   SUBMIT, CANCEL; the end of the link cancels every request that came over it
    writing thread   sends what waits; the head's thread only puts, and never waits for a slow reader
    others           one for each question that may take a while (HEALTH, COUNT, RECONNECT), a few at once

What waits is bounded: whoever takes events too slowly loses the requests they belong to (BEHIND), not our memory.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from smolcluster.comm.clock import Deadline
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import BusyError, PeerError, ProtocolError, SmolError
from smolcluster.infer.head import Head
from smolcluster.infer.request import Done, Event, Failed, Request
from smolcluster.infer.stream import Stream
from smolcluster.infer.words import (
    EVENT_OPS,
    GATE,
    MOST_BYTES,
    OF_A_STREAM,
    Accepted,
    Counted,
    Frame,
    Op,
    frame,
    read,
    refusal,
)

log = logging.getLogger("smolcluster.infer")
# So many frames may wait for one reader: some thousand tokens, below a megabyte.
MOST_WAITING = 4096
_MOST_QUESTIONS = 16
# How long the last words may take to go out.
_LEAVE_S = 2.0


class Gate:
    """Lets the API's rank in whenever it comes, again and again. The mesh and the head are the caller's."""

    def __init__(self, head: Head, mesh: Mesh, rank: int, most_waiting: int = MOST_WAITING) -> None:
        self._head = head
        self._mesh = mesh
        self._rank = rank
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._callers: list[_Caller] = []
        self._closed = False
        mesh.watch(GATE, self._come)
        self._come()  # it may have been faster

    def close(self) -> None:
        """Say what waits to be said, and hang up. Idempotent."""
        with self._lock:
            self._closed = True
            callers = tuple(self._callers)
        self._mesh.unwatch(GATE)
        for caller in callers:
            caller.close()

    def _come(self) -> None:
        """Somebody is at the door. Called in a thread of the listener's."""
        with self._lock:
            if self._closed or not self._mesh.has_come(self._rank, GATE):
                return
            try:
                link = self._mesh.link(self._rank, GATE, deadline=Deadline(0.0))
            except PeerError:
                return
            self._callers = [caller for caller in self._callers if not caller.ended]
            self._callers.append(_Caller(self._head, self._mesh, link, self._most_waiting))


class _Caller:
    """One link, the requests that came over it, and the frames that wait to be sent."""

    def __init__(self, head: Head, mesh: Mesh, link: Link, most_waiting: int) -> None:
        self.ended = False
        self._head = head
        self._mesh = mesh
        self._link = link
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Frame] = deque()
        self._streams: dict[int, Stream | None] = {}  # None: being submitted
        self._questions = 0
        self._leaving = False
        self._put(frame(Op.ABOUT, 0, head.about()))
        self._writer = threading.Thread(target=self._write, name="smol-gate-out", daemon=True)
        self._reader = threading.Thread(target=self._read, name="smol-gate-in", daemon=True)
        self._writer.start()
        self._reader.start()

    def close(self) -> None:
        """Let the writer finish, say FIN, and join."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
        self._writer.join(_LEAVE_S)
        self._reader.join(_LEAVE_S)  # the other end answers our FIN
        self._link.abort()
        self._writer.join()
        self._reader.join()

    # Sending

    def _put(self, what: Frame) -> None:
        """Never waits. From any thread, the head's above all."""
        with self._changed:
            if self.ended:
                return
            self._waiting.append(what)
            if len(self._waiting) > self._most_waiting:
                self._fall_behind()
            self._changed.notify_all()

    def _fall_behind(self) -> None:
        """The requests whose events wait are over; answers stay, and if those alone are too many, it is hung up on."""
        late = [*self._streams, *(waits.tag for waits in self._waiting if waits.op in OF_A_STREAM)]
        streams = [stream for stream in self._streams.values() if stream is not None]
        self._streams.clear()
        answers = [waits for waits in self._waiting if waits.op not in OF_A_STREAM]
        self._waiting = deque([*answers, *(frame(Op.BEHIND, tag) for tag in dict.fromkeys(late))])
        log.warning("%s takes its events too slowly: %d requests end", self._link.who, len(set(late)))
        for stream in streams:
            stream.cancel()
        if len(self._waiting) > self._most_waiting:
            self._link.abort()

    def _tell(self, key: int, event: Event) -> None:
        with self._changed:
            if key not in self._streams:
                return
            if isinstance(event, (Done, Failed)):
                del self._streams[key]
            self._put(frame(EVENT_OPS[type(event)], key, event))

    def _write(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._leaving or self.ended)
                    if self.ended or not self._waiting:
                        break
                    what = self._waiting.popleft()
                self._link.send(Kind.MESSAGE, what.payload, op=what.op, tag=what.tag)
            self._link.say_fin()
        except PeerError:
            self._link.abort()  # the reader says why

    # Receiving

    def _read(self) -> None:
        link = self._link
        try:
            while True:
                message = link.receive(link.timeout_s, MOST_BYTES)
                if message.header.kind in (Kind.FIN, Kind.FIN_ACK):
                    with contextlib.suppress(PeerError):
                        link.say_fin()
                    break
                self._take(*read(message, link.who))
        except PeerError as error:
            log.info("the API's link has ended: %s", error)
        finally:
            self._end()

    def _end(self) -> None:
        with self._changed:
            self.ended = True
            streams = [stream for stream in self._streams.values() if stream is not None]
            self._streams.clear()
            self._waiting.clear()
            self._changed.notify_all()
        for stream in streams:
            stream.cancel()
        self._link.abort()
        self._writer.join()
        self._mesh.drop(self._link)

    def _take(self, op: Op, tag: int, word: object) -> None:
        head = self._head
        if op is Op.SUBMIT and isinstance(word, Request):
            self._submit(tag, word)
        elif op is Op.CANCEL:
            with self._changed:
                stream = self._streams.get(tag)
            if stream is not None:
                stream.cancel()
        elif op is Op.HEALTH and word is None:
            self._aside(tag, lambda: frame(Op.HEALTH, tag, head.health()))
        elif op is Op.COUNT:
            self._aside(tag, lambda: frame(Op.COUNTED, tag, Counted(tokens=head.count(word.text))))  # type: ignore[attr-defined]
        elif op is Op.RECONNECT:
            self._aside(tag, partial(self._reconnect, tag, word.seconds))  # type: ignore[attr-defined]
        else:
            raise ProtocolError(f"{self._link.who} sent {op.name}, which is the head's to say")

    def _submit(self, key: int, request: Request) -> None:
        with self._changed:
            if key in self._streams:
                raise ProtocolError(f"{self._link.who} used the number {key} twice")
            self._streams[key] = None
        try:
            stream = self._head.submit(request, partial(self._tell, key))
        except Exception as error:
            if not isinstance(error, SmolError):
                log.exception("a request could not be begun")
            with self._changed:
                self._streams.pop(key, None)
            self._put(frame(Op.REFUSED, key, refusal(error)))
            return
        with self._changed:
            if key in self._streams:
                self._streams[key] = stream
            else:  # it has ended, or fell behind
                stream.cancel()
        self._put(frame(Op.ACCEPTED, key, Accepted(within_s=stream.within_s, prompt_tokens=stream.prompt_tokens)))

    def _reconnect(self, tag: int, within_s: float) -> Frame:
        self._head.reconnect(within_s)
        return frame(Op.RECONNECTED, tag)

    def _aside(self, tag: int, work: Callable[[], Frame]) -> None:
        """Answer in a thread of its own."""

        def answer() -> None:
            try:
                self._put(work())
            except Exception as error:  # noqa: BLE001  whoever asked gets it
                self._put(frame(Op.REFUSED, tag, refusal(error)))
            finally:
                with self._changed:
                    self._questions -= 1

        with self._changed:
            crowded = self._questions >= _MOST_QUESTIONS
            self._questions += not crowded
        if crowded:
            self._put(frame(Op.REFUSED, tag, refusal(BusyError("too many questions at once; ask again later"))))
        else:
            threading.Thread(target=answer, name="smol-gate-aside", daemon=True).start()
