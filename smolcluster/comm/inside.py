"""A worker inside the centre's own process: a Caller without a wire. See mailbox.py and caller.py.

Letters are handed over as they are, bodies too: what holds for a body that is on its way holds here.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping

from smolcluster.comm.clock import Deadline
from smolcluster.comm.letter import Letter, Value
from smolcluster.comm.mailbox import Mailbox, Member
from smolcluster.errors import PeerLostError


class Inside:
    """The centre's own rank as one of its workers. For one thread; the mailbox's calls come from any."""

    def __init__(self, mailbox: Mailbox, rank: int, timeout_s: float) -> None:
        self.incarnation = secrets.randbits(62)
        self._timeout_s = timeout_s
        self._mailbox = mailbox
        self._rank = rank
        self._changed = threading.Condition()
        self._letters: deque[Letter] = deque()
        self._member: Member | None = None
        self._lost = True
        mailbox.expect_inside()

    # -- what a Caller has ----------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """The centre's."""
        return self._mailbox.generation

    @property
    def timeout_s(self) -> float:
        """How long the centre may say nothing."""
        return self._timeout_s

    def dial(
        self, deadline: Deadline, stop: Callable[[], bool], words: Mapping[str, Value] | None = None
    ) -> Mapping[str, Value]:
        """Join, the first time or again. PeerLostError once the mailbox is closed, or `stop` says so."""
        self.close()
        if stop() or deadline.expired:
            raise PeerLostError("the centre was not joined: this rank is to stop")
        with self._changed:
            self._letters.clear()
            self._lost = False
        self._member = self._mailbox.admit(self._rank, self.incarnation, self, dict(words or {}))
        return {}

    def send(self, letter: Letter) -> None:
        """Hand it to the centre. Never waits."""
        if self._member is not None:
            self._mailbox.hand_in(self._member, letter)

    def receive(self, timeout_s: float) -> Letter | None:
        """The next letter, None if none comes within that time. PeerLostError once it was cut off and all is read."""
        with self._changed:
            self._changed.wait_for(lambda: self._letters or self._lost, timeout_s)
            if self._letters:
                return self._letters.popleft()
            if self._lost:
                raise PeerLostError("the centre has let go of its own worker")
            return None

    def close(self, patience_s: float = 0.0) -> None:  # noqa: ARG002  nothing is under way
        """Leave. Idempotent."""
        member, self._member = self._member, None
        if member is not None:
            self._mailbox.dismiss(member, orderly=True)
        self._end()

    # -- what the mailbox sees ------------------------------------------------------------------------------------

    def put(self, letter: Letter) -> None:
        """The centre sends one."""
        with self._changed:
            self._letters.append(letter)
            self._changed.notify_all()

    def cut(self) -> None:
        """The centre wants no more of it."""
        if self._member is not None:
            self._mailbox.dismiss(self._member, orderly=False)
        self._end()

    def leave(self) -> None:
        """The mailbox is closing."""
        self._end()

    def join(self, patience_s: float) -> None:
        """Nothing is under way."""

    def _end(self) -> None:
        with self._changed:
            self._lost = True
            self._changed.notify_all()
