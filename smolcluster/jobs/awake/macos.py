"""A Mac: caffeinate, which needs nobody's rights. A MacBook whose lid is closed sleeps all the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

_END_S = 5.0


def hold(_why: str) -> AbstractContextManager[object]:
    """Idle, disk and (on a power supply) system sleep are held off. OSError where there is no caffeinate."""
    # It watches this process, and ends with it, however that ends.
    command = ["caffeinate", "-i", "-m", "-s", "-w", str(os.getpid())]
    nothing = subprocess.DEVNULL
    return _held(subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing))


@contextmanager
def _held(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
