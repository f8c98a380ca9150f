"""Accepts connections, lets them introduce themselves, and hands out complete links.

Each newcomer gets a thread of its own for the length of its handshake, so that a silent one delays nobody. When all
places are taken, the stranger who has been silent longest makes room: a rank of the run introduces itself within
milliseconds, and dials again if it was the unlucky one. Whoever is
refused is remembered for the error of the one who waits in vain, and the listener goes on listening for the right one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from smolcluster.comm.alarm import copy_of
from smolcluster.comm.clock import Deadline
from smolcluster.comm.endpoint import Endpoint, tune
from smolcluster.comm.handshake import Hello, Identity, Standing, accept_handshake
from smolcluster.comm.link import Link
from smolcluster.comm.tls import TlsContexts
from smolcluster.comm.wire import Wire, await_ready
from smolcluster.errors import DeadlineError, HandshakeError, PeerError, PeerLostError

log = logging.getLogger("smolcluster.comm")

# A stranger may hold a thread for this long, and this many may do so at once.
HANDSHAKE_S = 5.0
MOST_NEWCOMERS = 64
# While one newcomer's thread is still ending the next may have its place: so many there are in all.
MOST_THREADS = 2 * MOST_NEWCOMERS
# With no descriptor left for the next connection, how long until we look again.
_OUT_OF_FILES_S = 0.05
_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# So many refusals are logged one by one.
MOST_LOGGED = 50
_TLS_CLIENT_HELLO = b"\x16"


@dataclass
class _Newcomer:
    """A connection that is introducing itself. One that was sent away only has to notice it."""

    opened: socket.socket
    standing: Standing = Standing.STRANGER
    sent_away: bool = False

    def send_away(self) -> None:
        """Wake its thread: the connection is over."""
        self.sent_away = True
        with contextlib.suppress(OSError):
            self.opened.shutdown(socket.SHUT_RDWR)


class Listener:
    """Owns listening sockets and the connections that nobody has taken yet. `close` ends its threads."""

    def __init__(
        self,
        sockets: list[socket.socket],
        me: Identity,
        buffer_bytes: int,
        timeout_s: float,
        tls: TlsContexts | None = None,
        must_encrypt: frozenset[int] = frozenset(),
    ) -> None:
        self._sockets = sockets
        self._me = me
        self._buffer_bytes = buffer_bytes
        self._timeout_s = timeout_s
        self._tls = tls
        self._must_encrypt = must_encrypt
        self._arrived = threading.Condition()
        self._halves: dict[tuple[str, int, str], dict[str, Wire]] = {}
        self._links: dict[tuple[str, int], Link] = {}
        self._taken: dict[tuple[str, int], Link] = {}
        self._watchers: dict[str, Callable[[], None]] = {}
        self._newcomers: dict[threading.Thread, _Newcomer] = {}
        self._turned_away: deque[tuple[str, int, str]] = deque(maxlen=MOST_THREADS)
        self.refusals: deque[PeerError] = deque(maxlen=20)
        self._refused_so_far = 0
        self._failure: PeerError | None = None
        self._closing = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="smol-listener", daemon=True)
        self._thread.start()

    def enter(self, me: Identity) -> None:
        """From now on callers must be of this generation. Before, those of whatever it was made with."""
        self._me = me

    @property
    def endpoint(self) -> Endpoint:
        """The first address we listen on, with the port the system chose."""
        host, port = self._sockets[0].getsockname()[:2]
        return Endpoint(host, port)

    def take(self, channel: str, rank: int, deadline: Deadline) -> Link:
        """Wait until rank `rank` has come for `channel`. DeadlineError names it and who was refused meanwhile."""
        key = (channel, rank)
        with self._arrived:
            self._arrived.wait_for(lambda: key in self._links or self._failure or self._closing, deadline.left())
            if key in self._links:
                self._taken = {known: link for known, link in self._taken.items() if not link.closed}
                link = self._taken[key] = self._links.pop(key)
                return link
            if self._failure:
                raise copy_of(self._failure)
            if self._closing:
                raise PeerLostError(f"this rank stopped listening while it waited for rank {rank}")
            refused = "".join(f"\n    refused meanwhile: {error}" for error in self.refusals)
        raise DeadlineError(
            f"rank {rank} did not connect within {deadline.seconds:g} s. "
            f"Fix: look at that rank's log; check that its machine is on and reaches {self.endpoint}.{refused}"
        )

    def first_of(self, ranks: Collection[int], channel: str, deadline: Deadline) -> int:
        """Wait until one of the ranks has come for `channel`; `take` then returns at once.

        The lowest of those who have; when nobody has, the lowest of all, for whom `take` tells why.
        """

        def here() -> list[int]:
            return [rank for rank in ranks if (channel, rank) in self._links]

        with self._arrived:
            self._arrived.wait_for(lambda: here() or self._failure or self._closing, deadline.left())
            return min(here() or ranks)

    def holds(self, channel: str, rank: int) -> bool:
        """Whether `take` would return at once."""
        with self._arrived:
            return (channel, rank) in self._links

    def sweep(self, stale: Callable[[str], bool]) -> None:
        """Hang up on all who came for a channel that nobody will take any more."""
        with self._arrived:
            links = [self._links.pop(key) for key in tuple(self._links) if stale(key[0])]
            halves = [self._halves.pop(key) for key in tuple(self._halves) if stale(key[0])]
        for link in links:
            link.discard()
        for wires in halves:
            for wire in wires.values():
                wire.close()

    def watch(self, channel: str, wake: Callable[[], None] | None) -> None:
        """Call `wake` when somebody has come for `channel`, and when nobody will any more. None ends it."""
        with self._arrived:
            if wake is not None:
                self._watchers[channel] = wake
            else:
                self._watchers.pop(channel, None)

    def fail(self, error: PeerError) -> None:
        """Whoever waits in `take`, now or later, gets this error."""
        with self._arrived:
            self._failure = error
            self._arrived.notify_all()
            watchers = tuple(self._watchers.values())
        for wake in watchers:
            wake()

    def close(self) -> None:
        """Stop listening, hang up on newcomers and on links nobody took, join the threads."""
        with self._arrived:
            if self._closing:
                return
            self._closing = True
            self._arrived.notify_all()
            newcomers = dict(self._newcomers)
        self._wake_out.send(b"x")
        self._thread.join()
        for newcomer in newcomers.values():
            newcomer.send_away()
        for thread in newcomers:
            thread.join()
        for opened in (*self._sockets, self._wake_in, self._wake_out):
            opened.close()
        for halves in self._halves.values():
            for wire in halves.values():
                wire.close()
        for link in self._links.values():
            link.discard()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for opened in (*self._sockets, self._wake_in):
                selector.register(opened, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake_in in ready:
                    return
                for opened in self._sockets:
                    if opened in ready:
                        try:
                            self._welcome(*opened.accept())
                        except OSError as error:  # most often it hung up before we came to it
                            if error.errno in _OUT_OF_FILES:
                                self._wait_for_files()

    def _wait_for_files(self) -> None:
        """A flood took all descriptors: one silent stranger makes room, and we do not spin until it has."""
        with self._arrived:
            self._make_room()
            self._arrived.wait_for(lambda: self._closing, _OUT_OF_FILES_S)

    def _welcome(self, opened: socket.socket, address: tuple[str, int]) -> None:
        newcomer = _Newcomer(opened)
        thread = threading.Thread(target=self._greet, args=(newcomer, address), name="smol-handshake", daemon=True)
        with self._arrived:
            if not self._closing and sum(not known.sent_away for known in self._newcomers.values()) >= MOST_NEWCOMERS:
                self._make_room()
            if self._closing or len(self._newcomers) >= MOST_THREADS:
                opened.close()
                return
            self._newcomers[thread] = newcomer
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads; the listener has to outlive that
            opened.close()
            with self._arrived:
                del self._newcomers[thread]

    def _make_room(self) -> None:
        """Send one newcomer away: the oldest of those who have said least. Whoever has proven itself stays."""
        here = [known for known in self._newcomers.values() if not known.sent_away]
        least = min(here, key=lambda known: known.standing, default=None)  # the first of equals, and they are in order
        if least is not None and least.standing < Standing.PROVEN:
            least.send_away()

    def _greet(self, newcomer: _Newcomer, address: tuple[str, int]) -> None:
        who = f"the caller from {Endpoint(*address[:2])}"
        accepted = False

        def rises(standing: Standing) -> None:
            with self._arrived:
                if newcomer.sent_away:
                    raise HandshakeError(f"{who} had to make room for other callers")
                newcomer.standing = standing

        try:
            tune(newcomer.opened, self._buffer_bytes)
            deadline = Deadline(min(HANDSHAKE_S, self._timeout_s))
            self._maybe_tls(newcomer, deadline, who)
            wire, hello = accept_handshake(newcomer.opened, self._me, deadline, who, self._must_encrypt, rises)
            wire.who = f"rank {hello.rank}"
            self._admit(wire, hello)
            accepted = True
        except PeerError as error:
            self._refused(error)
        except OSError as error:
            self._refused(HandshakeError(f"{who} hung up during the handshake: {error.strerror or error}"))
        finally:
            if not accepted:
                newcomer.opened.close()
            with self._arrived:
                self._newcomers.pop(threading.current_thread(), None)

    def _maybe_tls(self, newcomer: _Newcomer, deadline: Deadline, who: str) -> None:
        opened = newcomer.opened
        opened.setblocking(False)
        await_ready(Wire(opened, who), None, deadline)
        if opened.recv(1, socket.MSG_PEEK) != _TLS_CLIENT_HELLO:
            return
        if self._tls is None:
            raise HandshakeError(
                f"{who} speaks TLS, this side has no certificate. Fix: ansible-playbook certificates.yml."
            )
        wrapped = self._tls.start(opened, serving=True, who=who)
        with self._arrived:
            newcomer.opened = wrapped
            if newcomer.sent_away:
                newcomer.send_away()
        self._tls.finish(wrapped, deadline, who)

    def _admit(self, wire: Wire, hello: Hello) -> None:
        """Keep one half of a link; with the other half it is complete."""
        with self._arrived:
            key = (hello.channel, hello.rank)
            known = self._links.get(key) or self._taken.get(key)
            half = (*key, hello.link)
            if self._closing or (known is not None and not known.closed) or half in self._turned_away:
                # Its other half is refused too, even if there is room by then: half a link would be waited for in vain.
                self._turned_away.append(half)
                for wire_of_it in self._halves.pop(half, {}).values():
                    wire_of_it.close()
                raise HandshakeError(
                    f"{wire.who} is connected already on {hello.channel!r}: two processes claim that rank"
                )
            # It begins again: what an earlier attempt left half done is of no use to anybody.
            for other in [other for other in self._halves if other[:2] == key and other[2] != hello.link]:
                for stale in self._halves.pop(other).values():
                    stale.close()
            halves = self._halves.setdefault((hello.channel, hello.rank, hello.link), {})
            if hello.direction in halves:
                halves[hello.direction].close()
            halves[hello.direction] = wire
            if len(halves) < 2:
                return
            del self._halves[hello.channel, hello.rank, hello.link]
            # Its "out" is what we receive on.
            self._links[key] = Link(hello.rank, hello.channel, halves["in"], halves["out"], self._timeout_s)
            self._arrived.notify_all()
            wake = self._watchers.get(hello.channel)
        if wake is not None:
            wake()

    def _refused(self, error: PeerError) -> None:
        with self._arrived:
            self._refused_so_far += 1
            number = self._refused_so_far
        # Whoever floods us must not fill the disk: after the first ones only each hundredth is told.
        if number <= MOST_LOGGED:
            log.warning("refused: %s", error)
        elif number % 100 == 0:
            log.warning("refused %d so far, the last: %s", number, error)
        # Last, so that who waits for a refusal finds it in the log too.
        with self._arrived:
            self.refusals.append(error)
            self._arrived.notify_all()
