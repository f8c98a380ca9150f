"""One thread per process that keeps idle links alive: a heartbeat at every interval."""

from __future__ import annotations

import threading
from collections.abc import Callable


def heartbeat_s(timeout_s: float) -> float:
    """How often an idle link says that this rank lives."""
    return min(1.0, timeout_s / 4)


class Pulse:
    """Calls `beat` every `every_s` seconds until `close`."""

    def __init__(self, beat: Callable[[], None], every_s: float) -> None:
        self._beat = beat
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="smol-pulse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and join."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._beat()
