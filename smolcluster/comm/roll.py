"""The roll call: how many operations each rank has begun in a group. Asked when an operation waits in vain, so that
its error names the ranks that did not come, and not the neighbour that waits for them too.

Question and answers go over the control star: rank 0 passes the question on, each rank's listening thread puts its
answer into the store. Nothing is sent while all is well.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from smolcluster.comm.table import Op
from smolcluster.errors import DeadlineError, ProtocolError

# A rank whose process runs answers within milliseconds, whatever its other threads do.
ANSWER_S = 1.0
# The count of a group that a rank has not created yet, or has left.
NOT_THERE = -1


class Roll:
    """How far this process is in each of its groups. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Callable[[], int]] = {}

    def enter(self, group: str, count: Callable[[], int]) -> None:
        """Answer for a group from now on; `count` gives how many operations it has begun."""
        with self._lock:
            self._counts[group] = count

    def leave(self, group: str) -> None:
        """Do not any more."""
        with self._lock:
            self._counts.pop(group, None)

    def answer(self, question: Sequence[bytes]) -> tuple[bytes, bytes]:
        """The key and the value that tell how far this rank is; the question is (its name, group, rank asked).

        ProtocolError if it is something else.
        """
        if len(question) != 3 or not question[2].isdigit():
            raise ProtocolError("rank 0 called a roll that cannot be read")
        name, group, rank = question
        with self._lock:
            count = self._counts.get(group.decode(errors="replace"))
        return _key(name, int(rank)), str(count() if count is not None else NOT_THERE).encode()


class Star(Protocol):
    """What the roll call needs of the control star."""

    def call(self, op: Op, args: Sequence[bytes], seconds: float) -> list[bytes]:
        """One request to rank 0."""


def call_roll(star: Star, group: str, members: Sequence[int]) -> dict[int, int]:
    """How many operations each member has begun in the group; who does not answer within a second is missing.

    PeerError if the run has failed.
    """
    question = secrets.token_hex(8).encode()
    star.call(Op.ROLL, (question, group.encode()), ANSWER_S)
    keys = {rank: _key(question, rank) for rank in members}
    try:
        star.call(Op.WAIT, tuple(keys.values()), ANSWER_S)
    except DeadlineError:
        keys = {rank: key for rank, key in keys.items() if star.call(Op.CHECK, (key,), ANSWER_S)[0] == b"1"}
    counts = {rank: int(star.call(Op.GET, (key,), ANSWER_S)[0]) for rank, key in keys.items()}
    for key in keys.values():
        star.call(Op.DELETE, (key,), ANSWER_S)
    return counts


def _key(question: bytes, rank: int) -> bytes:
    return b"smol/roll/%s/%d" % (question, rank)
