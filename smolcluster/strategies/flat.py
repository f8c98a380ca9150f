"""A model's trainable parameters as one line of numbers, cut into buckets that divide evenly by rank.

`Layout` is that line without any memory: who lies where. Parameters lie in the **reverse** order of their use, which is
about the order in which backward finishes their gradients; a tied one appears once. Buckets are cut by size, through
parameters too, never across a group. `FlatParameters` is a layout with all parameters in one buffer: the module keeps
its own, they become views of it, so that a collective or an optimizer over a range changes the model with no copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from smolcluster.plan.buckets import ALIGN_ELEMENTS

Named = tuple[str, nn.Parameter]


@dataclass(frozen=True)
class Span:
    """One parameter and the half-open range of elements it has in the line."""

    name: str
    parameter: nn.Parameter
    start: int
    stop: int


@dataclass(frozen=True)
class Bucket:
    """A half-open range of the line that travels as one. Its length divides by the world size."""

    index: int
    start: int
    stop: int


class Layout:
    """Where each parameter lies, in `length` elements of one dtype and device.

    groups: parameters that lie together, in order; each group is padded to whole shards and cut into buckets of about
    `bucket_bytes` (None: one). `spans`, `buckets`: in order.
    """

    def __init__(self, groups: Sequence[Sequence[Named]], world_size: int, bucket_bytes: int | None = None) -> None:
        named = [pair for group in groups for pair in group]
        if not named:
            raise ValueError("the model has no parameter to train")
        first = named[0][1]
        odd = [name for name, p in named if p.dtype != first.dtype or p.device != first.device]
        if odd:
            raise ValueError(f"parameters of one dtype and device were expected; {odd[0]} differs from {named[0][0]}")
        self.world_size = world_size
        self.dtype, self.device = first.dtype, first.device
        spans: list[Span] = []
        buckets: list[Bucket] = []
        grain = world_size * ALIGN_ELEMENTS
        start = 0
        for group in groups:
            spans += self._lay_out(group, start)
            stop = start + math.ceil(sum(p.numel() for _, p in group) / grain) * grain
            size = bucket_bytes // first.element_size() // grain * grain if bucket_bytes is not None else stop - start
            for at in range(start, stop, max(grain, size)):
                buckets.append(Bucket(len(buckets), at, min(at + max(grain, size), stop)))
            start = stop
        self.spans, self.buckets, self.length = tuple(spans), tuple(buckets), start

    @staticmethod
    def _lay_out(group: Sequence[Named], start: int) -> list[Span]:
        spans = []
        for name, parameter in group:
            spans.append(Span(name, parameter, start, start + parameter.numel()))
            start += parameter.numel()
        return spans

    def spans_in(self, bucket: Bucket) -> tuple[Span, ...]:
        """The parameters that lie in a bucket, wholly or in part."""
        return tuple(span for span in self.spans if bucket.start < span.stop and span.start < bucket.stop)

    def shard_range(self, bucket: Bucket, rank: int) -> tuple[int, int]:
        """The half-open range of rank's even share of a bucket."""
        size = (bucket.stop - bucket.start) // self.world_size
        return bucket.start + rank * size, bucket.start + (rank + 1) * size

    def empty(self, elements: int) -> torch.Tensor:
        """Room for so many elements, 1-D, of the parameters' dtype and on their device."""
        return torch.empty(elements, dtype=self.dtype, device=self.device)

    def zeros(self, elements: int) -> torch.Tensor:
        """The same, cleared."""
        return torch.zeros(elements, dtype=self.dtype, device=self.device)


class FlatParameters(Layout):
    """A layout whose parameters all lie in one buffer: `params`, 1-D, padded with zeros.

    `first`: the name of one that comes before the others, since its gradient does.
    """

    def __init__(self, model: nn.Module, world_size: int, bucket_bytes: int, first: str | None = None) -> None:
        named = trainable(model)[::-1]
        named.sort(key=lambda pair: pair[0] != first)
        super().__init__([named], world_size, bucket_bytes)
        self.params = self.zeros(self.length)
        for span in self.spans:
            view = self.params[span.start : span.stop].view(span.parameter.shape)
            view.copy_(span.parameter.detach())
            span.parameter.data = view

    def bucket(self, buffer: torch.Tensor, bucket: Bucket) -> torch.Tensor:
        """The bucket's elements of a buffer as long as the line, 1-D."""
        return buffer[bucket.start : bucket.stop]

    def shard(self, buffer: torch.Tensor, bucket: Bucket, rank: int) -> torch.Tensor:
        """Rank's even share of a bucket of such a buffer, 1-D."""
        start, stop = self.shard_range(bucket, rank)
        return buffer[start:stop]


def trainable(model: nn.Module) -> list[Named]:
    """The parameters that get gradients, by name, in the order of registration."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
