"""Tensors between neighbouring stages: hidden states forward, their gradients back. Each has its own link.

Shapes never travel: both ends know them from the batch. What comes is awaited before it is needed, one ahead, and what
goes is sent while the next micro-batch computes. No wire takes a device's memory: those tensors go through the CPU's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

import torch
import torch.distributed as dist

Shape = tuple[int, ...]
# How many tensors are awaited ahead of their use.
AHEAD = 2


class Incoming:
    """What a neighbour sends, in its order. `seconds` grows by the time that `take` waited."""

    def __init__(self, peer: int, device: torch.device, tag: int) -> None:
        self.seconds = 0.0
        self._peer, self._device, self._tag = peer, device, tag
        self._shapes: deque[Shape] = deque()
        self._coming: deque[tuple[dist.Work, torch.Tensor]] = deque()

    def expect(self, shapes: Iterable[Shape]) -> None:
        """These will come next, in float32."""
        self._shapes.extend(shapes)
        self._await_more()

    def take(self) -> torch.Tensor:
        """The next one, on this stage's device. PeerError, or torch's wrapping of one, if it never comes."""
        began = time.perf_counter()
        work, tensor = self._coming.popleft()
        work.wait()
        self._await_more()
        self.seconds += time.perf_counter() - began
        return tensor.to(self._device)

    def _await_more(self) -> None:
        while self._shapes and len(self._coming) < AHEAD:
            tensor = torch.empty(self._shapes.popleft())
            work = dist.irecv(tensor, self._peer, tag=self._tag)
            assert work is not None, "torch gives a work for every message of a group this rank belongs to"
            self._coming.append((work, tensor))


class Outgoing:
    """What a neighbour gets. `seconds` grows by the time that `flush` waited."""

    def __init__(self, peer: int, tag: int) -> None:
        self.seconds = 0.0
        self._peer, self._tag = peer, tag
        self._going: deque[tuple[dist.Work, torch.Tensor]] = deque()

    def send(self, tensor: torch.Tensor) -> None:
        """Send it, and come back at once. It must not be written to any more."""
        while self._going and self._going[0][0].is_completed():
            self._going.popleft()[0].wait()
        plain = tensor.detach().to("cpu", torch.float32).contiguous()
        work = dist.isend(plain, self._peer, tag=self._tag)
        assert work is not None, "torch gives a work for every message of a group this rank belongs to"
        self._going.append((work, plain))

    def flush(self) -> None:
        """Wait until all has left."""
        began = time.perf_counter()
        while self._going:
            self._going.popleft()[0].wait()
        self.seconds += time.perf_counter() - began
