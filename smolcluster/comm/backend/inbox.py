"""Messages that come in: matched to the receives that wait for them, whoever sent them and in whatever order.

One thread at a time drives: it waits on the wires of all peers that anybody wants to hear from, and on a waker, reads
what has come, and ends receives. That is a thread which waits for a receive of its own, or, while none does, the
inbox's thread. So a plain recv costs no hand-off, and an asynchronous one goes on by itself.

A message goes to the receive that was posted first among those that its peer and tag fit; if there is none it is kept.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from smolcluster.comm.alarm import copy_of
from smolcluster.comm.backend.lane import Lane
from smolcluster.comm.backend.message import Early, Incoming, Stream
from smolcluster.comm.backend.pairs import Pairs
from smolcluster.comm.backend.receive import Receive
from smolcluster.comm.wire import await_readable
from smolcluster.errors import DeadlineError, PeerError, PeerLostError

Guard = Callable[[Callable[[], None]], None]
# How long a driver sleeps at most before it looks whether the run has failed.
_SLICE_S = 1.0


class Inbox:
    """`close` fails what still waits. `guard` runs a job and turns its failure into the run's."""

    def __init__(self, pairs: Pairs, rank: int, size: int, name: str, guard: Guard) -> None:
        self.turn = Lane(name)  # `turn.busy`: somebody drives
        self._pairs = pairs
        self._peers = [peer for peer in range(size) if peer != rank]
        self._name = name
        self._guard = guard
        self._pending: list[Receive] = []
        self._early: dict[tuple[int, int], deque[Early]] = {}
        self._streams: dict[int, Stream] = {}
        self._finished: list[Receive] = []  # whose callbacks are due
        self._closed = False
        self._thread: threading.Thread | None = None
        self._waker: tuple[socket.socket, socket.socket] | None = None

    def post(self, receive: Receive) -> None:
        """Wait for a message from now on."""
        with self.turn.state:
            if self._closed:
                raise PeerLostError(f"the group {self._name} was destroyed")
            if self._waker is None:
                self._waker = socket.socketpair()
                for end in self._waker:
                    end.setblocking(False)
                self._pairs.watch(self._wake)
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name=f"smol-{self._name}", daemon=True)
                thread.start()
                self._thread = thread  # not before: where memory is short it does not start, and close joins this one
            self._pending.append(receive)
            driven = self.turn.busy
            self.turn.state.notify_all()
        if driven:  # by somebody who may not listen to this peer, and does not look at what came early
            self._wake()

    def wait_for(self, receive: Receive) -> None:
        """Return when it is done, well or not."""
        state = self.turn.state
        while True:
            with state:
                state.wait_for(lambda: receive.is_completed() or not self.turn.busy)
                if receive.is_completed():
                    return
                self.turn.busy = True
            self._drive(receive)

    def close(self) -> None:
        """Fail what waits, join the thread. The links are to be shut down first."""
        with self.turn.state:
            self._closed = True
            self.turn.state.notify_all()
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self.turn.state:
            self.turn.state.wait_for(lambda: not self.turn.busy)
        self._fail_all(PeerLostError(f"the group {self._name} was destroyed before this message came"))
        self._call_back()
        with self.turn.state:
            waker, self._waker = self._waker, None
        for end in waker or ():
            end.close()

    def _serve(self) -> None:
        state = self.turn.state
        while True:
            with state:
                state.wait_for(lambda: self._closed or (self._pending and not self.turn.busy))
                if self._closed:
                    return
                self.turn.busy = True
            self._drive(None)

    def _wake(self) -> None:
        with self.turn.state:
            if self._waker is not None:
                try:
                    self._waker[0].send(b"x")
                except BlockingIOError:
                    return  # it is awake enough

    def _drive(self, until: Receive | None) -> None:
        """Read until `until` is done, or nothing is pending. The caller has marked the turn busy."""
        try:
            self._guard(lambda: self._loop(until))
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait must learn of it
            self._fail_all(error)
        finally:
            with self.turn.state:
                self.turn.busy = False
                self.turn.state.notify_all()
            self._call_back()

    def _loop(self, until: Receive | None) -> None:
        while True:
            self._hand_out()
            with self.turn.state:
                if self._closed or not self._pending or self._due(until):
                    return
                wanted = self._wanted()
            moved = False
            for peer in wanted:
                stream = self._stream(peer)
                if stream is not None:
                    moved = stream.pump() or moved
            if not moved:
                self._sleep([self._streams[peer] for peer in wanted if peer in self._streams])
                self._guard(lambda: None)  # raises if the run has failed meanwhile

    def _due(self, until: Receive | None) -> bool:
        """Whether to stop driving: what it is done for is done, or somebody's callbacks are to be run."""
        return bool(self._finished) or (until is not None and until.is_completed())

    def _wanted(self) -> list[int]:
        """Ranks to listen to: those that a pending receive names, all if one names nobody."""
        if any(receive.peer is None for receive in self._pending):
            return self._peers
        return sorted({receive.peer for receive in self._pending if receive.peer is not None})

    def _stream(self, peer: int) -> Stream | None:
        known = self._streams.get(peer)
        if known is None:
            link = self._pairs.ready(peer)
            if link is None:
                return None
            known = self._streams[peer] = Stream(peer, link.inward, self._take, self._arrived)
        return known

    def _take(self, peer: int, tag: int) -> Incoming | None:
        """Whose a message is whose header has just come."""
        with self.turn.state:
            owner = next((receive for receive in self._pending if receive.fits(peer, tag)), None)
            if owner is None or (peer, tag) in self._early:  # then an older message is for that receive
                return None
            owner.incoming.source = peer
            owner.incoming.owner = owner
            return owner.incoming

    def _arrived(self, peer: int, message: Incoming | Early) -> None:
        """A whole message has come."""
        if isinstance(message, Early):
            with self.turn.state:
                self._early.setdefault((peer, message.tag), deque()).append(message)
        elif message.owner is not None:
            with self.turn.state:
                self._pending.remove(message.owner)
            self._finish(message.owner)

    def _hand_out(self) -> None:
        """Give messages that are kept to receives that were posted since."""
        while True:
            with self.turn.state:
                found = next(
                    ((receive, key) for receive in self._pending for key in self._early if receive.fits(*key)),
                    None,
                )
                if found is None:
                    return
                receive, key = found
                peer, kept = key[0], self._early[key]
                message = kept.popleft()
                self._streams[peer].kept -= message.bytes
                if not kept:
                    del self._early[key]
                self._pending.remove(receive)
            receive.incoming.source = peer
            try:
                message.give(receive.incoming, self._streams[peer].who)
            except PeerError as error:
                self._finish(receive, error)
                raise
            self._finish(receive)

    def _sleep(self, streams: list[Stream]) -> None:
        """Until something has come, a wake or the first deadline. DeadlineError at that."""
        with self.turn.state:
            self._refuse_if_gone({stream.peer for stream in streams if stream.ended})
            if not self._pending:
                return
            first = min(self._pending, key=self._deadline)
            left_s, waker = self._deadline(first) - time.monotonic(), self._waker
        if left_s <= 0:
            due = f"a message with tag {first.incoming.tag} was due"
            raise DeadlineError(f"{self._who(first.peer)} sent nothing for {first.timeout_s:g} s: {due}")
        assert waker is not None
        await_readable([stream.wire for stream in streams if not stream.ended], waker[1], min(left_s, _SLICE_S))

    def _deadline(self, receive: Receive) -> float:
        """Whatever comes from a peer renews the patience of all who wait for it."""
        heard = [stream.moved for peer, stream in self._streams.items() if receive.peer is None or peer == receive.peer]
        return max([receive.posted, *heard]) + receive.timeout_s

    def _who(self, peer: int | None) -> str:
        return "every other rank" if peer is None else f"rank {self._pairs.member(peer)}"

    def _refuse_if_gone(self, gone: set[int]) -> None:
        """PeerLostError if a receive waits for a rank that has left the group, or for anybody when all have."""
        for receive in self._pending if gone else ():
            if receive.peer in gone or (receive.peer is None and gone.issuperset(self._peers)):
                due = f"a message with tag {receive.incoming.tag} was still due"
                raise PeerLostError(f"{self._who(receive.peer)} has left the group: {due}")

    def _fail_all(self, error: BaseException) -> None:
        with self.turn.state:
            failed, self._pending = self._pending, []
        for stream in self._streams.values():
            stream.abandon()
        for receive in failed:
            self._finish(receive, copy_of(error) if isinstance(error, PeerError) else error)

    def _finish(self, receive: Receive, error: BaseException | None = None) -> None:
        receive.finish(error)
        with self.turn.state:
            # Callbacks that are attached from now on run at once: it is done.
            if receive.has_callbacks:
                self._finished.append(receive)

    def _call_back(self) -> None:
        with self.turn.state:
            finished, self._finished = self._finished, []
        for receive in finished:
            receive.call_back()
