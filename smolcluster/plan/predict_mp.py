"""How long a step takes whose layers are split over ranks (mp, one forward and one backward in turn). Pure.

    fill and drain   one micro-batch's way through all stages and back, hops included
    then             M - 1 more, each a period apart
    at the end       a tied embedding's gradient between the ends, a few numbers of all ranks, the slowest update

A period is as long as the slowest stage's forward and backward, or its hop over the wire; and at least, for each stage,
the way from there to the last and back, over the micro-batches that are alive in it at once (S - s): over a slow wire
it is the round trip that all wait for. With even stages and no wire that is the textbook's (S - 1 + M) x (f + b).

A hop costs its bytes over that link and half a round trip; while one travels the next micro-batch is computed.

Of several pipelines the slowest counts; then the replicas of a stage sum its gradients around a ring, of which the last
micro-batch's backward would hide a part; none is taken off, since it is one micro-batch of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.plan.arithmetic import block_params, param_count, stage_params
from smolcluster.plan.grid import Grid
from smolcluster.plan.pipeline import micros_of
from smolcluster.plan.predict import Links, Prediction
from smolcluster.plan.shares import Cost
from smolcluster.plan.stages import Ranges
from smolcluster.plan.traffic import hidden_bytes, replica_bytes, tied_bytes
from smolcluster.spec.pipeline import layers_of
from smolcluster.spec.run import NNSpec, RunSpec, WireFormat


@dataclass(frozen=True)
class Hop:
    """From a stage to the next, or back: seconds on the wire of a micro-batch, and until it is there."""

    busy_s: float
    there_s: float


def predict_pipelines(
    run: RunSpec, wire: WireFormat, nodes: Sequence[str], costs: Sequence[Cost], samples: Sequence[int],
    stages: Ranges, links: Links, busy: Links | None = None,
) -> Prediction:  # fmt: skip
    """A step of ranks on those machines, in rank order: pipelines of these stages. `costs` are each machine's for the
    whole model; a pipeline's first rank has its samples.
    """
    grid = Grid(len(stages), len(nodes) // len(stages))
    each = []
    for number in range(grid.replicas):
        ranks = grid.pipeline(number)
        own = [nodes[rank] for rank in ranks], [costs[rank] for rank in ranks]
        each.append(predict_pipeline(run, *own, samples[ranks[0]], stages, links, busy))
    slowest = max(each, key=lambda one: one.step_s)
    return Prediction(slowest.compute_s, slowest.wire_s + _rings_s(run, wire, nodes, stages, grid, links))


def predict_pipeline(
    run: RunSpec, nodes: Sequence[str], costs: Sequence[Cost], samples: int, stages: Ranges, links: Links,
    busy: Links | None = None,
) -> Prediction:  # fmt: skip
    """A step of that many samples through stages on those machines. `costs` are each machine's for the whole model;
    `busy`: the links while all compute.
    """
    micros = max(1, micros_of(run, samples))
    layers = layers_of(run.model)
    # Forward and backward of one micro-batch: what its samples cost, and what each layer does whoever is in it.
    turns = [
        cost.sample_s * samples / micros * share + cost.pass_s * (stop - start) / layers
        for cost, share, (start, stop) in zip(costs, work_shares(run, stages), stages, strict=True)
    ]
    hops = []
    for number in range(len(stages) - 1):
        bits = hidden_bytes(run, samples) / micros * 8
        mbps, rtt_ms = links(nodes[number], nodes[number + 1])
        busy_mbps = (busy or links)(nodes[number], nodes[number + 1])[0]
        hops.append(Hop(bits / (busy_mbps * 1e6), bits / (mbps * 1e6) + rtt_ms / 2000))
    once = sum(turns) + 2 * sum(hop.there_s for hop in hops)
    pipeline_s = once + (micros - 1) * _period_s(turns, hops)
    sizes = [stage_params(run.model, stage, layers) for stage in stages]
    whole = param_count(run.model)
    update_s = max(cost.update_s * size / whole for cost, size in zip(costs, sizes, strict=True))
    compute_s = micros * max(turns) + update_s
    step_s = pipeline_s + update_s + _at_the_end_s(run, nodes, links)
    return Prediction(compute_s, max(0.0, step_s - compute_s))


def work_shares(run: RunSpec, stages: Ranges) -> list[float]:
    """What part of a whole step's work each stage has: its layers, and the last one the projection onto words."""
    if isinstance(run.model, NNSpec):
        sizes = [float(stage_params(run.model, stage, layers_of(run.model))) for stage in stages]
    else:
        model = run.model
        head = (
            model.vocab_size
            * model.model_dim
            / (block_params(model) + attention_work(model.model_dim, model.max_seq_len))
        )
        sizes = [float(stop - start) for start, stop in stages]
        sizes[-1] += head
    return [size / sum(sizes) for size in sizes]


def attention_work(width: int, length: int) -> float:
    """What attention adds to the work of a block, in products as of one parameter: scores and their sums of values,
    half of the pairs where nobody looks ahead.
    """
    return float(width * length)


def _period_s(turns: Sequence[float], hops: Sequence[Hop]) -> float:
    longest = max([*turns, *(hop.busy_s for hop in hops)])
    for stage in range(len(turns)):
        loop_s = sum(turns[stage:]) + 2 * sum(hop.there_s for hop in hops[stage:])
        longest = max(longest, loop_s / (len(turns) - stage))
    return longest


def _at_the_end_s(run: RunSpec, nodes: Sequence[str], links: Links) -> float:
    if len(nodes) < 2:
        return 0.0
    # Ends first: both send at once, each its own way.
    ends = [links(nodes[0], nodes[-1]), links(nodes[-1], nodes[0])]
    tied_s = (
        max(tied_bytes(run) * 8 / (mbps * 1e6) + rtt_ms / 2000 for mbps, rtt_ms in ends) if tied_bytes(run) else 0.0
    )
    ring = set(zip(nodes, [*nodes[1:], nodes[0]], strict=True))
    return tied_s + (len(nodes) - 1) * max(links(a, b)[1] for a, b in ring) / 2000


def _rings_s(
    run: RunSpec, wire: WireFormat, nodes: Sequence[str], stages: Ranges, grid: Grid, links: Links
) -> float:  # fmt: skip
    """The longest of the stages' sums over their replicas."""
    longest = 0.0
    for number, sent in enumerate(replica_bytes(run, wire, stages, grid.replicas)):
        ring = [nodes[rank] for rank in grid.stage(number)]
        ways = [links(a, b) for a, b in zip(ring, [*ring[1:], ring[0]], strict=True) if a != b]
        if not ways or not sent:
            continue
        hops = 2 * (grid.replicas - 1)
        sending_s = sent * 8 / (min(mbps for mbps, _ in ways) * 1e6)
        longest = max(longest, sending_s + hops * max(rtt_ms for _, rtt_ms in ways) / 2000)
    return longest
