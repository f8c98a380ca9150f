"""Wishes to stop, as a worker hands them to its part of a run (runtime.process.Stop)."""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection


class Asked(threading.Event):
    """One that a test sets."""

    def __call__(self) -> bool:
        return self.is_set()


def asked_already() -> Asked:
    asked = Asked()
    asked.set()
    return asked


class AskedThroughPipe:
    """One that comes through a pipe, from the process that made this one."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __call__(self) -> bool:
        return self._pipe.poll()

    def wait(self, timeout_s: float) -> bool:
        return self._pipe.poll(timeout_s)
