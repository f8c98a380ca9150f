"""Who takes part in the next generation? Asked at its start by the ranks of an elastic run, before they join.

Every rank dials all lower ones and says which generation it was in last, and with whom. Whoever reaches no lower rank
in time leads those who reached it:

    follower                                  leader
    ENTRY {rank, generation, members}   ->
                                        <-    VERDICT {generation, members}
    ACCEPT                              ->
                                        <-    COMMIT, when all have accepted

A follower accepts one verdict and no other; if one does not accept the leader takes the verdict back, and all of them
fail and muster again at the next start. So everybody who goes on has the same list.

Two halves of a cluster that a cable divides must not both go on: which list may is decided by what all who came know
(comm/quorum.py). For that the leader notes a list before it offers it and a follower before it accepts it, each as open
until it counts: whatever becomes of it, nobody goes on later without most of that list's members.

All links are ordinary ones: the run's secret is proven, and the generation in the handshake is one that nobody trains
in, so that ranks of an old generation that still run are not taken for somebody who has come.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from smolcluster.comm.announce import announce, find
from smolcluster.comm.clock import Deadline
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.endpoint import REDIAL_S, Endpoint
from smolcluster.comm.frame import Kind
from smolcluster.comm.link import Link, expect
from smolcluster.comm.opening import open_mesh
from smolcluster.comm.quorum import Entry, Muster, awaited, last_of, verdict_of
from smolcluster.errors import DeadlineError, PeerError, ProtocolError

CHANNEL = "muster"
# The generation of a muster's handshakes: none that ranks train in.
_MUSTERING = -2
# What one attempt to reach a lower rank may take before its announcement is looked up again.
_ATTEMPT_S = 1.0
# How long somebody who has come may take to answer.
ANSWER_S = 10.0
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Ground:
    """Where a rank musters: `config` as for the whole plan; `files[r]` is where rank r announces a port of its own
    (ranks of one machine). `window_s`: how long those who were there last are waited for, `first_s` the same before the
    first generation, which begins when all have come.
    """

    config: GroupConfig
    files: Mapping[int, Path]
    window_s: float
    first_s: float


def muster(ground: Ground, me: Entry, note: Callable[[Entry], None]) -> Muster:
    """Agree on the next generation and its members. PeerError: too few came, or somebody did not accept.

    `note` is called with what this rank knows from now on, before anybody else hears of it, and must make it last.
    """
    with contextlib.closing(_Gathering(ground, me, note)) as gathering:
        return gathering.lead() if gathering.await_role() else gathering.follow()


class _Gathering:
    def __init__(self, ground: Ground, me: Entry, note: Callable[[Entry], None]) -> None:
        self._note = note
        self._config = config = ground.config
        self._ground = ground
        self._me = me
        self._everybody = range(config.world_size)
        self._changed = threading.Condition()
        self._lower: dict[int, Link] = {}
        self._higher: dict[int, tuple[Link, Entry]] = {}
        self._over = threading.Event()
        # What is broken on purpose is a generation, and this comes before it.
        self._mesh = open_mesh(replace(config, generation=_MUSTERING, after=None, faults=None))
        self._began = Deadline(ground.window_s), Deadline(ground.first_s)
        if me.rank in ground.files and self._mesh.listener is not None:
            announce(ground.files[me.rank], self._mesh.listener.endpoint, config.run_id, 0)
        calls = [
            partial(self._dial if peer < me.rank else self._greet, peer) for peer in self._everybody if peer != me.rank
        ]
        self._threads = [threading.Thread(target=call, name="smol-muster", daemon=True) for call in calls]
        for thread in self._threads:
            thread.start()

    # Coming together

    def _dial(self, peer: int) -> None:
        """Reach a lower rank, as long as it takes, and say who is here."""
        while not self._over.is_set():
            try:
                where = self._where(peer)
                link = self._mesh.link(peer, CHANNEL, where, Deadline(_ATTEMPT_S))
                link.send(Kind.REQUEST, self._me.model_dump_json().encode())
            except PeerError:
                # Not there yet, or still in its last generation.
                self._over.wait(REDIAL_S)
                continue
            with self._changed:
                self._lower[peer] = link
                self._changed.notify_all()
            return

    def _where(self, peer: int) -> Endpoint:
        config = self._config
        port = config.peer_ports.get(peer, 0)
        if port:
            return Endpoint(config.peers[peer], port)
        return find(self._ground.files[peer], config.run_id, 0, Deadline(_ATTEMPT_S))

    def _greet(self, peer: int) -> None:
        """Let a higher rank come and say who it is."""
        with contextlib.suppress(PeerError):
            link = self._mesh.link(peer, CHANNEL, deadline=self._began[1])
            said = expect(link.receive(ANSWER_S, _MOST_BYTES, Deadline(ANSWER_S)), link.who, Kind.REQUEST)
            entry = _read(Entry, said.payload, link.who)
            with self._changed:
                self._higher[peer] = (link, entry)
                self._changed.notify_all()

    def _known(self) -> list[Entry]:
        return [self._me, *(entry for _, entry in self._higher.values())]

    def _left_s(self) -> float:
        window, first = self._began
        return first.left() if last_of(self._known()).generation < 0 else window.left()

    def await_role(self) -> bool:
        """Wait until it is clear whether this rank leads (True) or follows a lower one."""
        with self._changed:
            while not self._lower and self._left_s() > 0:
                came = {self._me.rank, *self._higher}
                # Nobody lower is waited for who was not there last either.
                if awaited(self._known(), len(self._everybody)) <= came:
                    break
                self._changed.wait(min(self._left_s(), 0.5))
            return not self._lower

    # Agreeing

    def lead(self) -> Muster:
        """Decide, and have everybody who came accept it."""
        with self._changed:
            known, came = self._known(), dict(self._higher)
        self._over.set()
        ground = self._ground
        waited_s = ground.first_s if last_of(known).generation < 0 else ground.window_s
        verdict = verdict_of(known, len(self._everybody), waited_s)
        self._note(self._me.offered(verdict))
        # One deadline for all: it is over before any follower's, who would be in the next muster by then.
        answered = Deadline(ANSWER_S)
        try:
            for link, _ in came.values():
                link.send(Kind.REPLY, verdict.model_dump_json().encode())
            for link, _ in came.values():
                expect(link.receive(ANSWER_S, _MOST_BYTES, answered), link.who, Kind.REPLY)
        except PeerError as error:
            for link, _ in came.values():
                with contextlib.suppress(PeerError):
                    link.tell(Kind.ABORT, b"", 1.0)
            raise PeerError(f"the ranks did not agree on who goes on: {error}") from error
        self._note(self._me.committed(verdict))
        # Whoever hears that all have accepted dials the next generation's listener, maybe on this very port.
        self._stop_listening()
        for link, _ in came.values():
            with contextlib.suppress(PeerError):  # whoever is gone now is missed when the ranks join
                link.send(Kind.MESSAGE)
        return verdict

    def follow(self) -> Muster:
        """Wait for the verdict of any lower rank, and accept the first one. The end of one that does not lead is none.

        PeerError: the first one's that hung up, once all have.
        """
        heard: queue.SimpleQueue[tuple[Link, Muster | PeerError]] = queue.SimpleQueue()
        with self._changed:
            patience = Deadline(2 * max(self._ground.window_s, self._left_s()) + ANSWER_S)
        asked: set[int] = set()
        lost: dict[int, PeerError] = {}
        while True:
            with self._changed:
                lower = dict(self._lower)
            for peer in lower.keys() - asked:
                threading.Thread(target=self._hear, args=(lower[peer], heard, patience), daemon=True).start()
                asked.add(peer)
            try:
                link, verdict = heard.get(timeout=min(0.2, max(patience.left(), 0.001)))
            except queue.Empty:
                if patience.expired:
                    raise DeadlineError(f"no lower rank said within {patience.seconds:g} s who goes on") from None
                continue
            if isinstance(verdict, PeerError):
                lost[link.peer] = verdict
                with self._changed:
                    if self._lower.keys() <= lost.keys():
                        raise next(iter(lost.values()))
                continue
            self._over.set()
            if self._me.rank not in verdict.members:
                raise ProtocolError(f"{link.who} led this rank and left it out")
            self._note(self._me.offered(verdict))
            self._stop_listening()  # as in `lead`: others may be in the next generation before this rank is
            link.send(Kind.REPLY)
            committed = link.receive(2 * ANSWER_S, _MOST_BYTES, Deadline(2 * ANSWER_S))
            expect(committed, link.who, Kind.MESSAGE)
            self._note(self._me.committed(verdict))
            return verdict

    def _hear(self, link: Link, heard: queue.SimpleQueue[tuple[Link, Muster | PeerError]], patience: Deadline) -> None:
        try:
            said = expect(link.receive(patience.left(), _MOST_BYTES, patience), link.who, Kind.REPLY)
            heard.put((link, _read(Muster, said.payload, link.who)))
        except PeerError as error:
            if not self._over.is_set():
                heard.put((link, error))

    def _stop_listening(self) -> None:
        if self._mesh.listener is not None:
            self._mesh.listener.close()

    def close(self) -> None:
        """Hang up on everybody; the port is free then."""
        self._over.set()
        self._mesh.fail(PeerError("the muster is over"), spare="")
        for thread in self._threads:
            thread.join()
        self._stop_listening()
        for link in self._mesh.links():
            link.discard()


_Said = TypeVar("_Said", Entry, Muster)


def _read(kind: type[_Said], payload: bytes | bytearray, who: str) -> _Said:
    try:
        return kind.model_validate_json(bytes(payload))
    except ValidationError as error:
        raise ProtocolError(f"{who} sent a {kind.__name__} that cannot be read") from error
