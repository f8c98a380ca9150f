"""Who trains over slow links in benchmarks.links, and what each has to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.contestants import Step, ddp, ours
from benchmarks.ranks import Transport
from benchmarks.rounds import Rounds
from smolcluster.spec.run import GPTSpec, WireFormat
from smolcluster.strategies.diloco.rounds import DiLoCo

ALONE = "without communication"
FP32, BF16, INT8 = "classicdp fp32", "classicdp bf16", "classicdp int8"
# Of a rank's step in benchmarks.reading.
READ_SAMPLES = 8
# Steps of one of diloco's rounds.
DILOCO_EVERY = 20

Built = tuple[nn.Module, Step]


@dataclass(frozen=True)
class Contestant:
    """A way to train over links.

    build      (rank, world size, model, learning rate) -> the model and its step, on one rank
    turn       steps of one turn: of a method whose ranks talk every H steps, H
    least      tokens/s wanted, over those of the same ranks without communication, by speed of the links in Mbit/s
    loss_over  how much more loss than classicdp fp32 it may have after the same tokens
    learner    how it is built to learn from the beginning, where the figures above are of what comes later
    """

    name: str
    transport: Transport
    build: Callable[[int, int, GPTSpec, float], Built]
    turn: int = 1
    least: Mapping[int, float] = field(default_factory=dict)
    loss_over: float | None = None
    learner: Callable[[int, int, GPTSpec, float], Built] | None = None


def strategy(name: str, wire: WireFormat = "fp32", **settings: Any) -> Callable[[int, int, GPTSpec, float], Built]:
    """One of our strategies. `settings` are RunSpec's."""

    def build(rank: int, world_size: int, spec: GPTSpec, rate: float) -> Built:
        # What is alone does not know of the others.
        me, world = (0, 1) if name == "single" else (rank, world_size)
        built, step = ours(name, 0, me, world, spec, wire, rate, **settings)
        return built.model, step

    return build


def torchs_ddp(half: bool) -> Callable[[int, int, GPTSpec, float], Built]:
    """Torch's DistributedDataParallel; `half` with its hook that sends float16."""

    def build(_: int, __: int, spec: GPTSpec, rate: float) -> Built:
        return ddp(spec, rate, half)

    return build


def diloco(every: int, wire: WireFormat, **settings: Any) -> Callable[[int, int, GPTSpec, float], Built]:
    """diloco with rounds of `every` steps. `settings` as of contestants.context_of."""

    def build(rank: int, world_size: int, spec: GPTSpec, rate: float) -> Built:
        built, _ = ours("diloco", 0, rank, world_size, spec, wire, rate, outer_every=every, **settings)
        assert isinstance(built, DiLoCo)
        return built.model, Rounds(built, every, rate).step

    return build


# Who takes part. A further one is a line here, with what it has to reach.
CONTESTANTS = {
    each.name: each
    for each in (
        Contestant(ALONE, "smol", strategy("single")),
        Contestant(FP32, "smol", strategy("classicdp")),
        Contestant(BF16, "smol", strategy("classicdp", "bf16")),
        Contestant(INT8, "smol", strategy("classicdp", "int8"), loss_over=0.01),
        Contestant(
            f"diloco int8, H = {DILOCO_EVERY}",
            "smol",
            diloco(DILOCO_EVERY, "int8"),
            DILOCO_EVERY,
            {1000: 0.9, 100: 0.75},
            0.05,
            learner=diloco(DILOCO_EVERY, "int8", outer_warmup=40, samples=READ_SAMPLES),
        ),
        Contestant("DDP (gloo)", "gloo", torchs_ddp(half=False)),
        Contestant("DDP, fp16 hook (gloo)", "gloo", torchs_ddp(half=True)),
    )
}
TEAMS: tuple[Transport, ...] = ("smol", "gloo")


def entrants_of(transport: Transport, names: Sequence[str]) -> list[Contestant]:
    """Those of `names` that run in the team of a transport."""
    return [each for name, each in CONTESTANTS.items() if each.transport == transport and name in names]
