"""The backend "smol": a c10d ProcessGroup over links, for CPU tensors on any mix of operating systems.

It translates c10d's calls into collectives.py and p2p.py and puts them on lanes; the algorithms are elsewhere. torch 2.13
renamed some methods (reduce_scatter_single ...): both names are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from smolcluster.comm.alarm import copy_of
from smolcluster.comm.backend.arithmetic import op_name
from smolcluster.comm.backend.collectives import Collectives
from smolcluster.comm.backend.lane import Lane, Work
from smolcluster.comm.backend.schedule import shard_bounds
from smolcluster.comm.control import Control
from smolcluster.comm.link import Link
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import PeerError

# How long a group that is destroyed waits for its neighbours to say the same.
GOODBYE_S = 2.0


class SmolGroup(dist.ProcessGroup):
    """One group. `members` are the global ranks in group order; links are its own, so groups never mix their traffic."""

    def __init__(
        self,
        mesh: Mesh,
        control: Control,
        name: str,
        rank: int,
        members: Sequence[int],
        buffer_bytes: int,
        timeout_s: float,
    ) -> None:
        super().__init__(rank, len(members))
        self._name = name
        self._mesh = mesh
        self._control = control
        self._members = tuple(members)
        self._lane = Lane(f"collectives-{name}")
        self._links: list[Link] = []
        self._ring: Collectives | None = None
        if len(members) > 1:
            onward, backward = self._neighbours(rank)
            self._ring = Collectives(rank, len(members), onward, backward, buffer_bytes, timeout_s)

    def _neighbours(self, rank: int) -> tuple[Link, Link]:
        size = len(self._members)
        following, previous = self._members[(rank + 1) % size], self._members[(rank - 1) % size]
        channel = f"ring/{self._name}"
        onward = self._open(following, channel)
        return onward, onward if following == previous else self._open(previous, channel)

    def _open(self, peer: int, channel: str) -> Link:
        try:
            link = self._mesh.link(peer, channel)
        except PeerError as error:
            raise self._control.verdict(error) from error
        self._links.append(link)
        return link

    # -- collectives

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Work:
        opts = opts or dist.AllreduceOptions()
        op = op_name(opts.reduceOp)
        flats = [_Flat(tensor) for tensor in tensors]

        def job(ring: Collectives) -> None:
            for flat in flats:
                ring.all_reduce(flat.numbers, op)
                flat.write_back()

        return self._do(job, tensors, opts)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Work:
        return self.allreduce(tensors, opts or dist.AllreduceCoalescedOptions())

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Work:
        opts = opts or dist.BroadcastOptions()
        flats = [_Flat(tensor) for tensor in tensors]

        def job(ring: Collectives) -> None:
            for flat in flats:
                ring.broadcast(flat.numbers, opts.rootRank)
                flat.write_back()

        return self._do(job, tensors, opts)

    def allgather(self, output_tensors: list[list[Tensor]], input_tensors: list[Tensor], opts: Any = None) -> Work:
        outputs, mine = [_Flat(tensor) for tensor in output_tensors[0]], _Flat(input_tensors[0])

        def job(ring: Collectives | None) -> None:
            if ring is None:
                outputs[0].numbers.copy_(mine.numbers)
            else:
                ring.all_gather([flat.numbers for flat in outputs], mine.numbers)
            for flat in outputs:
                flat.write_back()

        return self._do(job, output_tensors[0], opts, alone=lambda: job(None))

    def all_gather_single(self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = None) -> Work:
        output, mine = _Flat(output_tensor), _Flat(input_tensor)
        parts = output.numbers.chunk(self.size()) if output.numbers.numel() else [output.numbers] * self.size()
        self._check_size(output.numbers, mine.numbers, "all_gather")

        def job(ring: Collectives | None) -> None:
            if ring is None:
                parts[0].copy_(mine.numbers)
            else:
                ring.all_gather(parts, mine.numbers)
            output.write_back()

        return self._do(job, [output_tensor], opts, alone=lambda: job(None))

    def reduce_scatter(self, output_tensors: list[Tensor], input_tensors: list[list[Tensor]], opts: Any = None) -> Work:
        opts = opts or dist.ReduceScatterOptions()
        return self._scatter([_Flat(tensor).numbers for tensor in input_tensors[0]], output_tensors[0], opts)

    def reduce_scatter_single(self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = None) -> Work:
        opts = opts or dist.ReduceScatterOptions()
        whole = _Flat(input_tensor).numbers
        self._check_size(whole, output_tensor, "reduce_scatter")
        return self._scatter(list(whole.split(max(1, output_tensor.numel()))), output_tensor, opts)

    def _scatter(self, shards: list[Tensor], output_tensor: Tensor, opts: Any) -> Work:
        op = op_name(opts.reduceOp)
        output = _Flat(output_tensor)

        def job(ring: Collectives | None) -> None:
            if ring is None:
                output.numbers.copy_(shards[0])
            elif any(shard.numel() for shard in shards):
                ring.reduce_scatter(shards, output.numbers, op)
            output.write_back()

        return self._do(job, [output_tensor], opts, alone=lambda: job(None))

    def barrier(self, opts: Any = None) -> Work:
        token = torch.zeros(1, dtype=torch.uint8)
        return self._do(lambda ring: ring.all_reduce(token, "MAX"), [token], opts or dist.BarrierOptions())

    # -- the same under the other names

    def _allgather_base(self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = None) -> Work:
        return self.all_gather_single(output_tensor, input_tensor, opts)

    def _reduce_scatter_base(self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = None) -> Work:
        return self.reduce_scatter_single(output_tensor, input_tensor, opts)

    # -- how jobs run

    def _do(
        self,
        job: Callable[[Collectives], None],
        result: list[Tensor],
        opts: Any,
        alone: Callable[[], None] | None = None,
    ) -> Work:
        """Run a collective: here when it is synchronous, else on the group's thread. `alone`: in a group of one."""
        ring = self._ring

        def guarded() -> None:
            if ring is None:
                if alone is not None:
                    alone()
                return
            if self._control.alarm.error is not None:
                raise copy_of(self._control.alarm.error)
            try:
                job(ring)
            except PeerError as error:
                raise self._control.verdict(error) from error

        if opts is not None and not opts.asyncOp:
            return self._lane.run(guarded, result)
        return self._lane.submit(guarded, result)

    def _check_size(self, whole: Tensor, part: Tensor, name: str) -> None:
        if whole.numel() != part.numel() * self.size():
            raise ValueError(
                f"{name}: the whole has {whole.numel()} numbers, {self.size()} times {part.numel()} are needed"
            )

    # -- life

    def shutdown(self) -> None:
        """Finish what is queued, say goodbye to the neighbours, close the links. Idempotent."""
        if self._control.alarm.error is None:
            self._lane.drain()
        self._lane.close()
        links, self._links = self._links, []
        if self._control.alarm.error is None:
            for link in links:
                link.say_fin()
        for link in links:
            if self._control.alarm.error is None:
                link.close(GOODBYE_S)
            else:
                link.abort()
                link.discard()
            self._mesh.forget(link)

    def abort(self) -> None:
        """End all operations now; they fail with PeerLostError."""
        for link in self._links:
            link.abort()

    def getBackendName(self) -> str:
        return "smol"

    def name(self) -> str:
        return "smol"

    def getSize(self) -> int:
        return len(self._members)

    def getRank(self) -> int:
        return self.rank()

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")]

    def set_timeout(self, timeout: timedelta) -> None:
        if self._ring is not None:
            self._ring.timeout_s = timeout.total_seconds()


class _Flat:
    """A tensor as flat, contiguous numbers in memory; `write_back` after a copy had to be made."""

    __slots__ = ("_original", "numbers")

    def __init__(self, tensor: Tensor) -> None:
        if tensor.device.type != "cpu":
            raise ValueError(
                f"the backend smol carries CPU tensors, not {tensor.device}: stage it through a CPU buffer"
            )
        if tensor.is_sparse:
            raise ValueError("the backend smol carries dense tensors only")
        self._original: Tensor | None = None
        detached = tensor.detach()
        if not detached.is_contiguous():
            self._original, detached = detached, detached.contiguous()
        self.numbers = detached.view(-1)

    def write_back(self) -> None:
        if self._original is not None:
            self._original.copy_(self.numbers.view(self._original.shape))
