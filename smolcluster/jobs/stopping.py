"""Stopping ranks in three steps: ask, terminate, kill, all within one grace."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from smolcluster.jobs.processes import RankProcess

# Of the grace: when asking gives way to SIGTERM, and that to SIGKILL. What is left is for the dying itself, so that
# "gone within the grace" holds: lease (12 s) and grace (3 s) together are the 15 s that are promised.
_TERMINATE_AT = 2 / 3
_KILL_AT = 5 / 6


@dataclass(frozen=True)
class StopOrder:
    """Why the ranks are stopped and how the job is to end: somebody asked ("stopped"), or a rank failed ("failed")."""

    outcome: Literal["stopped", "failed"]
    reason: str
    grace_s: float


class Stopping:
    """The stop under way, if any. The first order decides outcome and reason; a later one may only shorten the time."""

    def __init__(self) -> None:
        self.order: StopOrder | None = None
        # Ranks that did not end by themselves, with what was done to them.
        self.forced: dict[int, str] = {}
        self._terminate_at = math.inf
        self._kill_at = math.inf

    def begin(self, order: StopOrder, running: Iterable[RankProcess]) -> bool:
        """Tell the running ranks to stop. False if they were told before."""
        now = time.monotonic()
        self._terminate_at = min(self._terminate_at, now + order.grace_s * _TERMINATE_AT)
        self._kill_at = min(self._kill_at, now + order.grace_s * _KILL_AT)
        if self.order is not None:
            return False
        self.order = order
        for rank in running:
            rank.ask_to_stop()
        return True

    def next_step_s(self) -> float:
        """Seconds until `enforce` has something to do; infinite when nothing is being stopped."""
        return max(0.0, min(self._terminate_at, self._kill_at) - time.monotonic())

    def enforce(self, running: Iterable[RankProcess]) -> None:
        """Terminate, and later kill, the ranks that still run when their time is up."""
        if self.order is None:
            return
        now = time.monotonic()
        if now >= self._kill_at:
            self._force(running, kill=True)
            # Again shortly: a process in uninterruptible sleep (a hanging disk) dies when it wakes.
            self._kill_at = now + 1.0
        elif now >= self._terminate_at:
            self._force(running, kill=False)
            self._terminate_at = math.inf

    def _force(self, running: Iterable[RankProcess], kill: bool) -> None:
        assert self.order is not None
        for rank in running:
            what = "killed" if kill else "terminated"
            self.forced[rank.rank] = f"{self.order.reason}; it did not stop by itself and was {what}"
            if kill:
                rank.kill()
            else:
                rank.terminate()
