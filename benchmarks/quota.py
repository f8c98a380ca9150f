"""A share of a core for a process and no more, as a cgroup's cpu.max gives it, without asking for one.

A thread looks often at the processor time of each process (all its threads). Who has used more than its share so far is
stopped (SIGSTOP) until that is no longer so; who waits for a wire uses nothing, and is not stopped. What was not used
is saved up for a period, no longer. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

# Shorter than cpu.max's default of 0.1: a host is to be slow all the time, not fast in bursts. Looked at this often.
PERIOD_S = 0.02
_LOOK_S = 0.005


class Quotas:
    """Shares of a core by process id, from `__enter__` on. Whoever is stopped at the end goes on."""

    def __init__(self, shares: Mapping[int, float]) -> None:
        self._shares = dict(shares)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="quotas", daemon=True)

    def __enter__(self) -> Quotas:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        now = time.monotonic()
        left = dict.fromkeys(self._shares, 0.0)
        used = {pid: used_s(pid) for pid in self._shares}
        stopped: set[int] = set()
        while not self._over.wait(_LOOK_S):
            before, now = now, time.monotonic()
            for pid, share in self._shares.items():
                seen = used_s(pid)
                earned = share * (now - before)
                left[pid] = min(left[pid] + earned - (seen - used[pid]), share * PERIOD_S)
                used[pid] = seen
                if left[pid] < 0 and pid not in stopped:
                    stopped.add(pid)
                    _tell(pid, signal.SIGSTOP)
                elif left[pid] >= 0 and pid in stopped:
                    stopped.discard(pid)
                    _tell(pid, signal.SIGCONT)
        for pid in stopped:
            _tell(pid, signal.SIGCONT)


def used_s(pid: int) -> float:
    """Processor seconds of all threads that are there now, and of those that have ended."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9


def _tell(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)
