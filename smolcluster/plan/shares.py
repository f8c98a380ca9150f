"""How many samples of the global batch each rank takes: by given weights, or by what a sample costs each."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

# Strategies whose step is as slow as the slowest share. A star's workers wait for nobody, or only so long; of mp the
# layers are shared out.
EVERYBODY_WAITS = ("classicdp", "fsdp", "diloco")


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


@dataclass(frozen=True)
class Cost:
    """What a step costs a rank, in seconds: a sample's forward and backward, what comes once a step, and what comes
    once a micro-batch however thin it is (`pass_s`; a step has `micros` of them at most).
    """

    sample_s: float
    update_s: float = 0.0
    pass_s: float = 0.0
    micros: int = 1

    def compute_s(self, samples: int) -> float:
        """Forward and backward of so many samples."""
        return min(self.micros, samples) * self.pass_s + samples * self.sample_s

    def step_s(self, samples: int) -> float:
        """A step with so many samples, without communication."""
        return self.update_s + self.compute_s(samples)


def quickest(total: int, costs: Sequence[Cost]) -> tuple[int, ...]:
    """Whole parts of `total` with which the slowest rank is as quick as it can be; of equal ranks the lower has more.

    Every part is at least 1 where the total allows it. Each sample goes to whom it makes the least late, which is
    the best there is: a step only grows with its samples.
    """
    first = 1 if total >= len(costs) else 0
    parts = [first] * len(costs)
    late = [(cost.step_s(first + 1), rank) for rank, cost in enumerate(costs)]
    heapq.heapify(late)
    for _ in range(total - first * len(costs)):
        _, rank = late[0]
        parts[rank] += 1
        heapq.heapreplace(late, (costs[rank].step_s(parts[rank] + 1), rank))
    return tuple(parts)
