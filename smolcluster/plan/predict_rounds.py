"""How fast diloco is: steps of each rank's own in a time slot, then one exchange. Pure.

    slot     what the fastest rank's H steps take, or one of the slowest if that is longer
    steps    of each rank as many as fit into the slot, at least one, at most H
    wire     the whole model once around, and two exchanges of a few numbers; none of it hidden, unless
             `outer_overlap` lets the model travel while the next slot is computed: then only what is longer than a slot

A step of the run is a global batch, whoever took its samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from smolcluster.plan.predict import Links, Prediction, exchange_s, way_of
from smolcluster.plan.shares import Cost
from smolcluster.spec.run import RunSpec, WireFormat

# The table of a round, and whether all have the sum.
_EXCHANGES = 2


def predict_rounds(
    run: RunSpec, params: int, wire: WireFormat, nodes: Sequence[str], costs: Sequence[Cost], samples: Sequence[int],
    links: Links,
) -> Prediction:  # fmt: skip
    """A global batch of a run of rounds, on average."""
    step_times = [cost.step_s(mine) for cost, mine in zip(costs, samples, strict=True)]
    most = run.outer_every
    slot_s = max(most * min(step_times), max(step_times))
    steps = steps_in_a_slot(slot_s, step_times, most)
    round_s = max(count * took for count, took in zip(steps, step_times, strict=True))
    wire_s = 0.0
    if len(nodes) > 1:
        way = way_of(nodes, links, straight=wire == "int8")
        wire_s = exchange_s(wire, params, way, len(nodes))
        if run.outer_overlap:
            wire_s = max(0.0, wire_s - round_s)
        wire_s += _EXCHANGES * way.pass_s(0, len(nodes) - 1)
    # The outer optimizer goes over the model once: about what the inner one does.
    outer_s = max(cost.update_s for cost in costs) if len(nodes) > 1 else 0.0
    batches = sum(count * mine for count, mine in zip(steps, samples, strict=True)) / sum(samples)
    return Prediction((round_s + outer_s) / batches, wire_s / batches)


def steps_in_a_slot(slot_s: float, step_times: Sequence[float], most: int) -> list[int]:
    """How many steps each rank takes: another one as long as half of it fits."""
    return [max(1, min(most, math.floor(slot_s / took + 0.5))) for took in step_times]
