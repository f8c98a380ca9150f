"""How long a step of a data parallel strategy will take, from measured speeds. Pure arithmetic; no torch.

A step is as slow as its slowest rank's computing, and what of the communication nothing hides:

    wire_s   bytes of a ring's optimum over the slowest link in use, and half a round trip for each of its hops
    hidden   the part that leaves while backward computes (two thirds of the computing), at most what there is to hide

Under a staleness bound K nobody waits for the exchange of a step before K more are computed: then a step takes

    the most of   compute_s · wire_s, as one is sent while another is computed · 1/(K + 1) of one after the other

where a round trip is paid once, for a gradient there and weights back. Of K = 0 that would be the sum. Fences, at which
all wait for each other, are not counted.

It does not know of other work on the machines or wires: what was measured while the others computed and sent has that
in it. It is for choosing between machines, and good for that as far as the links are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smolcluster.plan.shares import Cost
from smolcluster.spec.run import RunSpec, WireFormat

# From one machine to another: Mbit/s and round trip in milliseconds.
Link = tuple[float, float]
Links = Callable[[str, str], Link]

_BYTES: dict[WireFormat, float] = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.016}
# Backward is about twice the work of forward, and gradients leave while it runs, in so many buckets: the last one
# leaves when there is nothing left to hide it behind.
_BACKWARD = 2 / 3
_BUCKETS = 8


@dataclass(frozen=True)
class Prediction:
    """Seconds of one step: `compute_s` of the slowest rank, `wire_s` that all wait for besides."""

    compute_s: float
    wire_s: float

    @property
    def step_s(self) -> float:
        """All of it."""
        return self.compute_s + self.wire_s


def predict(
    run: RunSpec, params: int, wire: WireFormat, nodes: Sequence[str], costs: Sequence[Cost], samples: Sequence[int],
    links: Links,
) -> Prediction:  # fmt: skip
    """A step of ranks on those machines, in rank order, each with its samples."""
    count, bound = len(nodes), run.staleness_bound
    sharded = count if (run.strategy == "fsdp" and run.fsdp_stage >= 1) or bound else 1
    compute_s = max(cost.update_s / sharded + mine * cost.sample_s for cost, mine in zip(costs, samples, strict=True))
    if count == 1:
        return Prediction(compute_s, 0.0)
    stage = run.fsdp_stage if run.strategy == "fsdp" else 0
    # Reduce-scatter and all-gather of gradients and parameters; stage 3 gathers parameters twice.
    passes = 3 if stage == 3 else 2
    used = [links(a, b) for a, b in _ways(nodes, everybody=wire == "int8" or bound > 0)]
    slowest_mbps, longest_ms = min(mbps for mbps, _ in used), max(rtt for _, rtt in used)
    sent = passes * (count - 1) / count * params * _BYTES[wire]
    sending_s = sent * 8 / (slowest_mbps * 1e6)
    if bound:
        in_turn_s = compute_s + sending_s + longest_ms / 1000
        return Prediction(compute_s, max(compute_s, sending_s, in_turn_s / (bound + 1)) - compute_s)
    hops = passes * (count - 1) * _BUCKETS
    wire_s = sending_s + hops * longest_ms / 2000
    # Stages 1 to 3 gather parameters when backward is over or has not begun: that part is seen in full.
    leaving = {0: 1.0, 1: 1 / 2, 2: 1 / 2, 3: 1 / 3}[stage] * (_BUCKETS - 1) / _BUCKETS
    hidden = min(wire_s * leaving, compute_s * _BACKWARD)
    return Prediction(compute_s, wire_s - hidden)


def _ways(nodes: Sequence[str], everybody: bool) -> list[tuple[str, str]]:
    """The pairs that send to each other: neighbours in the ring, or everybody to everybody."""
    if everybody:
        return [(a, b) for i, a in enumerate(nodes) for j, b in enumerate(nodes) if i != j]
    return [(node, nodes[(rank + 1) % len(nodes)]) for rank, node in enumerate(nodes)]
