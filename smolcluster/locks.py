"""A lock between processes of one machine: the operating system's, on a file, so that it dies with its holder."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def locked(path: Path, deadline_s: float) -> Iterator[None]:
    """Hold the lock of that file, which is made where there is none. TimeoutError if somebody else holds it longer."""
    # Never deleted: removing a lock file lets two holders lock two different files of one name.
    with path.open("a+b") as file:
        _lock(file, deadline_s)
        try:
            yield
        finally:
            _unlock(file)


def _lock(file: IO[bytes], deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    pause = threading.Event()
    while not _try_lock(file):
        if time.monotonic() > deadline:
            raise TimeoutError(f"locked by another process for more than {deadline_s:.0f} s")
        pause.wait(0.02)


# File locks have no wait with a deadline on any system, so they are tried. The part for Windows is untested.
if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
