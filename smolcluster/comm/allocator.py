"""The setting of the C library's allocator that a process which trains wants. It holds for the whole process."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc. The values are C ints: 1 GB, and the most there is.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BIGGEST_BLOCK, _NEVER = 1 << 30, (1 << 31) - 1


def keep_freed_memory() -> None:
    """On Linux with glibc, make malloc keep what is freed instead of giving it back to the kernel. Nothing elsewhere.

    A training step frees and takes the same few large tensors over and over. By default each of them is mapped anew,
    and the kernel clears its pages one fault at a time: a tenth of a step's CPU (python -m benchmarks.training --full),
    more where a framework makes buffers of its own in each step (python -m benchmarks.fsdp2).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BIGGEST_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
