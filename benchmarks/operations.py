"""The operations that the benchmark of collectives times: how each is called, and the fewest bytes it can move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Fewest bytes that all ranks together send, in units of the buffer, for n ranks. The buffer is the largest tensor a
# rank gives or gets: the whole for gather and scatter, of which each rank but the root has one n-th.
OPTIMUM: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1),
    "reduce": lambda n: n - 1,
    "reduce_scatter": lambda n: n - 1,
    "all_gather": lambda n: n - 1,
    "broadcast": lambda n: n - 1,
    "gather": lambda n: (n - 1) / n,
    "scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: n - 1,
    "send_recv": lambda n: n,
    "barrier": lambda _: 0,
}


@dataclass(frozen=True)
class Case:
    """One operation on a buffer of `bytes` bytes."""

    operation: str
    dtype: str
    bytes: int

    def optimum(self, n: int) -> float:
        """The fewest bytes all ranks together can send."""
        return OPTIMUM[self.operation](n) * self.bytes


class Arena:
    """Two buffers that all cases share. Zeros: sums of them stay what they are, however often they are added."""

    def __init__(self, largest_bytes: int) -> None:
        self._buffers = [torch.zeros(largest_bytes, dtype=torch.uint8) for _ in range(2)]

    def pair(self, case: Case) -> list[torch.Tensor]:
        """The first bytes of both, as the case's numbers."""
        return [buffer[: case.bytes].view(getattr(torch, case.dtype)) for buffer in self._buffers]


def call_of(case: Case, arena: Arena, rank: int, n: int, group: Any) -> Callable[[], object]:
    """A call of the case over `group`, on this rank. The buffer divides evenly by n."""
    one, other = arena.pair(case)
    part, parts = other.chunk(n)[rank], list(one.chunk(n))
    at_root = rank == 0
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(one, group=group),
        "reduce": lambda: dist.reduce(one, 0, group=group),
        "reduce_scatter": lambda: dist.reduce_scatter_single(part, one, group=group),
        "all_gather": lambda: dist.all_gather_single(one, part, group=group),
        "broadcast": lambda: dist.broadcast(one, 0, group=group),
        "gather": lambda: dist.gather(part, parts if at_root else None, 0, group=group),
        "scatter": lambda: dist.scatter(part, parts if at_root else None, 0, group=group),
        "all_to_all": lambda: dist.all_to_all_single(other, one, group=group),
        "send_recv": lambda: pass_on(one, other, rank, n, group),
        "barrier": lambda: dist.barrier(group=group),
    }
    return calls[case.operation]


def pass_on(mine: torch.Tensor, theirs: torch.Tensor, rank: int, n: int, group: Any) -> None:
    """Everybody sends to the next rank while it receives from the previous one."""
    sending = dist.isend(mine, (rank + 1) % n, group=group)
    dist.recv(theirs, (rank - 1) % n, group=group)
    sending.wait()
