"""How a run of a parameter server looks to one of its processes: a rank alone, which holds a whole model."""

from __future__ import annotations

from dataclasses import replace

from smolcluster.runtime.context import Alone, RunContext
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.scaling import power_of_two
from smolcluster.strategies.sums import HALF_UNIT
from smolcluster.strategies.synchronous import tokens_of_a_step


def alone(context: RunContext) -> RunContext:
    """The context of this rank as the only one: what belongs to the model alone (a step's arithmetic, checkpoints) then
    is that of a single process."""
    me = context.me.model_copy(update={"rank": 0, "local_rank": 0})
    plan = context.plan.model_copy(update={"world_size": 1, "ranks": (me,), "memory": context.plan.memory[:1]})
    return replace(context, plan=plan, me=me, wires=Alone(), home=context.seat)


def wire_of(context: RunContext) -> WireFormat:
    """What gradients and weights are sent as."""
    return "int8" if context.run.use_quantization else context.plan.wire


def gradient_unit(context: RunContext) -> float:
    """What gradients of a summed loss are multiplied by for the way, a power of two: float16 ends at 65504."""
    return HALF_UNIT / power_of_two(tokens_of_a_step(context)) if wire_of(context) == "fp16" else 1.0
