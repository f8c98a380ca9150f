"""How long a step of a data parallel strategy will take, from measured speeds. Pure arithmetic; no torch.

Gradients leave in buckets while backward goes on. A rank's collectives run one after the other, so what a step takes is
a line of events: a bucket leaves when backward has come to it and the one before it is through. Through means, for one
pass (a reduce-scatter or an all-gather) of a bucket over N ranks,

    its bytes, (N-1)/N of them, over the slowest link in use · half a round trip for each of the N-1 hops

int8 goes straight to each owner instead of around: one hop. When all has come the ranks exchange a few numbers (as many
hops again), and stages 1 and 2 gather the new parameters bucket by bucket. Stage 3 gathers a unit while the one before
it computes. A step's computing is the slowest rank's.

Under a staleness bound K nobody waits for the exchange of a step before K more are computed: then a step takes

    the most of   compute_s · wire_s, as one is sent while another is computed · 1/(K + 1) of one after the other

where a round trip is paid once, for a gradient there and weights back. Of K = 0 that would be the sum. Fences, at which
all wait for each other, are not counted.

It does not know of other work on the machines or wires: what was measured while the others computed and sent has that
in it. It is for choosing between machines, and good for that as far as the links are alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from smolcluster.plan.buckets import bucket_lengths, frame_bytes, unit_lengths
from smolcluster.plan.shares import Cost
from smolcluster.plan.traffic import rows_apart
from smolcluster.spec.run import RunSpec, WireFormat

# From one machine to another: Mbit/s and round trip in milliseconds.
Link = tuple[float, float]
Links = Callable[[str, str], Link]

# Backward is about twice the work of forward.
BACKWARD = 2 / 3


@dataclass(frozen=True)
class Prediction:
    """Seconds of one step: `compute_s` of the slowest rank, `wire_s` that all wait for besides."""

    compute_s: float
    wire_s: float

    @property
    def step_s(self) -> float:
        """All of it."""
        return self.compute_s + self.wire_s


@dataclass(frozen=True)
class Way:
    """What every pass has to go over: the slowest link in use, the longest round trip, how many hops one pass is."""

    mbps: float
    rtt_s: float
    hops: int

    def pass_s(self, sent_bytes: float, hops: int | None = None) -> float:
        """Seconds of one pass in which each rank sends so much."""
        return sent_bytes * 8 / (self.mbps * 1e6) + (self.hops if hops is None else hops) * self.rtt_s / 2


def predict(
    run: RunSpec, params: int, wire: WireFormat, nodes: Sequence[str], costs: Sequence[Cost], samples: Sequence[int],
    links: Links, busy: Links | None = None,
) -> Prediction:  # fmt: skip
    """A step of ranks on those machines, in rank order, each with its samples. `busy`: the links while all compute."""
    count, bound = len(nodes), run.staleness_bound
    sharded = count if (run.strategy == "fsdp" and run.fsdp_stage >= 1) or bound else 1
    compute_s, mine_s = max(
        (cost.update_s / sharded + cost.compute_s(mine), cost.compute_s(mine))
        for cost, mine in zip(costs, samples, strict=True)
    )
    if count == 1:
        return Prediction(compute_s, 0.0)
    straight = wire == "int8" or bound > 0
    way = way_of(nodes, links, straight)
    behind = way_of(nodes, busy or links, straight)
    lengths = bucket_lengths(params, count)
    if bound:
        shard = sum(lengths) // count
        sending_s = behind.pass_s(2 * (count - 1) * frame_bytes(wire, shard), 0)
        in_turn_s = compute_s + sending_s + behind.rtt_s
        return Prediction(compute_s, max(compute_s, sending_s, in_turn_s / (bound + 1)) - compute_s)
    # The tally of a step, and of a tied embedding the rows that were looked up: one all-gather each.
    after_s = way.pass_s(0, count - 1)
    if rows := rows_apart(run, wire, samples):
        after_s += way.pass_s((count - 1) * rows, count - 1)
    stage = run.fsdp_stage if run.strategy == "fsdp" else 0
    passes = [(_pass_s(behind, wire, length, count), _pass_s(way, wire, length, count)) for length in lengths]
    if stage == 3:
        units = unit_lengths(run.model, count, parted=rows > 0)
        # Before it begins the ranks tell each other how many micro-batches they have.
        passes = [(_pass_s(behind, wire, n, count), _pass_s(way, wire, n, count)) for n, _ in units]
        wire_s = _by_units(passes, [times for _, times in units], mine_s)
        return Prediction(compute_s, wire_s + after_s + way.pass_s(0, count - 1))
    ready = [through / sum(lengths) for through in accumulate(lengths)]
    if stage:
        return Prediction(compute_s, _behind(passes, ready, mine_s) + after_s + sum(idle for _, idle in passes))
    return Prediction(compute_s, _behind([(2 * slow, 2 * idle) for slow, idle in passes], ready, mine_s) + after_s)


def way_of(nodes: Sequence[str], links: Links, straight: bool) -> Way:
    """What the passes of these ranks go over: around a ring, or `straight` from everybody to everybody."""
    used = [links(a, b) for a, b in _ways(nodes, everybody=straight)]
    slowest, longest_ms = min(mbps for mbps, _ in used), max(rtt for _, rtt in used)
    return Way(slowest, longest_ms / 1000, 1 if straight else len(nodes) - 1)


def exchange_s(wire: WireFormat, params: int, way: Way, count: int) -> float:
    """Seconds in which all ranks sum a flat model, and nobody computes."""
    return sum(2 * _pass_s(way, wire, length, count) for length in bucket_lengths(params, count))


def _pass_s(way: Way, wire: WireFormat, length: int, count: int) -> float:
    return way.pass_s((count - 1) * frame_bytes(wire, length // count))


def _behind(passes: Sequence[tuple[float, float]], ready: Sequence[float], mine_s: float) -> float:
    """Seconds from the end of backward until the last bucket is through; each is `ready` after a part of backward, and
    takes (while that goes on, when it is over) so long.
    """
    forward_s, backward_s = (1 - BACKWARD) * mine_s, BACKWARD * mine_s
    through = 0.0
    for (slow_s, idle_s), part in zip(passes, ready, strict=True):
        through = _ends(max(through, forward_s + backward_s * part), (slow_s, idle_s), mine_s)
    return through - mine_s


def _ends(began: float, takes: tuple[float, float], until: float) -> float:
    """When a pass is through that takes so long while ranks compute, which they do `until` then, and so long when they
    do not.
    """
    slow_s, idle_s = takes
    if began + slow_s <= until:
        return began + slow_s
    left = 1.0 - max(0.0, until - began) / slow_s if slow_s else 0.0
    return max(began, until) + left * idle_s


def _by_units(passes: Sequence[tuple[float, float]], times: Sequence[int], mine_s: float) -> float:
    """Seconds that stage 3 waits: each unit is gathered while the one before it computes, blocks in backward once more;
    a unit's gradients are scattered when the one after it has been gathered. Units compute alike long.

    `passes`: of each unit, while ranks compute and when they do not; `times` it is gathered.
    """
    count = len(passes)
    forward_s, backward_s = (1 - BACKWARD) * mine_s / count, BACKWARD * mine_s / count
    gathered = list(passes)
    # What is read at both ends is gathered for both, and stays from the loss to backward.
    both = [passes[end] for end in (0, -1) if times[end] > 1]
    twice = -1 if times[0] > 1 else 0
    gathered[twice] = _sum((gathered[twice], *both))
    lane = now = 0.0
    for takes in gathered:
        lane = _ends(lane, takes, now)
        now = max(now, lane) + forward_s
    lane, blocks = now, range(1, count - 1)
    for number in reversed(range(count)):
        ready, computed = now, now + backward_s
        if number - 1 in blocks:
            ready = lane = _ends(max(lane, now), passes[number - 1], computed)
        now = max(computed, ready)
        # While the next unit computes, where there is one.
        lane = _ends(max(lane, computed), passes[number], now + backward_s if number else computed)
    return max(now, lane) - mine_s


def _sum(passes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(slow for slow, _ in passes), sum(idle for _, idle in passes)


def _ways(nodes: Sequence[str], everybody: bool) -> set[tuple[str, str]]:
    """The pairs that send to each other: neighbours in the ring, or everybody to everybody."""
    if not everybody:
        return set(zip(nodes, [*nodes[1:], nodes[0]], strict=True))
    ranks = Counter(nodes)
    return {(a, b) for a in ranks for b in ranks if a != b or ranks[a] > 1}
