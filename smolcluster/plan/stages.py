"""Which machine computes which layers of a served model: as `stages:` says, else by memory and measured speed. Pure.

A token passes all stages, and with several sessions under way the slowest stage is everybody's pace: so the slowest one
is made as fast as it can be, and of such splits the most even one is taken. The projection onto the vocabulary is work
too: for GPT-2 as much as five layers, for the last stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from smolcluster.errors import ConfigError, Problem
from smolcluster.plan.profile import Profile
from smolcluster.spec.cluster import ClusterSpec, TabletPrecision
from smolcluster.spec.serving import ServeSpec
from smolcluster.spec.shape import DecoderShape

_MB = 1024 * 1024
# Python, torch, a step's activations.
STAGE_BASE_MB = 400
# An app or a page that computes, and its runtime.
TABLET_BASE_MB = 250
# Bytes of a value by precision: of products' weights; of tables, norms and caches, which int8 keeps in fp32.
_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
_VALUE_BYTES = {"fp32": 4, "bf16": 2, "int8": 4}
# The same on a tablet: in int4 every 32 weights share a scale, and Core ML keeps everything else in halves.
_TABLET_WEIGHT_BYTES: dict[TabletPrecision, float] = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 1 / 2 + 2 / 32}
_TABLET_VALUE_BYTES: dict[TabletPrecision, int] = {"fp32": 4, "fp16": 2, "int8": 2, "int4": 2}
Ranges = tuple[tuple[int, int], ...]
SERVE_LESS = "take a smaller model, int8 weights, or more machines"


@dataclass(frozen=True)
class ModelWeight:
    """What a model weighs. Bytes at its precision; `head_layers`: how many layers' work the head is; `base_mb`: what
    a stage takes with no layers at all."""

    layers: int
    layer_bytes: int
    table_bytes: int
    head_bytes: int
    cache_bytes: int
    head_layers: float
    base_mb: int = STAGE_BASE_MB


@dataclass(frozen=True)
class Machine:
    """One stage's machine. `memory_mb` None: unknown, so nothing is refused. `weight`: what the model weighs there, if
    that is not what it weighs elsewhere. `fixed`: the layers it has, and can have no others. `tablets`: for how many of
    them it has a process that hands hidden states over."""

    name: str
    memory_mb: int | None = None
    speed: float = 1.0
    weight: ModelWeight | None = None
    fixed: tuple[int, int] | None = None
    tablets: int = 0


def weight_of(shape: DecoderShape, precision: str, cache_tokens: int) -> ModelWeight:
    """What a model of that shape weighs with caches for so many tokens."""
    product, value = _WEIGHT_BYTES[precision], _VALUE_BYTES[precision]
    positions = shape.max_positions * shape.width if shape.rope is None else 0
    return ModelWeight(
        layers=shape.layers,
        layer_bytes=product * shape.layer_params,
        table_bytes=value * (shape.table_params + positions),
        head_bytes=product * shape.table_params,
        cache_bytes=value * shape.cache_values * cache_tokens,
        head_layers=shape.table_params / shape.layer_params,
    )


def tablet_weight(shape: DecoderShape, precision: TabletPrecision, cache_tokens: int) -> ModelWeight:
    """The same on a tablet, at the precision of its layers."""
    product, value = _TABLET_WEIGHT_BYTES[precision], _TABLET_VALUE_BYTES[precision]
    return ModelWeight(
        layers=shape.layers,
        layer_bytes=math.ceil(product * shape.layer_params),
        table_bytes=0,
        head_bytes=math.ceil(product * shape.table_params),
        cache_bytes=value * shape.cache_values * cache_tokens,
        head_layers=shape.table_params / shape.layer_params,
        base_mb=TABLET_BASE_MB,
    )


def stage_machines(
    cluster: ClusterSpec, serve: ServeSpec, shape: DecoderShape, profile: Profile | None = None
) -> list[Machine]:
    """What is known of each stage's machine, in their order."""
    speeds: Mapping[str, float] = profile.speeds if profile is not None else {}
    tokens = serve.cache_tokens or serve.model.ctx_length
    nodes = [cluster.node(stage.node) for stage in serve.stages]
    tablets = sum(node.app is not None for node in nodes)
    machines = []
    for rank, node in enumerate(nodes):
        weight = tablet_weight(shape, node.precision, tokens) if node.precision is not None else None
        speed = speeds.get(node.name, 1.0)
        machines.append(Machine(node.name, node.memory_mb, speed, weight, tablets=tablets if rank == 0 else 0))
    return machines


