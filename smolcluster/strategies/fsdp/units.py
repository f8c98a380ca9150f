"""Parameters that exist whole only while a unit of the model uses them (ZeRO stage 3).

`UnitParameters` is the memory: shards for good, whole buckets between `fetch` and `free`. `Passage` walks through a
forward and a backward pass and decides when to do either; every rank walks the same way, so collectives meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from smolcluster.models.units import ShardUnit
from smolcluster.runtime.device import Collectives, Pending
from smolcluster.strategies.flat import Bucket, Layout, Named, trainable
from smolcluster.strategies.gathers import Gathers
from smolcluster.strategies.pieces import Piece


@dataclass(frozen=True)
class Reading:
    """A unit in terms of buckets. `own`: those that hold the parameters no earlier unit has; `reads`: all it needs."""

    opens: nn.Module
    reads: tuple[Bucket, ...]
    own: tuple[Bucket, ...]
    reread: bool


def readings_of(model: nn.Module, world_size: int, parted: str | None = None) -> tuple[Layout, tuple[Reading, ...]]:
    """A bucket for each unit of the model, last unit first, and the units in the order of the forward pass.

    A parameter of several units is the first one's, whose backward completes its gradient. `parted` is one whose first
    readers' gradients travel apart (lookups.py): the last unit's backward completes what is left. A model without
    `shard_units` is one unit. ValueError if a parameter belongs to no unit.
    """
    shard_units = getattr(model, "shard_units", None)
    units = cast("Sequence[ShardUnit]", shard_units() if shard_units else (ShardUnit(model, (model,)),))
    named, groups = trainable(model), []
    late = dict(named)[parted] if parted is not None else None
    owner: dict[nn.Parameter, int] = {}
    for number, unit in enumerate(units):
        inside = {parameter for module in unit.modules for parameter in module.parameters()}
        readers = inside if number == len(units) - 1 else {p for p in inside if p is not late}
        group: list[Named] = [(name, p) for name, p in named if p in readers and p not in owner]
        owner.update((parameter, number) for _, parameter in group)
        groups.append(group[::-1])
    lost = [name for name, parameter in named if parameter not in owner]
    if lost:
        raise ValueError(f"{lost[0]} belongs to no shard unit: see {type(model).__name__}.shard_units")
    layout = Layout(groups[::-1], world_size)
    bucket_of = {owner[layout.spans_in(bucket)[0].parameter]: bucket for bucket in layout.buckets}
    readings = []
    for number, unit in enumerate(units):
        inside = {parameter for module in unit.modules for parameter in module.parameters()}
        numbers = sorted({owner[parameter] for parameter in inside if parameter in owner})
        own = (bucket_of[number],) if number in bucket_of else ()
        readings.append(Reading(unit.opens, tuple(bucket_of[n] for n in numbers), own, unit.reread))
    return layout, tuple(readings)


class UnitParameters:
    """The parameters of a layout: this rank's shards, and the buckets that are whole at the moment.

    A bucket that is not whole has no memory: its parameters are one NaN that looks as large as they are, so whoever
    reads them out of turn gets a loss that is not finite, never numbers that happen to be there.
    """

    def __init__(self, layout: Layout, rank: int, collectives: Collectives, gathers: Gathers) -> None:
        self._layout = layout
        self._spans = [layout.spans_in(bucket) for bucket in layout.buckets]
        self._gathers = gathers
        self._nothing = torch.full((), torch.nan, dtype=layout.dtype, device=layout.device)
        self._whole: dict[int, torch.Tensor] = {}
        self._coming: dict[int, Pending] = {}
        self.pieces: list[Piece] = []
        for bucket in layout.buckets:
            whole = layout.zeros(bucket.stop - bucket.start)
            for span in self._spans[bucket.index]:
                whole[span.start - bucket.start : span.stop - bucket.start] = span.parameter.detach().flatten()
            collectives.broadcast(whole)
            start, stop = layout.shard_range(bucket, rank)
            self.pieces.append(Piece(start, stop, whole[start - bucket.start : stop - bucket.start].clone()))
            self.free(bucket)

    def fetch(self, bucket: Bucket, exact: bool = False) -> None:
        """Begin to gather a bucket, unless it is there or on its way. `exact`: in float32, whatever the wire format."""
        if bucket.index not in self._whole:
            whole = self._whole[bucket.index] = self._layout.empty(bucket.stop - bucket.start)
            self._coming[bucket.index] = self._gathers.fetch(whole, self.pieces[bucket.index].values, exact)

    def ready(self, bucket: Bucket) -> None:
        """Wait for a bucket that was fetched; its parameters are then what they should be."""
        pending = self._coming.pop(bucket.index, None)
        if pending is not None:
            pending.wait()
            whole = self._whole[bucket.index]
            for span in self._spans[bucket.index]:
                part = whole[span.start - bucket.start : span.stop - bucket.start]
                span.parameter.data = part.view(span.parameter.shape)

    def free(self, bucket: Bucket) -> None:
        """Let a whole bucket go. The memory goes when nobody looks at it any more: a collective, say."""
        self._coming.pop(bucket.index, None)
        self._whole.pop(bucket.index, None)
        for span in self._spans[bucket.index]:
            span.parameter.data = self._nothing.expand(span.parameter.shape)

    def find(self, tensor: torch.Tensor) -> Bucket | None:
        """The whole bucket that a tensor is a view of, if it is one."""
        address = tensor.untyped_storage().data_ptr()
        for index, whole in self._whole.items():
            if whole.data_ptr() == address and index not in self._coming:
                return self._layout.buckets[index]
        return None

    def whole(self, bucket: Bucket) -> torch.Tensor | None:
        """A bucket that is there, or on its way."""
        return self._whole.get(bucket.index)
