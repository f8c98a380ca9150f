"""A model's parameters in one flat buffer, their gradients in another, cut into buckets that divide evenly by rank.

The module keeps its own parameters: they become views of the buffer, so that a collective or an optimizer over a range
of it changes the model with no copy. Parameters lie in **reverse** order of registration, which is about the order in
which backward finishes their gradients; a tied one appears once. Buckets are cut by size, through parameters too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

# Shards start on cache lines: 16 floats of 4 bytes.
ALIGN_ELEMENTS = 16


@dataclass(frozen=True)
class Span:
    """One parameter and the half-open range of elements it has in the flat buffers."""

    name: str
    parameter: nn.Parameter
    start: int
    stop: int


@dataclass(frozen=True)
class Bucket:
    """A half-open range of the flat buffers that travels as one. Its length divides by the world size."""

    index: int
    start: int
    stop: int


class FlatParameters:
    """Flat buffers of a model's trainable parameters.

    `params`, `grads`: 1-D, of equal length, padded with zeros to whole shards. `spans`, `buckets`: in buffer order.
    """

    def __init__(self, model: nn.Module, world_size: int, bucket_bytes: int) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad][::-1]
        if not named:
            raise ValueError("the model has no parameter to train")
        first = named[0][1]
        odd = [name for name, p in named if p.dtype != first.dtype or p.device != first.device]
        if odd:
            raise ValueError(f"parameters of one dtype and device were expected; {odd[0]} differs from {named[0][0]}")
        self.world_size = world_size
        self.spans = self._lay_out(named)
        used = self.spans[-1].stop
        grain = world_size * ALIGN_ELEMENTS
        length = math.ceil(used / grain) * grain
        self.params = torch.zeros(length, dtype=first.dtype, device=first.device)
        self.grads = torch.zeros_like(self.params)
        self.buckets = self._cut(length, max(grain, bucket_bytes // first.element_size() // grain * grain))
        for span in self.spans:
            view = self.view(self.params, span)
            view.copy_(span.parameter.detach())
            span.parameter.data = view

    @staticmethod
    def _lay_out(named: list[tuple[str, nn.Parameter]]) -> tuple[Span, ...]:
        spans, start = [], 0
        for name, parameter in named:
            spans.append(Span(name, parameter, start, start + parameter.numel()))
            start += parameter.numel()
        return tuple(spans)

    @staticmethod
    def _cut(length: int, size: int) -> tuple[Bucket, ...]:
        starts = range(0, length, size)
        return tuple(Bucket(i, start, min(start + size, length)) for i, start in enumerate(starts))

    def view(self, buffer: torch.Tensor, span: Span) -> torch.Tensor:
        """The span's elements of a flat buffer, in the parameter's shape."""
        return buffer[span.start : span.stop].view(span.parameter.shape)

    def bucket(self, buffer: torch.Tensor, bucket: Bucket) -> torch.Tensor:
        """The bucket's elements of a flat buffer, 1-D."""
        return buffer[bucket.start : bucket.stop]

    def shard_range(self, bucket: Bucket, rank: int) -> tuple[int, int]:
        """The half-open range of rank's even share of a bucket."""
        size = (bucket.stop - bucket.start) // self.world_size
        return bucket.start + rank * size, bucket.start + (rank + 1) * size

    def shard(self, buffer: torch.Tensor, bucket: Bucket, rank: int) -> torch.Tensor:
        """Rank's even share of a bucket of a flat buffer, 1-D."""
        start, stop = self.shard_range(bucket, rank)
        return buffer[start:stop]
