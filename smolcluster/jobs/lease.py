"""The lease: a run goes on only while its controller says so from time to time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

# The first renewal may be late: the controller starts every node before it follows any of them.
FIRST_TERM_FACTOR = 2.5


class Lease:
    """`term_s` after the last renewal it has run out; None never does. Monotonic: setting the clock ends no run.

    Safe from several threads: the control link's handlers renew while the supervisor's main thread looks.
    """

    def __init__(self, term_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.term_s = term_s
        self._clock = clock
        self._lock = threading.Lock()
        self._end = math.inf if term_s is None else clock() + term_s * FIRST_TERM_FACTOR

    def renew(self) -> None:
        """Start a new term now. The generous first term is over with the first renewal."""
        if self.term_s is not None:
            with self._lock:
                self._end = self._clock() + self.term_s

    def remaining_s(self) -> float:
        """Seconds left; infinite without a term, 0 when it has run out."""
        with self._lock:
            return max(0.0, self._end - self._clock())

    @property
    def out(self) -> bool:
        """Whether it has run out."""
        return self.remaining_s() <= 0.0

    def ran_out(self) -> str:
        """Why a run ends that has lost its lease, and what to look at."""
        term_s = self.term_s or 0.0
        return (
            f"the controller's lease ran out: nobody has renewed it for {term_s:g} s. The controller was ended, or "
            "cannot reach this node; if neither is so, the node answers too slowly: "
            f"start the playbook again with -e ship_lease_s={3 * term_s:g}"
        )
