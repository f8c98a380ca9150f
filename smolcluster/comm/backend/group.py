"""The backend "smol": a c10d ProcessGroup over links, on any mix of operating systems.

It translates c10d's calls into collectives.py, direct.py and p2p.py; lifetime.py runs them, names failures, closes;
coalesced.py has the forms for several tensors at once. The algorithms are elsewhere. torch 2.13 renamed some methods
(reduce_scatter_single ...): both names are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from smolcluster.comm.backend.arithmetic import addable, fold_of, op_name
from smolcluster.comm.backend.coalesced import CoalescedOperations
from smolcluster.comm.backend.collectives import Collectives
from smolcluster.comm.backend.flat import Flat, cut, flats, numbers_of
from smolcluster.comm.backend.lane import Work
from smolcluster.comm.backend.profiling import traced
from smolcluster.comm.backend.sparse import check_sparse, sum_sparse


class SmolGroup(CoalescedOperations):
    """One group. Every method is c10d's; errors of peers are PeerError, of arguments ValueError."""

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """Every tensor becomes its reduction over all ranks."""
        opts = opts or dist.AllreduceOptions()
        op = op_name(opts.reduceOp)
        if any(tensor.layout is not torch.strided for tensor in tensors):
            check_sparse(tensors, op)
            return self._do("all_reduce", lambda ring: _each(sum_sparse, ring, tensors), [], [], tensors, opts)
        parts = flats(tensors)
        numbers = _reducible(numbers_of(parts), op)

        def job(ring: Collectives) -> None:
            for flat in numbers:
                ring.all_reduce(flat, op)

        return self._do("all_reduce", job, parts, parts, tensors, opts)

    def reduce(self, tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """The root's tensor becomes the reduction; the others' stay."""
        opts = opts or dist.ReduceOptions()
        op, part = op_name(opts.reduceOp), Flat(tensors[0])
        (numbers,) = _reducible([part.numbers], op)
        back = [part] if self.rank() == opts.rootRank else []
        return self._do("reduce", lambda ring: ring.reduce(numbers, op, opts.rootRank), [part], back, tensors, opts)

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """The root's tensor lands in everybody's."""
        opts = opts or dist.BroadcastOptions()
        root = self.rank() == opts.rootRank
        parts = flats(tensors, fill=root)

        def job(ring: Collectives) -> None:
            for part in parts:
                ring.broadcast(part.numbers, opts.rootRank)

        return self._do("broadcast", job, parts, [] if root else parts, tensors, opts)

    def allgather(self, output_tensors: list[list[Tensor]], input_tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """Rank r's input lands in everybody's output_tensors[0][r]; they may differ in size."""
        outputs, mine = flats(output_tensors[0], fill=False), Flat(input_tensors[0])
        return self._gather_all([(numbers_of(outputs), mine)], outputs, output_tensors[0], opts)

    def all_gather_single(self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = None) -> Work:
        """The inputs one after the other, in rank order."""
        return self.all_gather_single_coalesced([output_tensor], [input_tensor], opts)

    def reduce_scatter(  # type: ignore[override]
        self, output_tensors: list[Tensor], input_tensors: list[list[Tensor]], opts: Any = None
    ) -> Work:
        """Rank r's output becomes the reduction of everybody's input_tensors[0][r]."""
        inputs, output = flats(input_tensors[0]), Flat(output_tensors[0], fill=False)
        return self._scatter_sums([(numbers_of(inputs), output)], inputs, output_tensors, opts)

    def reduce_scatter_single(self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = None) -> Work:
        """Rank r's output becomes the reduction of the r-th piece of everybody's input, which stays as it is."""
        return self.reduce_scatter_single_coalesced([output_tensor], [input_tensor], opts)

    def barrier(self, opts: Any = None) -> Work:
        """Done when every rank has come."""
        token = torch.zeros(1, dtype=torch.uint8)
        opts = opts or dist.BarrierOptions()
        return self._do("barrier", lambda ring: ring.all_reduce(token, "MAX"), [], [], [token], opts)

    def alltoall(self, output_tensors: list[Tensor], input_tensors: list[Tensor], opts: Any = None) -> Work:
        """inputs[r] goes to rank r, what rank r sends lands in outputs[r]."""
        into, mine = flats(output_tensors, fill=False), flats(input_tensors)
        return self._exchange(numbers_of(into), numbers_of(mine), mine, into, output_tensors, opts)

    def all_to_all_single(
        self, output: Tensor, input: Tensor, output_splits: list[int], input_splits: list[int], opts: Any = None
    ) -> Work:
        """The same with pieces of two tensors, cut along their first dimension, evenly if no sizes are given."""
        into, mine = Flat(output, fill=False), Flat(input)
        outputs = self._rows(output, into.numbers, output_splits)
        inputs = self._rows(input, mine.numbers, input_splits)
        return self._exchange(outputs, inputs, [mine], [into], [output], opts)

    def _rows(self, tensor: Tensor, flat: Tensor, splits: list[int]) -> list[Tensor]:
        rows = tensor.shape[0] if tensor.dim() else 1
        if splits and (len(splits) != self.size() or sum(splits) != rows):
            raise ValueError(f"all_to_all: the splits {splits} do not cut {rows} rows into {self.size()} pieces")
        if not splits and rows % self.size():
            raise ValueError(
                f"all_to_all: {rows} rows do not divide evenly among {self.size()} ranks; give split sizes"
            )
        width = tensor.numel() // max(1, rows)
        return cut(flat, [count * width for count in splits], self.size())

    def _exchange(
        self,
        into: list[Tensor],
        mine: list[Tensor],
        ins: list[Flat],
        outs: list[Flat],
        result: list[Tensor],
        opts: Any,
    ) -> Work:
        return self._do(
            "all_to_all",
            lambda ring: ring.direct.all_to_all(into, mine),
            ins,
            outs,
            result,
            opts,
            lambda: _copy(into[0], mine[0]),
        )

    def gather(self, output_tensors: list[list[Tensor]], input_tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """Rank r's input lands in the root's output_tensors[0][r]."""
        opts = opts or dist.GatherOptions()
        outputs, mine = flats(output_tensors[0] if output_tensors else [], fill=False), Flat(input_tensors[0])
        into = numbers_of(outputs)
        return self._do(
            "gather",
            lambda ring: ring.direct.gather(into, mine.numbers, opts.rootRank),
            [mine],
            outputs,
            input_tensors,
            opts,
            lambda: _copy(into[0], mine.numbers),
        )

    def scatter(self, output_tensors: list[Tensor], input_tensors: list[list[Tensor]], opts: Any = None) -> Work:  # type: ignore[override]
        """The root's input_tensors[0][r] lands in rank r's output."""
        opts = opts or dist.ScatterOptions()
        output, inputs = Flat(output_tensors[0], fill=False), flats(input_tensors[0] if input_tensors else [])
        pieces = numbers_of(inputs)
        return self._do(
            "scatter",
            lambda ring: ring.direct.scatter(output.numbers, pieces, opts.rootRank),
            inputs,
            [output],
            output_tensors,
            opts,
            lambda: _copy(output.numbers, pieces[0]),
        )

    def send(self, tensors: list[Tensor], dst_rank: int, tag: int = 0) -> Work:
        """A message to one rank. The tensor must not change until the work is done."""
        part = Flat(tensors[0])
        return self._kept(traced("send", lambda: self._point_to_point.send(part, dst_rank, tag, tensors)))

    def recv(self, tensors: list[Tensor], src_rank: int, tag: int = 0) -> Work:
        """The next message of that tag from one rank, which must be of this size and dtype."""
        part = Flat(tensors[0], fill=False)
        return self._kept(traced("recv", lambda: self._point_to_point.receive(part, src_rank, tag, tensors)))

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> Work:
        """The next message of that tag from whichever rank sends one; the work's `_source_rank()` tells which."""
        part = Flat(tensors[0], fill=False)
        return self._kept(traced("recv_anysource", lambda: self._point_to_point.receive(part, None, tag, tensors)))

    # The same under torch's older names.
    _allgather_base = all_gather_single  # type: ignore[assignment]
    _reduce_scatter_base = reduce_scatter_single  # type: ignore[assignment]
    alltoall_base = all_to_all_single  # type: ignore[assignment]


def _reducible(flat: list[Tensor], op: str) -> list[Tensor]:
    """As numbers that the reduction can be done on; ValueError, before anything is sent, if there is no such thing."""
    numbers = [addable(each, op) for each in flat]
    for each in numbers:
        fold_of(op, each.dtype)
    return numbers


def _each(job: Callable[[Collectives, Tensor], None], ring: Collectives, tensors: list[Tensor]) -> None:
    for tensor in tensors:
        job(ring, tensor)


def _copy(into: Tensor, source: Tensor) -> None:
    into.copy_(source)
