"""Pieces of named tensors: how state that lies in flat shards is given out and taken back by parameter name.

A flat interval of a row-major tensor is at most 2d-1 N-dimensional boxes, each of them contiguous. So a shard can stay
flat in memory while whoever stores it sees "rows 0 to 40 of wte.weight", which any other layout can read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

# How names of state begin that has to do with the wire format alone, and so with one way to run.
CARRIED = "wire."


@dataclass(frozen=True)
class Box:
    """A part of a tensor: `offset` and `sizes` per dimension (both empty for a scalar)."""

    offset: tuple[int, ...]
    sizes: tuple[int, ...]

    def within(self, outer: Box) -> tuple[slice, ...]:
        """Index of this box in a tensor that holds `outer`, which contains it."""
        starts = (mine - its for mine, its in zip(self.offset, outer.offset, strict=True))
        return tuple(slice(start, start + size) for start, size in zip(starts, self.sizes, strict=True))


@dataclass(frozen=True)
class Slice:
    """A box of the tensor called `name`, whose whole shape is `shape`. `tensor` is live: a view of the state itself."""

    name: str
    shape: tuple[int, ...]
    box: Box
    tensor: torch.Tensor


def boxes_of(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """The half-open interval of a row-major tensor's elements, as contiguous boxes in order.

    boxes_of((4, 3), 2, 10) gives the last element of row 0, rows 1 and 2, the first element of row 3.
    """
    if start >= stop:
        return
    if len(shape) <= 1:
        yield Box((start,) * len(shape), (stop - start,) * len(shape))
        return
    inner = shape[1:]
    row = math.prod(inner)
    first_whole, end_whole = -(-start // row), stop // row
    if first_whole > end_whole:  # all of it inside one row
        yield from _in_row(end_whole, inner, start - end_whole * row, stop - end_whole * row)
        return
    yield from _in_row(first_whole - 1, inner, start - (first_whole - 1) * row, row) if start % row else ()
    if first_whole < end_whole:
        yield Box((first_whole, *(0 for _ in inner)), (end_whole - first_whole, *inner))
    yield from _in_row(end_whole, inner, 0, stop - end_whole * row)


def _in_row(row: int, inner: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    for box in boxes_of(inner, start, stop):
        yield Box((row, *box.offset), (1, *box.sizes))


def overlap(a: Box, b: Box) -> Box | None:
    """What two boxes of one tensor share, or None."""
    starts = tuple(max(x, y) for x, y in zip(a.offset, b.offset, strict=True))
    ends = (min(x + n, y + m) for x, n, y, m in zip(a.offset, a.sizes, b.offset, b.sizes, strict=True))
    sizes = tuple(end - start for start, end in zip(starts, ends, strict=True))
    return Box(starts, sizes) if all(size > 0 for size in sizes) else None


def is_carried(name: str) -> bool:
    """Whether it belongs to how a run's numbers travelled, and may be missing: training goes on without it."""
    return name.startswith(CARRIED)


def fill(held: Iterable[Slice], given: Iterable[Slice]) -> frozenset[str]:
    """Copy into what is held all that is given of it. The two may be cut differently.

    ValueError if a shape disagrees or if the given slices leave an element of what is held unset. Given slices must not
    overlap one another. Of what `is_carried` nothing at all may be given: the names of that are the result.
    """
    places: dict[str, list[Slice]] = {}
    for place in held:
        places.setdefault(place.name, []).append(place)
    missing = {name: sum(place.tensor.numel() for place in parts) for name, parts in places.items()}
    untouched = {name for name in places if is_carried(name)}
    for source in given:
        for place in places.get(source.name, ()):
            if place.shape != source.shape:
                raise ValueError(f"{source.name} has shape {source.shape} there and {place.shape} here")
            shared = overlap(place.box, source.box)
            if shared is not None:
                place.tensor[shared.within(place.box)] = source.tensor[shared.within(source.box)].to(
                    place.tensor.device
                )
                missing[source.name] -= math.prod(shared.sizes)
                untouched.discard(source.name)
    unset = sorted(name for name, count in missing.items() if count and name not in untouched)
    if unset:
        raise ValueError(f"no values were given for all of {', '.join(unset[:5])}{' ...' if len(unset) > 5 else ''}")
    return frozenset(untouched)
