"""Operations on several tensors at once, and c10d's coalescing, which collects works. One job each: one hand-off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from smolcluster.comm.backend.arithmetic import addable, fold_of, op_name
from smolcluster.comm.backend.collectives import Collectives
from smolcluster.comm.backend.flat import Flat, cut, flats, numbers_of
from smolcluster.comm.backend.lane import Lane, Work
from smolcluster.comm.backend.lifetime import GroupLifetime


class CoalescedOperations(GroupLifetime):
    """The part of a group that takes lists of tensors. group.py inherits it."""

    allreduce: Callable[..., Work]

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Work:
        """Every tensor becomes its reduction over all ranks."""
        return self.allreduce(tensors, opts or dist.AllreduceCoalescedOptions())

    def allgather_coalesced(self, output_lists: list[list[Tensor]], input_list: list[Tensor], opts: Any = None) -> Work:
        """output_lists[r][i] becomes rank r's input_list[i]."""
        mine = flats(input_list)
        columns = [flats((row[index] for row in output_lists), fill=False) for index in range(len(input_list))]
        pairs = [(numbers_of(column), own) for column, own in zip(columns, mine, strict=True)]
        outs = [part for column in columns for part in column]
        return self._gather_all(pairs, outs, [tensor for row in output_lists for tensor in row], opts)

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        """outputs[i] becomes everybody's inputs[i] one after the other, in rank order."""
        wholes, mine = flats(outputs, fill=False), flats(inputs)
        for whole, own in zip(wholes, mine, strict=True):
            self._check_size(whole.numbers, own.numbers, "all_gather")
        pairs = [(cut(whole.numbers, [], self.size()), own) for whole, own in zip(wholes, mine, strict=True)]
        return self._gather_all(pairs, wholes, outputs, opts)

    def _gather_all(
        self, pairs: Sequence[tuple[list[Tensor], Flat]], outs: Sequence[Flat], result: list[Tensor], opts: Any
    ) -> Work:
        """Each pair: places for everybody's part, and this rank's."""

        def job(ring: Collectives) -> None:
            for parts, mine in pairs:
                ring.all_gather(parts, mine.numbers)

        def alone() -> None:
            for parts, mine in pairs:
                parts[0].copy_(mine.numbers)

        return self._do("all_gather", job, [mine for _, mine in pairs], outs, result, opts, alone)

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        """outputs[i] becomes the reduction of this rank's piece of everybody's inputs[i], which stay as they are."""
        wholes, places = flats(inputs), flats(outputs, fill=False)
        for whole, place in zip(wholes, places, strict=True):
            self._check_size(whole.numbers, place.numbers, "reduce_scatter")
        pairs = [(cut(whole.numbers, [], self.size()), place) for whole, place in zip(wholes, places, strict=True)]
        return self._scatter_sums(pairs, wholes, outputs, opts)

    def _scatter_sums(
        self, pairs: Sequence[tuple[list[Tensor], Flat]], ins: Sequence[Flat], result: list[Tensor], opts: Any
    ) -> Work:
        """Each pair: this rank's parts for everybody, and the place for its own sum."""
        opts = opts or dist.ReduceScatterOptions()
        op = op_name(opts.reduceOp)
        sums = [([addable(shard, op) for shard in shards], addable(out.numbers, op)) for shards, out in pairs]
        for _, into in sums:
            fold_of(op, into.dtype)

        def job(ring: Collectives) -> None:
            for shards, into in sums:
                ring.reduce_scatter(shards, into, op)

        def alone() -> None:
            for shards, into in sums:
                into.copy_(shards[0])

        return self._do("reduce_scatter", job, ins, [out for _, out in pairs], result, opts, alone)

    def _kept(self, work: Work) -> Work:
        if self._works is not None:
            self._works.append(work)
        return work

    def _start_coalescing(self, _: torch.device | None = None) -> None:
        """c10d: the works begun from now on count as one. They run as they come; nothing is delayed."""
        if self._works is not None:
            raise ValueError("the group is coalescing already")
        self._works = []

    def _end_coalescing(self, _: torch.device | None = None) -> Work:
        """c10d: the one work for all that were begun since."""
        works, self._works = self._works, None
        if works is None:
            raise ValueError("the group is not coalescing")
        return Together(works)

    # The same under torch's older names.
    allgather_into_tensor_coalesced = all_gather_single_coalesced  # type: ignore[assignment]
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced  # type: ignore[assignment]


class Together(Work):
    """Several works as one: done when all are, failed when one is."""

    def __init__(self, works: Sequence[Work]) -> None:
        super().__init__(Lane("together"), lambda: None, [tensor for work in works for tensor in work.result()])
        self._works = tuple(works)

    def join(self) -> None:
        """Wait for all of them."""
        for work in self._works:
            work.join()

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait for all; the first error there is."""
        return all(work.wait(timeout) for work in self._works)

    def raise_error(self) -> None:
        """Raise the first error there is."""
        for work in self._works:
            work.raise_error()

    def is_completed(self) -> bool:
        """Whether all ended."""
        return all(work.is_completed() for work in self._works)

    def is_success(self) -> bool:
        """Whether all ended well."""
        return all(work.is_success() for work in self._works)

    def exception(self) -> BaseException | None:
        """The first error there is."""
        return next((work.exception() for work in self._works if work.exception() is not None), None)

    def get_future(self) -> torch.futures.Future[Any]:
        """A future of all results."""
        if self._future is None:
            all_done = torch.futures.collect_all([work.get_future() for work in self._works])
            self._future = all_done.then(self._outcome)
        return self._future
