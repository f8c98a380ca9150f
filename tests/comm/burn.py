"""Processes that only burn CPU, to see what a busy machine does to heartbeats and deadlines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The pipe on its stdin ends with the process that started it, and so does the burner.
_BURN = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
while True:
    pass
"""


@contextmanager
def burning(count: int) -> Iterator[None]:
    """`count` processes that never rest, until the end of the block."""
    burners = [subprocess.Popen([sys.executable, "-c", _BURN], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
        assert all(burner.poll() is None for burner in burners), "a burner ended early: the load was not there"
    finally:
        for burner in burners:
            burner.kill()
            burner.communicate()
