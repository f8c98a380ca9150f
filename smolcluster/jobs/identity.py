"""Which process is it, really? A pid alone is no answer: the system gives it to somebody else later.

A process is named by its pid and its birth. psutil's creation time is wall-clock time, and on Linux it is worked out
from the time of booting, which moves when NTP sets the clock: a Pi has no clock of its own and jumps by months a minute
after it starts. So on Linux the birth is counted in ticks since this very boot.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

import psutil

from smolcluster.spec.base import Frozen

_LOOK_UP_S = 0.02
# After SIGKILL: what the system needs to take a process apart, many gigabytes of it at worst.
_DYING_S = 5.0


class ProcessId(Frozen):
    """A process that cannot be taken for another. `birth` compares only on the machine that gave it."""

    pid: int
    birth: str


def _birth(process: psutil.Process) -> str:
    if sys.platform == "linux":
        # Field 22 of stat, counted after the name's closing bracket (a name may hold blanks and brackets).
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{stat.rpartition(')')[2].split()[19]}"
    return f"{process.create_time():.2f}"


def identify(pid: int | None = None) -> ProcessId | None:
    """The process of that pid (None: this one) as it is now; None if there is none or it has ended (a zombie has)."""
    number = os.getpid() if pid is None else pid
    try:
        process = psutil.Process(number)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessId(pid=number, birth=_birth(process))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def orphaned() -> bool:
    """Whether the process that made this one with multiprocessing has ended. Its pid was noted before this one ran."""
    parent = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid


def alive(who: ProcessId) -> bool:
    """Whether this very process runs."""
    return identify(who.pid) == who


def end(who: ProcessId, grace_s: float) -> bool:
    """Terminate this very process, kill it after the grace; True when it is gone. Never touches another of that pid."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if grace_s > 0 and alive(who):
            psutil.Process(who.pid).terminate()
            wait_gone(who, grace_s)
        if alive(who):
            psutil.Process(who.pid).kill()
    return wait_gone(who, _DYING_S)


def wait_gone(who: ProcessId, deadline_s: float) -> bool:
    """Wait until this very process has ended; False if it still runs after deadline_s.

    Looks again and again: nobody can wait for a process that is not his child. (psutil's own wait goes on until an
    orphan has been reaped, which in a container may be never.)
    """
    end_at, pause = time.monotonic() + deadline_s, threading.Event()
    while alive(who):
        if time.monotonic() > end_at:
            return False
        pause.wait(_LOOK_UP_S)
    return True
