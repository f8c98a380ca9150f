"""What machines on paper would make of serving the model, its layers shared out by memory and speed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smolcluster.errors import ConfigError
from smolcluster.plan.paper import Owned, links_of
from smolcluster.plan.predict_serving import ServingPrediction, decoder_of, predict_serving
from smolcluster.plan.stages import Machine, Ranges, split, weight_of
from smolcluster.spec.run import GPTSpec


@dataclass(frozen=True)
class OnPaper:
    """So many machines, in the order of their stages. `told` None: why it is not predicted, in `why`."""

    machines: tuple[str, ...]
    ranges: Ranges = ()
    told: ServingPrediction | None = None
    why: str = ""


def serve_on(model: GPTSpec, owned: Sequence[Owned], count: int) -> OnPaper:
    """A model in fp32 on the first so many of these machines, fastest kinds first; a stage has a layer at least."""
    ordered = sorted(owned, key=lambda one: one.cost.sample_s)
    taken = [one for one in ordered for _ in range(one.count)][: min(count, model.num_layers)]
    names = tuple(one.name for one in taken)
    paces = [one.pace for one in taken if one.pace is not None]
    if len(paces) < len(taken):
        lacking = next(one.name for one in taken if one.pace is None)
        return OnPaper(names, why=f"of {lacking} it is not known how fast it reads a model's weights")
    shape = decoder_of(model)
    machines = [Machine(one.name, one.memory_mb, 1 / one.cost.sample_s) for one in taken]
    try:
        ranges = split(weight_of(shape, "fp32", shape.max_positions), machines)
    except ConfigError as error:
        return OnPaper(names, why=error.problems[0].what)
    # One hop is under way at a time of one stream: nobody shares the air with it.
    return OnPaper(names, ranges, predict_serving(shape, names, paces, ranges, links_of(owned, 1)))
