"""How many samples of the global batch each rank takes."""

from __future__ import annotations

from collections.abc import Sequence


def shares(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Cut `total` in whole parts as near to the weights as they go: largest remainders first, then lower ranks.

    Every part is at least 1 where the total allows it; the sum is `total` exactly.
    """
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    parts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda rank: (parts[rank] - exact[rank], rank))
    for rank in by_remainder[: total - sum(parts)]:
        parts[rank] += 1
    if total >= len(parts):
        while 0 in parts:
            parts[parts.index(max(parts))] -= 1
            parts[parts.index(0)] += 1
    return tuple(parts)