def stage_ranges(serve: ServeSpec, weight: ModelWeight, machines: Sequence[Machine]) -> Ranges:
    """Half-open ranges in the order of `serve.stages`. ConfigError tells which machine has too little memory."""
    if not serve.given:
        return split(weight, machines)
    ranges = tuple((stage.start, stage.stop) for stage in serve.stages)
    _check_memory(weight, machines, ranges)
    return ranges


def split(weight: ModelWeight, machines: Sequence[Machine], fix: str = SERVE_LESS) -> Ranges:
    """The split with the fastest slowest stage that fits into everybody's memory; every machine gets a layer.

    ConfigError, with the advice `fix`, where there is none.
    """
    count = len(machines)
    if not 1 <= count <= weight.layers:
        what = f"{weight.layers} layers cannot be split over {count} machines"
        raise ConfigError([Problem("", 0, "stages", what, "name fewer machines")])

    # Seconds of the slowest stage, then the sum of squares: among equally fast splits the most even one.
    @cache
    def best(number: int, start: int) -> tuple[float, float, Ranges] | None:
        """For machines `number` and on, layers `start` and on."""
        last = number == count - 1
        found: tuple[float, float, Ranges] | None = None
        stops = [weight.layers] if last else range(weight.layers - (count - number - 1), start, -1)
        for stop in stops:
            if machines[number].fixed not in (None, (start, stop)):
                continue
            if not _fits(weight, machines[number], start, stop):
                continue
            rest = (0.0, 0.0, ()) if last else best(number + 1, stop)
            if rest is None:
                continue
            took = (stop - start + (weight.head_layers if last else 0.0)) / machines[number].speed
            option = (max(took, rest[0]), took * took + rest[1], ((start, stop), *rest[2]))
            if found is None or option[:2] < found[:2]:
                found = option
        return found

    chosen = best(0, 0)
    if chosen is None:
        need = need_mb(weight, 0, weight.layers) + (count - 1) * STAGE_BASE_MB
        have = ", ".join(f"{one.name} {one.memory_mb or 'unknown'}" for one in machines)
        what = f"the model needs about {need} MB over {count} machines, and there is no split that fits: {have}"
        raise ConfigError([Problem("", 0, "machines.memory_mb", what, fix)])
    return chosen[2]


def need_mb(weight: ModelWeight, start: int, stop: int) -> int:
    """Megabytes that a process with those layers takes."""
    size = (stop - start) * (weight.layer_bytes + weight.cache_bytes)
    size += weight.table_bytes if start == 0 else 0
    size += weight.head_bytes if stop == weight.layers else 0
    return weight.base_mb + -(-size // _MB)


def needed_on(machine: Machine, weight: ModelWeight, start: int, stop: int) -> int:
    """Megabytes that those layers take on that machine, with its processes for tablets: each is Python and torch."""
    return need_mb(machine.weight or weight, start, stop) + machine.tablets * STAGE_BASE_MB


def fits(weight: ModelWeight, machines: Sequence[Machine], ranges: Ranges) -> bool:
    """Whether every machine has the memory for its range."""
    return all(_fits(weight, machine, start, stop) for machine, (start, stop) in zip(machines, ranges, strict=True))


def _fits(weight: ModelWeight, machine: Machine, start: int, stop: int) -> bool:
    return machine.memory_mb is None or needed_on(machine, weight, start, stop) <= machine.memory_mb


def _check_memory(weight: ModelWeight, machines: Sequence[Machine], ranges: Ranges) -> None:
    problems = [
        Problem(
            "",
            0,
            f"machines.{machine.name}.memory_mb",
            f"layers {start}:{stop}{_beside(machine)} need {needed_on(machine, weight, start, stop)} MB there,"
            f" and it has {machine.memory_mb}",
            "give it fewer layers in `stages`, or leave `stages` out",
        )
        for machine, (start, stop) in zip(machines, ranges, strict=True)
        if not _fits(weight, machine, start, stop)
    ]
    if problems:
        raise ConfigError(problems)


def _beside(machine: Machine) -> str:
    """What needs memory there besides layers, in words."""
    if not machine.tablets:
        return ""
    return (
        " and the process of a tablet" if machine.tablets == 1 else f" and the processes of {machine.tablets} tablets"
    )
