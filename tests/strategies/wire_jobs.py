"""What the pool's processes run for the tests of wire formats."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from strategy_jobs import buckets_of, collectives_through_the_cpu, context_of
from strategy_models import model_of, samples_of, shares_of

from smolcluster.runtime.device import Collectives
from smolcluster.runtime.slices import Slice
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.base import build_strategy
from smolcluster.strategies.flat import FlatParameters
from smolcluster.strategies.replica import Replica
from smolcluster.strategies.scaling import GROWTH_EVERY
from smolcluster.strategies.sums import sums_of


def digest(tensors: list[torch.Tensor]) -> float:
    """48 bits of a hash: a float64 carries them exactly."""
    found = hashlib.blake2b(digest_size=6)
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().data)
    return float(int.from_bytes(found.digest(), "little"))


def train(
    rank: int,
    world_size: int,
    name: str,
    stage: int,
    wire: WireFormat,
    count: int,
    kind: str = "tiny",
    micro: int = 64,
    bucket: int = 4096,
    staged: bool = False,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Losses, and by step whether all replicas were the same bits. Stage 3 has none: there it is always so."""
    model = model_of(kind, seed=5 + rank)
    context = context_of(name, rank, world_size, stage=stage, wire=wire, precision=precision)
    if staged:
        with buckets_of(bucket), collectives_through_the_cpu():
            strategy = build_strategy(context, model)
    else:
        with buckets_of(bucket):
            strategy = build_strategy(context, model)
    shares = (2,) * world_size
    losses, same = [], []
    for step in range(count):
        losses.append(strategy.train_step(shares_of(step, shares, rank, micro), 1e-2).loss)
        held = [strategy.flat.params] if isinstance(strategy, Replica) else []
        rows = strategy.exchange([digest(held)])
        same.append(rows == [rows[0]] * world_size)
    evaluated = strategy.eval_loss(*samples_of(99, 4)).loss
    exported = strategy.export() or {}
    state = {key: value.detach().clone() for key, value in exported.items()}
    buckets = len(strategy.layout.buckets)
    strategy.close()
    return {"losses": losses, "same": same, "evaluated": evaluated, "state": state, "buckets": buckets}


def sums(rank: int, world_size: int, steps: int, gathered: bool) -> dict[str, torch.Tensor]:
    """What was given, what came out and what is still owed, of gradients whose every sum float32 holds exactly.

    Each block has one number of 127 levels, so its scale is a power of two, or three of them: nothing is rounded but
    by the codec.
    """
    model = torch.nn.Linear(50, 40)
    layout = FlatParameters(model, world_size, 1 << 12)
    collectives = Collectives(rank, world_size, torch.device("cpu"))
    int8 = sums_of("int8", layout, collectives, lambda: 1.0)
    chance = torch.Generator().manual_seed(rank)
    given, got = (torch.zeros(layout.length, dtype=torch.float64) for _ in range(2))
    for _ in range(steps):
        values = torch.randint(-(1 << 14), 1 << 14, (layout.length,), generator=chance) / (1 << 12)
        for bucket in layout.buckets:
            part = (bucket.stop - bucket.start) // world_size
            for owner in range(world_size):
                values[bucket.start + owner * part : bucket.start + (owner + 1) * part : 256] = 127 / 16
        given += values
        pending = []
        for bucket in layout.buckets:
            whole = layout.bucket(values, bucket)
            mine = layout.shard(values, bucket, rank)
            pending.append(
                int8.all_reduce(bucket.index, whole) if gathered else int8.reduce_scatter(bucket.index, mine, whole)
            )
        for each in pending:
            each.wait()
        if not gathered:  # only the own shards are sums
            mask = torch.zeros(layout.length)
            for bucket in layout.buckets:
                layout.shard(mask, bucket, rank).fill_(1)
            values = values * mask
        got += values
    owed = torch.cat([piece.values for piece in int8.residuals]).double()
    return {"given": given, "got": got, "owed": owed}


