"""Windows: the execution state of the thread that holds it; gone with the thread, however it ends."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from smolcluster.jobs.awake import CannotKeepAwakeError

_ES_CONTINUOUS, _ES_SYSTEM_REQUIRED = 0x80000000, 0x00000001


def hold(_why: str) -> AbstractContextManager[object]:
    """Sleep by idleness is held off; the screen may go dark. CannotKeepAwakeError if Windows refuses."""
    kernel: Any = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    kernel.SetThreadExecutionState.argtypes = [ctypes.c_uint]
    kernel.SetThreadExecutionState.restype = ctypes.c_uint
    if not kernel.SetThreadExecutionState(_ES_CONTINUOUS | _ES_SYSTEM_REQUIRED):
        raise CannotKeepAwakeError("SetThreadExecutionState refused")
    return _held(kernel)


@contextmanager
def _held(kernel: Any) -> Iterator[None]:
    try:
        yield
    finally:
        kernel.SetThreadExecutionState(_ES_CONTINUOUS)
