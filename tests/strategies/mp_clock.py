"""Stages on a clock of their own: computing takes as long as it is told, a message no time, and nobody really waits.

A rank's time travels in the last column of what goes to its neighbours, there and back, and who takes it is no earlier
than who sent it; after an exchange of all ranks all are as late as the latest. So what a stage says it waited can be
compared with what it must, to the last digit, on a machine that is as busy as it likes.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from strategy_jobs import context_of
from torch import Tensor, nn

from smolcluster.models.partition import cut
from smolcluster.runtime import device
from smolcluster.strategies import synchronous
from smolcluster.strategies.base import build_strategy
from smolcluster.strategies.mp import hops

FORWARD_S, BACKWARD_S = 1.0, 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, clock: Clock, cost: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.clock, ctx.cost = clock, cost
        clock.now += FORWARD_S * cost
        return torch.stack([x[:, 0] * weight, torch.full((len(x),), clock.now)], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        value = grads[0][:, 0]
        ctx.clock.now += BACKWARD_S * ctx.cost
        given = torch.stack([value * weight, torch.full((len(x),), ctx.clock.now)], 1)
        return given, (value * x[:, 0]).sum(), None, None


class TimedStage(nn.Module):
    """One factor. What travels is (B, 2): values, and when they were sent."""

    tied = None

    def __init__(self, rank: int, stages: int, clock: Clock, cost: float) -> None:
        super().__init__()
        self.layers = cut([(at, at + 1) for at in range(stages)], stages)[rank]
        self.weight = nn.Parameter(torch.tensor(0.5))
        self._clock, self._cost = clock, cost

    def hidden_shape(self, samples: int) -> tuple[int, ...]:
        return samples, 2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Layer.apply(x, self.weight, self._clock, self._cost)
        return out

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return (self(x)[:, 0] - y).square().mean()


class _Awaited:
    def __init__(self, work: dist.Work, tensor: Tensor, clock: Clock) -> None:
        self._work, self._tensor, self._clock = work, tensor, clock

    def wait(self) -> None:
        self._work.wait()
        self._clock.now = max(self._clock.now, float(self._tensor[:, -1].max()))


def waited(rank: int, world_size: int, micros: int, costs: tuple[float, ...]) -> tuple[float, float]:
    """comm_s and compute_s of the second step of stages whose computing costs so many units."""
    clock = Clock()
    irecv, gather = dist.irecv, dist.all_gather_single

    def awaited(tensor: Tensor, peer: int, tag: int) -> _Awaited:
        work = irecv(tensor, peer, tag=tag)
        assert work is not None
        return _Awaited(work, tensor, clock)

    def met(output: Tensor, mine: Tensor, **how: Any) -> None:
        gather(output, mine, **how)
        clocks = torch.empty(world_size, dtype=torch.float64)
        gather(clocks, torch.tensor([clock.now], dtype=torch.float64))
        clock.now = float(clocks.max())

    stage = TimedStage(rank, world_size, clock, costs[rank])
    strategy = build_strategy(context_of("mp", rank, world_size, samples=micros), stage)
    batch = [(torch.ones(1, 2), torch.zeros(1)) for _ in range(micros)]
    with (
        mock.patch.object(hops, "time", clock),
        mock.patch.object(device, "time", clock),
        mock.patch.object(synchronous, "time", clock),
        mock.patch.object(dist, "irecv", awaited),
        mock.patch.object(dist, "all_gather_single", met),
    ):
        strategy.train_step(batch, 1e-3)
        result = strategy.train_step(batch, 1e-3)
        strategy.close()
    return result.comm_s, result.compute_s
