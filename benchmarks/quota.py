"""A share of a core for a process and no more: it runs for that part of every period, and stands still for the rest.

A thread for each process stops it (SIGSTOP) and lets it go on. It does so whatever the process does: one that waited
for a wire has saved nothing up, as it has under a cgroup's cpu.max, and is slow all the time, as a slower machine is.
The periods of several begin one after another. Any Unix; nobody's cgroups are touched.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from types import TracebackType

# Shorter than what is measured, longer than it takes to stop a process.
PERIOD_S = 0.01


class Quotas:
    """Shares of a core by process id, from `__enter__` on. Whoever is stopped at the end goes on."""

    def __init__(self, shares: Mapping[int, float]) -> None:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._work, args=(pid, share, number / len(shares)), name=f"quota-{pid}", daemon=True
            )
            for number, (pid, share) in enumerate(shares.items())
        ]

    def __enter__(self) -> Quotas:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, pid: int, share: float, phase: float) -> None:
        begins = time.monotonic() + phase * PERIOD_S
        try:
            while not self._over.wait(max(0.0, begins - time.monotonic())):
                os.kill(pid, signal.SIGCONT)
                self._over.wait(max(0.0, begins + share * PERIOD_S - time.monotonic()))
                os.kill(pid, signal.SIGSTOP)
                # Who was late begins anew, instead of making up for it.
                begins = max(begins + PERIOD_S, time.monotonic())
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return  # it has ended
