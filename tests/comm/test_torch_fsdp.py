"""FSDP2, DTensor tensor parallelism, meshes of two dimensions, and distributed checkpoints, as one process."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.comm.pool import Pool

BATCH = 12
loss_of = nn.functional.cross_entropy


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 60), nn.Linear(60, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(Block(), Block(), nn.Linear(24, 10))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    made = torch.Generator().manual_seed(2)
    return [(torch.randn(BATCH, 24, generator=made), torch.randint(0, 10, (BATCH,), generator=made))] * count


def train(model: Any, optimizer: Any, count: int, part: int = 0, parts: int = 1) -> list[float]:
    """Losses; with several parts they are means over the default group."""
    share = slice(part * BATCH // parts, (part + 1) * BATCH // parts)
    losses = []
    for x, y in batches(count):
        loss = loss_of(model(x[share]).float(), y[share])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        if parts > 1:
            dist.all_reduce(mean, dist.ReduceOp.AVG)
        losses.append(mean.item())
    return losses


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=2e-3)


def alone(count: int) -> list[float]:
    model = network()
    return train(model, adamw(model), count)


def sharded(model: nn.Module, **options: Any) -> nn.Module:
    for layer in model.children():
        fully_shard(layer, **options)
    fully_shard(model, **options)
    return model


def fsdp(fabric: Any, reshard: bool, precision: str) -> list[float]:
    policy = MixedPrecisionPolicy(param_dtype=getattr(torch, precision), reduce_dtype=torch.float32)
    options = {} if precision == "float32" else {"mp_policy": policy}
    model = sharded(network(), reshard_after_forward=reshard, **options)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return train(model, adamw(model), 6, fabric.config.rank, fabric.config.world_size)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_fsdp2(pool: Pool, n: int, reshard: bool, precision: str, tolerance: float) -> None:
    expected = alone(6)
    assert expected[-1] < expected[0]
    for losses in pool.run(n, fsdp, reshard, precision):
        assert losses == pytest.approx(expected, rel=tolerance)


PLAN = {"0.up": ColwiseParallel(), "0.down": RowwiseParallel(), "1.up": ColwiseParallel(), "1.down": RowwiseParallel()}


def tensor_parallel(fabric: Any) -> list[float]:
    mesh = init_device_mesh("cpu", (fabric.config.world_size,), mesh_dim_names=("tp",))
    assert dist.get_backend(mesh.get_group("tp")) == "smol"
    model = parallelize_module(network(), mesh, PLAN)
    losses = train(model, adamw(model), 6)
    assert isinstance(model[0].up.weight, DTensor)
    return losses


@pytest.mark.parametrize("n", [2, 3])
def test_tensor_parallelism(pool: Pool, n: int) -> None:
    for losses in pool.run(n, tensor_parallel):
        assert losses == pytest.approx(alone(6), rel=1e-5)


def two_dimensions(fabric: Any) -> list[float]:
    """Replicas over one dimension of the mesh, tensor parallelism over the other."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    assert {dist.get_backend(mesh.get_group(name)) for name in ("dp", "tp")} == {"smol"}
    model = sharded(parallelize_module(network(), mesh["tp"], PLAN), mesh=mesh["dp"])
    return train(model, adamw(model), 6, mesh.get_local_rank("dp"), 2)


def test_a_mesh_of_two_dimensions(pool: Pool) -> None:
    for losses in pool.run(4, two_dimensions):
        assert losses == pytest.approx(alone(6), rel=1e-5)


def redistributed(fabric: Any) -> None:
    """DTensor's own collectives: every placement to every other."""
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

    n = fabric.config.world_size
    mesh = init_device_mesh("cpu", (n,))
    whole = torch.arange(7.0 * 5).view(7, 5)  # 7 does not divide by n
    for before in (Replicate(), Shard(0), Shard(1)):
        for after in (Replicate(), Shard(0), Shard(1)):
            moved = distribute_tensor(whole, mesh, [before]).redistribute(mesh, [after])
            assert torch.equal(moved.full_tensor(), whole)
    summed = DTensor.from_local(torch.ones(6, 2), mesh, [Partial()])
    assert (summed.full_tensor() == n).all()
    assert (summed.redistribute(mesh, [Shard(0)]).full_tensor() == n).all()


@pytest.mark.parametrize("n", [2, 3])
def test_dtensor_redistribution(pool: Pool, n: int) -> None:
    pool.run(n, redistributed)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    parameters, moments = get_state_dict(model, optimizer)
    return {"model": parameters, "optimizer": moments}


def save(fabric: Any, folder: Path, how: str) -> list[float]:
    """Train three steps, save, train two more: those a loader has to repeat."""
    warnings.simplefilter("ignore")
    rank, n = fabric.config.rank, fabric.config.world_size
    model = sharded(network())
    optimizer = adamw(model)
    train(model, optimizer, 3, rank, n)
    if how == "sync":
        dcp.save(state_of(model, optimizer), checkpoint_id=folder)
        return train(model, optimizer, 2, rank, n)
    # A group of its own: its collectives run beside the training's.
    saving = dcp.async_save(state_of(model, optimizer), checkpoint_id=folder, process_group=dist.new_group())
    losses = train(model, optimizer, 2, rank, n)
    saving.result(timeout=60)
    return losses


def load(fabric: Any, folder: Path) -> list[float]:
    warnings.simplefilter("ignore")
    rank, n = fabric.config.rank, fabric.config.world_size
    model = sharded(network())
    optimizer = adamw(model)
    state = state_of(model, optimizer)
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return train(model, optimizer, 2, rank, n)


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize(("saved_by", "loaded_by"), [(2, 2), (3, 2), (2, 3)])
def test_checkpoints_load_at_any_world_size(pool: Pool, how: str, saved_by: int, loaded_by: int) -> None:
    expected = alone(5)[3:]
    with tempfile.TemporaryDirectory() as folder:
        for losses in pool.run(saved_by, save, Path(folder), how):
            assert losses == pytest.approx(expected, rel=1e-5)
        for losses in pool.run(loaded_by, load, Path(folder)):
            assert losses == pytest.approx(expected, rel=1e-5)
