"""Operations in torch.profiler's traces, as smol:all_reduce and so on. Without a profiler they cost next to nothing.

A synchronous operation is a span on the thread that calls it. An asynchronous one is a span that begins there and ends
when its work does, as torch's own backends do it; with `profile_all_threads` the group's thread shows its part too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._C._profiler import _RecordFunctionFast
from torch.autograd.profiler import record_function

from smolcluster.comm.backend.lane import Job, Work

PREFIX = "smol:"


def traced(name: str, begin: Callable[[], Work]) -> Work:
    """Begin an operation, inside a span if this thread is being profiled."""
    if not torch.autograd._profiler_enabled():
        return begin()
    with record_function(PREFIX + name) as span:
        work = begin()
        if not work.is_completed():
            span._call_end_callbacks_on_future(work.get_future())
    return work


def run_on_thread(name: str, job: Job) -> None:
    """Do an operation's work, wherever; the caller's span covers it if it has one."""
    if torch.autograd._profiler_enabled():
        job()
        return
    with _RecordFunctionFast(PREFIX + name):
        job()
