"""State that lies in flat pieces, by parameter name: what the slices of slices.py are views of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from smolcluster.runtime.slices import Box, Slice, boxes_of
from smolcluster.strategies.flat import Layout

Range = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """The values of a half-open range of a layout's line, 1-D: of parameters, gradients or an optimizer's moments."""

    start: int
    stop: int
    values: torch.Tensor


def slices_of(layout: Layout, label: str, pieces: Iterable[Piece], within: Iterable[Range] | None) -> Iterator[Slice]:
    """The pieces cut by parameter and box, the parts of them that lie in the ranges `within` (None: all of them).

    A slice is called `label.format(parameter's name)`.
    """
    ranges = [(0, layout.length)] if within is None else list(within)
    for piece in pieces:
        for first, last in ranges:
            for span in layout.spans:
                start, stop = max(first, piece.start, span.start), min(last, piece.stop, span.stop)
                if start >= stop:
                    continue
                shape, name = tuple(span.parameter.shape), label.format(span.name)
                at = start - piece.start
                for box in boxes_of(shape, start - span.start, stop - span.start):
                    size = math.prod(box.sizes)
                    yield Slice(name, shape, box, piece.values[at : at + size].view(box.sizes))
                    at += size


def whole_slices(tensors: Mapping[str, torch.Tensor]) -> Iterator[Slice]:
    """Tensors that are not cut."""
    for name, value in tensors.items():
        shape = tuple(value.shape)
        yield Slice(name, shape, Box((0,) * len(shape), shape), value)
