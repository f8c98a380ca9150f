"""This process, as the operating system sees it: its log, its memory, and that it must not outlive its parent."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Protocol

import psutil

_PR_SET_PDEATHSIG = 1


class Stop(Protocol):
    """Whether somebody wants this rank to end. Calling it answers at once; `wait` waits for it."""

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until one is, at most so many seconds. Whether one was."""
        ...


def log_to_stdout(file: Path | None = None) -> None:
    """One line per record on stdout, with the time in UTC so that logs of several machines can be laid side by side.

    `file` gets them too, at its end: of a rank whose stdout is a person's terminal. Its folder is made. OSError.
    """
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)


def peak_rss_mb() -> float:
    """The most memory this process ever held, in MB."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def give_back_memory() -> None:
    """Have glibc return what was freed to the system: after loading, most of what was read is. Nothing elsewhere."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def die_with_parent() -> None:
    """On Linux, ask the kernel to kill this process when the thread that started it ends. Nothing elsewhere.

    It is the belt beside the braces (end of file on stdin), for a parent that dies while this process hangs in C code.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
