"""What is built on torch.distributed's API runs on smol unchanged and computes the same."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from tests.comm.pool import Pool


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(40, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 10))


def batches(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same batch again and again: its loss falls."""
    made = torch.Generator().manual_seed(2)
    return [(torch.randn(12, 40, generator=made), torch.randint(0, 10, (12,), generator=made))] * steps


def losses_alone() -> list[float]:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for x, y in batches(8):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_together(fabric: Any, kind: str) -> list[float]:
    warnings.simplefilter("ignore")
    rank, n = fabric.config.rank, fabric.config.world_size
    if kind == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        model: Any = network()
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(model)
    else:
        # Small buckets: several all_reduces are under way while backward goes on.
        model = DistributedDataParallel(network(), bucket_cap_mb=0.1)
    if kind == "fp16":
        model.register_comm_hook(None, fp16_compress_hook)
    if kind == "zero":
        optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-3)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for x, y in batches(8):
        share = slice(rank * 12 // n, (rank + 1) * 12 // n)
        loss = nn.functional.cross_entropy(model(x[share]), y[share])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean, dist.ReduceOp.AVG)
        losses.append(mean.item())
    return losses


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(("kind", "tolerance"), [("ddp", 1e-5), ("fp16", 2e-2), ("zero", 1e-5), ("fsdp2", 1e-5)])
def test_training_equals_one_process(pool: Pool, n: int, kind: str, tolerance: float) -> None:
    alone = losses_alone()
    assert alone[-1] < alone[0]
    for losses in pool.run(n, losses_together, kind):
        assert losses == pytest.approx(alone, rel=tolerance, abs=tolerance)
