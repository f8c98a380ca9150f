"""One micro-batch's way through the units of a model whose parameters are sharded: what is gathered and freed when.

Forward: while a unit computes, the next one's parameters travel; then it is freed. Backward: the same from the last
unit (which stays whole meanwhile) to the first, and each unit's gradients leave when it is done. Where the computation
is, is known from calls of modules (forward) and from autograd asking for the weights it saved or handing over gradients
(backward). All of that only decides **when** this rank issues its next collective. Which one it is follows from the
units alone, so ranks meet even if autograd takes another order on one, or if one has nothing to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from smolcluster.strategies.flat import Bucket
from smolcluster.strategies.fsdp.units import Reading, UnitParameters


@dataclass(frozen=True)
class _Loan:
    """What autograd keeps instead of a weight: which bucket it is a view of, where, and in which unit it was read."""

    unit: int
    bucket: Bucket
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


class Passage:
    """`flush(end)` makes the buckets before number `end` complete (None: all), as GradientStream does. It, or whoever
    completes one, then calls `leave`."""

    def __init__(
        self, units: Sequence[Reading], parameters: UnitParameters, flush: Callable[[int | None], None]
    ) -> None:
        self._units = units
        self._parameters = parameters
        self._flush = flush
        self._last = len(units) - 1
        self._at = self._last  # the unit whose forward goes on
        self._back = -1  # the unit whose backward goes on
        self._trains = False
        self._forwards = False  # a forward pass goes on
        # The first unit begins with the pass, not with a call.
        self._hooks = [
            unit.opens.register_forward_pre_hook(self._opener(number))
            for number, unit in enumerate(units)
            if number > 0
        ]

    def start(self, trains: bool) -> None:
        """Begin a forward pass; `trains`: a backward will follow."""
        self._trains, self._forwards = trains, True
        self._at, self._back = -1, self._last
        self._fetch(0)
        self._forward_to(0)

    def lending(self) -> saved_tensors_hooks:
        """A context for the forward pass: autograd saves loans, not weights, so that freeing a unit frees memory."""
        return saved_tensors_hooks(self._lend, self._give)

    def finish_forward(self) -> None:
        """Go through the units this rank did not compute. Without a backward, free what is left."""
        self._forward_to(self._last)
        self._forwards = False
        if not self._trains:
            self._free(self._last, but=None)

    def leave(self, bucket: Bucket) -> None:
        """The gradients of a bucket are complete: backward leaves the unit that owns it, and those after it."""
        while bucket not in self._units[self._back].own:
            self._back_one()
        self._back_one()

    def finish_backward(self) -> None:
        """Go through the units that have nothing of their own."""
        while self._back >= 0:
            self._back_one()

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    # -- forward --------------------------------------------------------------------------------------------------

    def _opener(self, number: int) -> Callable[[nn.Module, Any], None]:
        def opens(_: nn.Module, __: Any) -> None:
            if self._forwards:
                self._forward_to(number)
            else:
                # Activation checkpointing: backward has come to a unit whose forward it computes again.
                self._back_to(number)
                for bucket in self._units[number].reads:
                    self._parameters.ready(bucket)

        return opens

    def _forward_to(self, number: int) -> None:
        while self._at < number:
            self._at += 1
            if self._at > 0:
                self._free(self._at - 1, but=self._at)
            if self._at < self._last:
                self._fetch(self._at + 1)
            elif self._trains:
                self._fetch_again(self._at - 1)
            for bucket in self._units[self._at].reads:
                self._parameters.ready(bucket)

    # -- backward -------------------------------------------------------------------------------------------------

    def _back_one(self) -> None:
        """Backward has left the unit it was in."""
        before = self._back - 1  # its parameters were fetched when backward came to this one
        self._free(self._back, but=before if before >= 0 and self._units[before].reread else None)
        self._fetch_again(before - 1)
        self._back = before

    def _back_to(self, number: int) -> None:
        """Autograd has come to a unit, so it is done with those behind it."""
        if self._back > number:
            here = [bucket.index for unit in self._units[: number + 1] for bucket in unit.own]
            self._flush(min(here, default=None))
            while self._back > number:
                self._back_one()

    def _lend(self, tensor: torch.Tensor) -> torch.Tensor | _Loan:
        bucket = self._parameters.find(tensor)
        if bucket is None:
            return tensor
        return _Loan(self._at, bucket, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def _give(self, saved: torch.Tensor | _Loan) -> torch.Tensor:
        if isinstance(saved, torch.Tensor):
            return saved
        self._back_to(saved.unit)
        self._parameters.ready(saved.bucket)
        whole = self._parameters.whole(saved.bucket)
        if whole is None:
            raise RuntimeError(f"backward reads a weight of unit {saved.unit} again: see Model.shard_units, `reread`")
        return whole.as_strided(saved.shape, saved.stride, saved.offset)

    # -- memory ---------------------------------------------------------------------------------------------------

    def _fetch(self, number: int) -> None:
        for bucket in self._units[number].reads:
            # What is not trained on is measured: the model as it is saved.
            self._parameters.fetch(bucket, exact=not self._trains)

    def _fetch_again(self, number: int) -> None:
        if number >= 0 and self._units[number].reread:
            self._fetch(number)

    def _free(self, number: int, but: int | None) -> None:
        """Free what a unit reads, except what unit `but` reads too."""
        kept = self._units[but].reads if but is not None else ()
        for bucket in self._units[number].reads:
            if bucket not in kept:
                self._parameters.free(bucket)
