"""The three shapes of a run: who talks to whom, by rank."""

from __future__ import annotations

from typing import Literal

Shape = Literal["MESH", "STAR", "CHAIN"]


def neighbours(shape: Shape, rank: int, world_size: int) -> tuple[int, ...]:
    """The ranks that `rank` has a link with, ascending. MESH: all others; STAR: rank 0 and each other; CHAIN: a row."""
    if shape == "MESH":
        return tuple(other for other in range(world_size) if other != rank)
    if shape == "STAR":
        return tuple(range(1, world_size)) if rank == 0 else (0,)
    return tuple(other for other in (rank - 1, rank + 1) if 0 <= other < world_size)
