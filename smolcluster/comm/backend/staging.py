"""Tensors that are not in CPU memory: the one file that copies between a device and CPU buffers.

The wire reads and writes CPU memory. A tensor on `cuda` or `mps` gets a CPU buffer: filled when the operation is
called, copied back before its work is done. Copies of CUDA tensors run on a stream of their own that first waits for
the caller's, so nothing is read before it was computed or overwritten while it is still read, and the caller's thread
is not held up; the operation's thread waits for their events. MPS copies block until they are done.

Tested by sending CPU tensors through these buffers (tests/comm/test_staging.py). **Never run on a GPU.**
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DEVICES = ("cpu", "cuda", "mps")


def needs_staging(tensor: Tensor) -> bool:
    """Whether the wire cannot reach its memory. ValueError for a device that nobody can copy from."""
    kind = tensor.device.type
    if kind not in DEVICES:
        raise ValueError(f"the backend smol carries tensors on {', '.join(DEVICES)}, not on {tensor.device}")
    return kind != "cpu"


class Staging:
    """A CPU buffer for one tensor. `fill`: whether the tensor's numbers are needed, or only a place for new ones."""

    __slots__ = ("_copied", "_device", "_stream", "_tensor", "buffer")

    def __init__(self, tensor: Tensor, fill: bool) -> None:
        self._tensor = tensor
        self._device = tensor.device
        self._stream: Any = None
        self._copied: Any = None
        on_cuda = self._device.type == "cuda"
        # Only from pinned memory does a CUDA copy run beside everything else.
        self.buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=on_cuda)
        if on_cuda:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            # Also for a tensor that is only written: kernels that still read it were queued before.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            if fill:
                with torch.cuda.stream(self._stream):
                    self.buffer.copy_(tensor, non_blocking=True)
            # The allocator must not give the memory to others while the copy is under way.
            tensor.record_stream(self._stream)
            self._copied = self._stream.record_event()
        elif fill:
            self.buffer.copy_(tensor)

    def arrive(self) -> None:
        """Wait until the numbers are in the buffer. For the thread that runs the operation."""
        if self._copied is not None:
            self._copied.synchronize()

    def give_back(self) -> None:
        """Copy the buffer to the tensor and wait until it is there: what the caller queues next sees it."""
        if self._stream is None:
            self._tensor.copy_(self.buffer)
            if self._device.type == "mps":
                torch.mps.synchronize()
            return
        with torch.cuda.stream(self._stream):
            self._tensor.copy_(self.buffer, non_blocking=True)
        self._stream.synchronize()
