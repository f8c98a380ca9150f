"""Devices: which one a rank computes on, and how its tensors reach a wire that only takes CPU memory.

No wire takes MPS tensors, and CUDA tensors travel over TCP through the CPU anyway: they go through the buffers of
comm/backend/staging.py here, whatever the transport. (For scripts that hand device tensors to torch.distributed
themselves the backend does the same.) Strategies call `Collectives` with tensors that are where they are.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist

from smolcluster.comm.backend.lifetime import GroupLifetime
from smolcluster.comm.backend.staging import Staging
from smolcluster.errors import ConfigError, PeerError, Problem


def pick_device(wanted: str, node: str) -> torch.device:
    """The device for "auto" | "cpu" | "mps" | "cuda"; auto takes the best there is. ConfigError if it is missing."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, present in there.items() if present)
    if not there[wanted]:
        what = f"device {wanted} was asked for, but torch {torch.__version__} on this machine has none"
        fix = f"set `device: auto` for {node} in the inventory, or install a torch with {wanted}"
        raise ConfigError([Problem("", 0, f"machines.{node}.device", what, fix)])
    return torch.device(wanted)


class Pending(Protocol):
    """A collective under way. `wait` returns when the result stands in the tensor that was given."""

    def wait(self) -> None:
        """Block until the result is there. PeerError, or torch's wrapping of one, if it never will be."""
        ...


@dataclass
class _Waiting:
    """A torch.distributed work, and the CPU buffer it writes for the tensor the caller looks at (none on a CPU)."""

    owner: Collectives
    work: dist.Work
    staging: Staging | None

    def wait(self) -> None:
        began = time.perf_counter()
        self.work.wait()
        if self.staging is not None:
            self.staging.give_back()
        self.owner.blocked_s += time.perf_counter() - began


class _Done:
    """What a rank alone waits for."""

    def wait(self) -> None:
        """Nothing to wait for."""


class Collectives:
    """The collectives that strategies use, for tensors of one device, over `group`: by default torch.distributed's own.

    `rank` and `world_size` are the group's. A rank alone needs no group: its own values are the result. `blocked_s`
    grows by the seconds the caller spent in here: communication that nothing hid. All ranks must call the same
    operations in the same order. `staged` forces the way through CPU buffers (the default off the CPU).
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        device: torch.device,
        staged: bool | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.blocked_s = 0.0
        self._device = device
        self._group = group
        self._staged = device.type != "cpu" if staged is None else staged

    def all_reduce(self, tensor: torch.Tensor) -> Pending:
        """Sum over ranks, in place."""
        if self.world_size == 1:
            return _Done()
        began = time.perf_counter()
        buffer, staging = self._buffer(tensor)
        return self._pending(dist.all_reduce(buffer, group=self._group, async_op=True), staging, began)

    def reduce_scatter(self, output: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """Sum over ranks; `output` gets this rank's 1/N and may be that part of `tensor`; its rest is then scratch."""
        if self.world_size == 1:
            return self._alone(output, tensor)
        began = time.perf_counter()
        buffer, _ = self._buffer(tensor)
        mine, staging = self._buffer(output, fill=False)
        work = dist.reduce_scatter_single(mine, buffer, group=self._group, async_op=True)
        return self._pending(work, staging, began)

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """Every rank's `tensor` one after the other in `output`; `tensor` may be this rank's part of `output`."""
        if self.world_size == 1:
            return self._alone(output, tensor)
        began = time.perf_counter()
        mine, _ = self._buffer(tensor)
        whole, staging = self._buffer(output, fill=False)
        work = dist.all_gather_single(whole, mine, group=self._group, async_op=True)
        return self._pending(work, staging, began)

    def all_to_all(self, output: torch.Tensor, tensor: torch.Tensor) -> Pending:
        """The r-th of N even parts of `tensor` goes to rank r; what rank r sends lands in the r-th part of `output`."""
        if self.world_size == 1:
            return self._alone(output, tensor)
        began = time.perf_counter()
        mine, _ = self._buffer(tensor)
        theirs, staging = self._buffer(output, fill=False)
        work = dist.all_to_all_single(theirs, mine, group=self._group, async_op=True)
        return self._pending(work, staging, began)

    def broadcast(self, tensor: torch.Tensor, source: int = 0) -> None:
        """The source's values on every rank, in place; returns when they are there."""
        if self.world_size == 1:
            return
        began = time.perf_counter()
        buffer, staging = self._buffer(tensor)
        origin = source if self._group is None else dist.get_global_rank(self._group, source)
        dist.broadcast(buffer, origin, group=self._group)
        if staging is not None:
            staging.give_back()
        self.blocked_s += time.perf_counter() - began

    def exchange(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's few numbers, in rank order, the same bits everywhere (float64): what decisions are made from."""
        if self.world_size == 1:
            return [list(values)]
        began = time.perf_counter()
        mine = torch.tensor(values, dtype=torch.float64)
        table = torch.empty(self.world_size * len(values), dtype=torch.float64)
        dist.all_gather_single(table, mine, group=self._group)
        self.blocked_s += time.perf_counter() - began
        rows: list[list[float]] = table.view(self.world_size, len(values)).tolist()
        return rows

    def receive(self, tensor: torch.Tensor, source: int, tag: int, timeout_s: float) -> None:
        """The next message of that tag into a CPU tensor, over our own links. DeadlineError if that rank sends nothing
        for so long; may be called from any thread.
        """
        group = self._own_group()
        assert group is not None, "the plan takes our own links where ranks wait for single messages"
        group.receive_within(tensor, source, tag, timeout_s).wait()

    @contextlib.contextmanager
    def within(self, timeout_s: float) -> Iterator[None]:
        """What begins meanwhile waits no longer than that for a rank that sends nothing, messages too: DeadlineError.

        Over our own links; gloo has one deadline for all, the group's.
        """
        group = self._own_group()
        if group is None:
            yield
            return
        usual_s = group.timeout_s
        group.set_timeout(timedelta(seconds=timeout_s))
        try:
            yield
        finally:
            group.set_timeout(timedelta(seconds=usual_s))

    @property
    def timeout_s(self) -> float:
        """How long our own links wait for ranks that live; no end of a rank alone, or over gloo."""
        group = self._own_group()
        return group.timeout_s if group is not None else math.inf

    def verdict(self, error: PeerError) -> PeerError:
        """What to raise for a wait of the caller's own that ran out: it ends the run, with one culprit everywhere."""
        group = self._own_group()
        return group.verdict(error) if group is not None else error

    def _own_group(self) -> GroupLifetime | None:
        group = (self._group or dist.group.WORLD) if self.world_size > 1 else None
        return group if isinstance(group, GroupLifetime) else None

    @staticmethod
    def _alone(output: torch.Tensor, tensor: torch.Tensor) -> Pending:
        if output.data_ptr() != tensor.data_ptr():
            output.copy_(tensor)
        return _Done()

    def _buffer(self, tensor: torch.Tensor, fill: bool = True) -> tuple[torch.Tensor, Staging | None]:
        """What the wire reads and writes for a tensor, ready to be used: itself, or a CPU buffer."""
        if not self._staged:
            return tensor, None
        staging = Staging(tensor, fill)
        staging.arrive()
        return staging.buffer, staging

    def _pending(self, work: dist.Work | None, staging: Staging | None, began: float) -> Pending:
        assert work is not None, "torch gives a work for every async_op on a group this rank belongs to"
        self.blocked_s += time.perf_counter() - began
        return _Waiting(self, work, staging)
