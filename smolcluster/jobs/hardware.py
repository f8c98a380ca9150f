"""What a node's supervisor sees of its machine, every ten seconds: into hardware.jsonl, and for whoever else asks.

The first looks come sooner, a second after each other and then twice that: a run of a few seconds has its figures too.

Once per node and not in the ranks: they have other things to do. A look reads a few files of /proc; on a Mac and on a
Raspberry Pi of old it asks a command too whether something slows the machine down, so that is done less often.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psutil

from smolcluster.doctor.look import temperature_c, throttled
from smolcluster.runtime.metrics import MetricsWriter
from smolcluster.runtime.metricsfile import HardwareRecord

_log = logging.getLogger("smolcluster.supervisor")
EVERY_S = 10.0
_FIRST_S = 1.0
_THROTTLED_EVERY_S = 60.0
_MB = 1 << 20
_JOIN_S = 5.0


class Machine:
    """Looks at this machine. `pids`: the processes of the node's ranks as they are now, by rank. For one thread."""

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        self._pids = pids
        self._times = _busy_and_all()
        self._throttled: str | None = None
        self._asked_at: float | None = None

    def look(self) -> HardwareRecord:
        """All that the system tells."""
        busy, total = _busy_and_all()
        before_busy, before = self._times
        self._times = busy, total
        memory = psutil.virtual_memory()
        return HardwareRecord(
            time=time.time(),
            cpu=min(1.0, max(0.0, busy - before_busy) / (total - before)) if total > before else 0.0,
            cores=os.cpu_count() or 1,
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            memory_mb=memory.total // _MB,
            memory_free_mb=memory.available // _MB,
            rss_mb={rank: mb for rank, pid in sorted(self._pids().items()) if (mb := _rss_mb(pid)) is not None},
            temperature_c=temperature_c(),
            throttled=self._slowed(),
        )

    def _slowed(self) -> str | None:
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at >= _THROTTLED_EVERY_S:
            self._asked_at = now
            self._throttled = throttled()
        return self._throttled


class HardwareWatch:
    """Looks from the beginning to `close`, in a thread of its own. Each record goes to `file`, then to `told`; when
    something begins or ceases to slow the machine down, the log says so.

    A disk that is full ends the writing, with a word in the log: figures are no reason to end a run.
    """

    def __init__(
        self,
        machine: Machine,
        file: Path,
        told: Iterable[Callable[[HardwareRecord], None]] = (),
        every_s: float = EVERY_S,
    ) -> None:
        self._machine = machine
        self._file = file
        self._told = tuple(told)
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hardware", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The end of it. Idempotent."""
        self._over.set()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        before = ""
        wait_s = min(_FIRST_S, self._every_s)
        try:
            with MetricsWriter(self._file) as metrics:
                while True:
                    record = self._machine.look()
                    metrics.write(record)
                    if record.throttled is not None and record.throttled != before:
                        before = record.throttled
                        _log.warning("the machine is slowed down: %s", before or "no longer")
                    for tell in self._told:
                        tell(record)
                    if self._over.wait(wait_s):
                        return
                    wait_s = min(2 * wait_s, self._every_s)
        except OSError as error:
            _log.warning("the machine's figures are not recorded any more: %s", error)


def _busy_and_all() -> tuple[float, float]:
    """Seconds that the cores have worked so far, all together, and seconds in all."""
    times = psutil.cpu_times()
    # Of Linux' figures guest and guest_nice are in user and nice already.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _rss_mb(pid: int) -> float | None:
    try:
        return round(psutil.Process(pid).memory_info().rss / _MB, 1)
    except psutil.Error:  # it has just ended
        return None
