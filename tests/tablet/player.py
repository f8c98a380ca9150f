"""`python -m smolcluster.tablet.play` that stops in mid-text when it is told to, and then waits to be killed.

After the link stdin has one number, when the test likes: so many steps it still computes. `holding` on stderr says that
it has read it. What is killed in mid-text without this may have computed the whole of it already.
"""

from __future__ import annotations

import io
import sys
import threading

import smolcluster.tablet.reference as reference
from smolcluster.tablet import play
from smolcluster.tablet.computing import Array, OnnxLayers, Session

# Whoever started this and is gone kills nobody: the longest that it holds.
LONGEST_S = 300.0


class Allowance:
    """How many steps are left. None: as many as are asked for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left: int | None = None

    def limit(self, steps: int) -> None:
        """From now on so many."""
        with self._changed:
            self._left = steps

    def take(self) -> None:
        """One step, or none until the end."""
        with self._changed:
            if self._left is None:
                return
            if self._left == 0:
                self._changed.wait_for(lambda: self._left is None, LONGEST_S)
                return
            self._left -= 1


class Held:
    """A session that asks before each step."""

    def __init__(self, session: Session, allowance: Allowance) -> None:
        self._session = session
        self._allowance = allowance
        self.capacity = session.capacity

    @property
    def length(self) -> int:
        return self._session.length

    def forward(self, hidden: Array) -> Array:
        self._allowance.take()
        return self._session.forward(hidden)


def main() -> int:
    allowance, link = Allowance(), sys.stdin.readline()

    class HeldLayers(OnnxLayers):
        def open(self, capacity: int) -> Session:
            return Held(super().open(capacity), allowance)

    def listen(orders: io.TextIOBase) -> None:
        for line in orders:
            allowance.limit(int(line))
            print("holding", file=sys.stderr, flush=True)

    threading.Thread(target=listen, args=(sys.stdin,), daemon=True).start()
    reference.OnnxLayers = HeldLayers
    sys.stdin = io.StringIO(link)
    return play.main()


if __name__ == "__main__":
    sys.exit(main())
