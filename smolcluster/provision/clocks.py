"""How far a clock is from ours, from questions whose answers took some time. Pure."""

from __future__ import annotations


def bounds(asked: float, told: float, heard: float) -> tuple[float, float]:
    """The least and the most that a clock can be ahead, which told its time between two of ours. Seconds."""
    return told - heard, told - asked


def overlap(all_bounds: list[tuple[float, float]]) -> tuple[float, float]:
    """(offset, how far from it the truth may be) from the bounds of several questions. Where a clock was set in
    between, and they have nothing in common, the last one counts."""
    low, high = max(one[0] for one in all_bounds), min(one[1] for one in all_bounds)
    if low > high:
        low, high = all_bounds[-1]
    return (low + high) / 2, (high - low) / 2