def slices_after(
    rank: int, world_size: int, name: str, stage: int, wire: WireFormat, count: int
) -> tuple[list[Any], list[float]]:
    """What a rank owns after `count` steps, and the losses of as many more."""
    with buckets_of(4096):
        strategy = build_strategy(context_of(name, rank, world_size, stage=stage, wire=wire), model_of("tiny", 5))
    shares = (2,) * world_size
    for step in range(count):
        strategy.train_step(shares_of(step, shares, rank, 64), 1e-2)
    saved = [(s.name, s.shape, s.box, s.tensor.clone()) for s in strategy.named_slices()]
    rest = [strategy.train_step(shares_of(count + s, shares, rank, 64), 1e-2).loss for s in range(count)]
    return saved, rest


def resume(
    rank: int, world_size: int, name: str, stage: int, wire: WireFormat, count: int, saved: list[Any]
) -> tuple[list[float], dict[str, float]]:
    """Go on from saved slices: the losses, and by name of what is carried the sum of its squares before."""
    with buckets_of(4096):
        strategy = build_strategy(context_of(name, rank, world_size, stage=stage, wire=wire), model_of("tiny", 99))
    strategy.load_slices(Slice(*fields) for fields in saved)
    owed = sum(float(piece.values.square().sum()) for piece in strategy.sums.residuals)
    lag = 0.0
    if isinstance(strategy, Replica) and strategy.owns_apart:
        lag = sum(float((strategy.flat.params[u.start : u.stop] - u.values).square().sum()) for u in strategy.updates)
    shares = (2,) * world_size
    losses = [strategy.train_step(shares_of(count + s, shares, rank, 64), 1e-2).loss for s in range(count)]
    return losses, {"owed": owed, "lag": lag}


def large_sums(rank: int, world_size: int, wire: WireFormat, unit: float) -> tuple[list[float], list[float]]:
    """Sums of gradients, `unit` times those of the mean loss, that float16 could not hold as they are."""
    layout = FlatParameters(torch.nn.Linear(16, 15), world_size, 1 << 12)
    collectives = Collectives(rank, world_size, torch.device("cpu"))
    gradients = sums_of(wire, layout, collectives, lambda: unit)
    whole = torch.tensor([1e-6, 1e-3, 1.0, 10.0]).repeat(layout.length // 4) * unit
    bucket = layout.buckets[0]
    reduced = whole.clone()
    gradients.all_reduce(0, reduced).wait()
    mine = torch.empty(layout.length // world_size)
    gradients.reduce_scatter(0, mine, layout.bucket(whole, bucket)).wait()
    return (reduced[:4] / unit).tolist(), (mine[:4] / unit).tolist()


def overflowing(rank: int, world_size: int) -> list[float]:
    """int8 under float16's loss scale: residuals are dropped with the step that is left out, and follow the scale.

    What is owed after a step, whether the next was left out and what is owed then; what was owed before the scale grew,
    by how much it did, and what after.
    """
    context = context_of("classicdp", rank, world_size, wire="int8", precision="fp16")
    strategy = build_strategy(context, model_of("tiny", 5))
    shares = (2,) * world_size

    def owed() -> float:
        return sum(float(piece.values.abs().sum()) for piece in strategy.sums.residuals)

    strategy.train_step(shares_of(0, shares, rank, 64), 1e-2)
    told = [owed()]
    strategy.sums.residuals[0].values[0] = torch.inf
    result = strategy.train_step(shares_of(1, shares, rank, 64), 1e-2)
    told += [float(result.skipped), owed()]
    strategy.train_step(shares_of(2, shares, rank, 64), 1e-2)
    strategy.loss_scale._good_steps.fill_(GROWTH_EVERY - 1)
    before, scale = owed(), strategy.loss_scale.value
    usual = strategy.sums.rescale

    def rescale(factor: float) -> None:
        told.append(owed())
        usual(factor)
        told.extend([factor, owed()])

    strategy.sums.rescale = rescale  # type: ignore[method-assign]
    strategy.train_step(shares_of(3, shares, rank, 64), 1e-2)
    assert before > 0
    assert strategy.loss_scale.value == 2 * scale
    return told
