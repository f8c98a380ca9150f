"""torch.distributed.pipelining: every schedule gives the losses and weights of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from tests.comm.pool import Pool

MICROBATCHES = 4
STEPS = 4


def layers(count: int) -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(count)]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(2)
    return torch.randn(8, 16, generator=made), torch.randn(8, 16, generator=made)


def alone(count: int) -> list[float]:
    model = nn.Sequential(*layers(count))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = batch()
    losses = []
    for _ in range(STEPS):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def pipelined(fabric: Any, kind: str) -> list[float]:
    rank, n = fabric.config.rank, fabric.config.world_size
    per_rank = 2 if kind == "interleaved" else 1
    parts = layers(n * per_rank)
    mine = [(index, parts[index]) for index in range(rank, n * per_rank, n)]
    stages = [PipelineStage(part, index, n * per_rank, torch.device("cpu")) for index, part in mine]
    if kind == "interleaved":
        schedule: Any = ScheduleInterleaved1F1B(stages, MICROBATCHES, loss_fn=nn.functional.mse_loss)
    else:
        made = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}[kind]
        schedule = made(stages[0], MICROBATCHES, loss_fn=nn.functional.mse_loss)
    optimizer = torch.optim.SGD([p for _, part in mine for p in part.parameters()], lr=0.5)
    x, y = batch()
    losses = []
    for _ in range(STEPS):
        found: list[torch.Tensor] = []
        optimizer.zero_grad()
        arguments = (x,) if rank == 0 else ()
        schedule.step(*arguments, **({"target": y, "losses": found} if rank == n - 1 else {}))
        optimizer.step()
        losses += [torch.stack(found).mean().item()] if found else []
    return losses


@pytest.mark.parametrize(
    ("n", "kind"), [(n, kind) for n in (2, 3) for kind in ("GPipe", "1F1B")] + [(2, "interleaved"), (4, "interleaved")]
)
def test_a_schedule_equals_one_process(pool: Pool, n: int, kind: str) -> None:
    expected = alone(n * (2 if kind == "interleaved" else 1))
    assert expected[-1] < expected[0]
    results = pool.run(n, pipelined, kind)
    assert results[-1] == pytest.approx(expected, rel=1e-5)
