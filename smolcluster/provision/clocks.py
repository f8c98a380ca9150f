"""How far a clock is from ours, from questions whose answers took some time. Pure."""

from __future__ import annotations

# Seconds that a clock may certainly be off before anybody is told, by setup.yml and by check.yml. Training does not
# care; certificates and logs that are laid side by side do, and network time keeps a clock far better than that.
ALLOWED_S = 1.0


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


def is_off(offset_s: float, within_s: float, allowed_s: float = ALLOWED_S) -> bool:
    """Whether it is further off than is allowed, even if it was measured as badly as it may have been."""
    return abs(offset_s) - within_s > allowed_s
