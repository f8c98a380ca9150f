"""The backend "smol": a c10d ProcessGroup over links, for CPU tensors on any mix of operating systems.

It translates c10d's calls into collectives.py, direct.py and p2p.py; lifetime.py runs them, names failures, closes. The
algorithms are elsewhere. torch 2.13 renamed some methods (reduce_scatter_single ...): both names are here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from smolcluster.comm.backend.arithmetic import op_name
from smolcluster.comm.backend.collectives import Collectives
from smolcluster.comm.backend.flat import Flat, cut, flats, numbers_of, write_back
from smolcluster.comm.backend.lane import Work
from smolcluster.comm.backend.lifetime import GroupLifetime


class SmolGroup(GroupLifetime):
    """One group. Every method is c10d's; errors of peers are PeerError, of arguments ValueError."""

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """Every tensor becomes its reduction over all ranks."""
        opts = opts or dist.AllreduceOptions()
        op, parts = op_name(opts.reduceOp), flats(tensors)

        def job(ring: Collectives) -> None:
            for part in parts:
                ring.all_reduce(part.numbers, op)
            write_back(parts)

        return self._do(job, tensors, opts)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Work:
        """The same for several tensors at once."""
        return self.allreduce(tensors, opts or dist.AllreduceCoalescedOptions())

    def reduce(self, tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """The root's tensor becomes the reduction; the others' stay. Moves what all_reduce moves."""
        opts = opts or dist.ReduceOptions()
        op, part = op_name(opts.reduceOp), Flat(tensors[0])
        at_root = self.rank() == opts.rootRank
        numbers = part.numbers if at_root else part.numbers.clone()

        def job(ring: Collectives) -> None:
            ring.all_reduce(numbers, op)
            if at_root:
                part.write_back()

        return self._do(job, tensors, opts)

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """The root's tensor lands in everybody's."""
        opts = opts or dist.BroadcastOptions()
        parts = flats(tensors)

        def job(ring: Collectives) -> None:
            for part in parts:
                ring.broadcast(part.numbers, opts.rootRank)
            write_back(parts)

        return self._do(job, tensors, opts)

    def allgather(self, output_tensors: list[list[Tensor]], input_tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """Rank r's input lands in everybody's output_tensors[0][r]; they may differ in size."""
        outputs, mine = flats(output_tensors[0]), Flat(input_tensors[0])
        return self._gather_all(outputs, numbers_of(outputs), mine.numbers, output_tensors[0], opts)

    def all_gather_single(self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = None) -> Work:
        """The inputs one after the other, in rank order."""
        output, mine = Flat(output_tensor), Flat(input_tensor)
        self._check_size(output.numbers, mine.numbers, "all_gather")
        parts = cut(output.numbers, [], self.size())
        return self._gather_all([output], parts, mine.numbers, [output_tensor], opts)

    def _gather_all(self, back: list[Flat], parts: list[Tensor], mine: Tensor, result: list[Tensor], opts: Any) -> Work:
        def job(ring: Collectives) -> None:
            ring.all_gather(parts, mine)
            write_back(back)

        def alone() -> None:
            parts[0].copy_(mine)
            write_back(back)

        return self._do(job, result, opts, alone)

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        """all_gather_single for several pairs; the last one's work, which ends after the others."""
        return [self.all_gather_single(output, mine, opts) for output, mine in zip(outputs, inputs, strict=True)][-1]

    def reduce_scatter(  # type: ignore[override]
        self, output_tensors: list[Tensor], input_tensors: list[list[Tensor]], opts: Any = None
    ) -> Work:
        """Rank r's output becomes the reduction of everybody's input_tensors[0][r]."""
        return self._scatter_sum(numbers_of(flats(input_tensors[0])), output_tensors[0], opts)

    def reduce_scatter_single(self, output_tensor: Tensor, input_tensor: Tensor, opts: Any = None) -> Work:
        """Rank r's output becomes the reduction of the r-th piece of everybody's input, which stays as it is."""
        whole = Flat(input_tensor).numbers
        self._check_size(whole, output_tensor, "reduce_scatter")
        return self._scatter_sum(cut(whole, [], self.size()), output_tensor, opts)

    def _scatter_sum(self, shards: list[Tensor], output_tensor: Tensor, opts: Any) -> Work:
        opts = opts or dist.ReduceScatterOptions()
        op, output = op_name(opts.reduceOp), Flat(output_tensor)

        def job(ring: Collectives) -> None:
            ring.reduce_scatter(shards, output.numbers, op)
            output.write_back()

        def alone() -> None:
            output.numbers.copy_(shards[0])
            output.write_back()

        return self._do(job, [output_tensor], opts, alone)

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        """reduce_scatter_single for several pairs; the last one's work, which ends after the others."""
        return [self.reduce_scatter_single(output, mine, opts) for output, mine in zip(outputs, inputs, strict=True)][
            -1
        ]

    def barrier(self, opts: Any = None) -> Work:
        """Done when every rank has come."""
        token = torch.zeros(1, dtype=torch.uint8)
        return self._do(lambda ring: ring.all_reduce(token, "MAX"), [token], opts or dist.BarrierOptions())

    def alltoall(self, output_tensors: list[Tensor], input_tensors: list[Tensor], opts: Any = None) -> Work:
        """inputs[r] goes to rank r, what rank r sends lands in outputs[r]."""
        return self._exchange(flats(output_tensors), flats(input_tensors), output_tensors, opts)

    def all_to_all_single(
        self, output: Tensor, input: Tensor, output_splits: list[int], input_splits: list[int], opts: Any = None
    ) -> Work:
        """The same with pieces of two tensors, cut along their first dimension, evenly if no sizes are given."""
        into, mine = Flat(output), Flat(input)
        row_out, row_in = (t.numel() // max(1, t.shape[0]) if t.dim() else 1 for t in (output, input))
        outputs = cut(into.numbers, [rows * row_out for rows in output_splits], self.size())
        inputs = cut(mine.numbers, [rows * row_in for rows in input_splits], self.size())
        done = [*flats(outputs), into]
        return self._exchange(done, flats(inputs), [output], opts)

    def _exchange(self, outputs: list[Flat], inputs: list[Flat], result: list[Tensor], opts: Any) -> Work:
        into, mine = numbers_of(outputs), numbers_of(inputs)

        def job(ring: Collectives) -> None:
            ring.direct.all_to_all(into, mine)
            write_back(outputs)

        def alone() -> None:
            into[0].copy_(mine[0])
            write_back(outputs)

        return self._do(job, result, opts, alone)

    def gather(self, output_tensors: list[list[Tensor]], input_tensors: list[Tensor], opts: Any = None) -> Work:  # type: ignore[override]
        """Rank r's input lands in the root's output_tensors[0][r]."""
        opts = opts or dist.GatherOptions()
        outputs, mine = flats(output_tensors[0] if output_tensors else []), Flat(input_tensors[0])

        def job(ring: Collectives) -> None:
            ring.direct.gather(numbers_of(outputs), mine.numbers, opts.rootRank)
            write_back(outputs)

        def alone() -> None:
            outputs[0].numbers.copy_(mine.numbers)
            write_back(outputs)

        return self._do(job, input_tensors, opts, alone)

    def scatter(self, output_tensors: list[Tensor], input_tensors: list[list[Tensor]], opts: Any = None) -> Work:  # type: ignore[override]
        """The root's input_tensors[0][r] lands in rank r's output."""
        opts = opts or dist.ScatterOptions()
        output, inputs = Flat(output_tensors[0]), flats(input_tensors[0] if input_tensors else [])

        def job(ring: Collectives) -> None:
            ring.direct.scatter(output.numbers, numbers_of(inputs), opts.rootRank)
            output.write_back()

        def alone() -> None:
            output.numbers.copy_(inputs[0].numbers)
            output.write_back()

        return self._do(job, output_tensors, opts, alone)

    def send(self, tensors: list[Tensor], dst_rank: int, tag: int = 0) -> Work:
        """A message to one rank. The tensor must not change until the work is done."""
        return self._point_to_point.send(Flat(tensors[0]).numbers, dst_rank, tag)

    def recv(self, tensors: list[Tensor], src_rank: int, tag: int = 0) -> Work:
        """The next message of that tag from one rank, which must be of this size and dtype."""
        part = Flat(tensors[0])
        return self._point_to_point.receive(part.numbers, src_rank, tag, part.write_back)

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> Work:  # noqa: ARG002
        """Refused: name the rank to receive from."""
        raise ValueError("the backend smol receives from a rank that is named: give recv a `src`")

    # The same under torch's older names.
    _allgather_base = all_gather_single  # type: ignore[assignment]
    _reduce_scatter_base = reduce_scatter_single  # type: ignore[assignment]
    allgather_into_tensor_coalesced = all_gather_single_coalesced  # type: ignore[assignment]
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced  # type: ignore[assignment]
    alltoall_base = all_to_all_single  # type: ignore[assignment]
