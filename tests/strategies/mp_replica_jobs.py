"""What the pool's processes run for the tests of replicas of stages: pipelines side by side, each with its share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from mp_jobs import Bounds, Shares, replicated, stage_of, steps, whole_of
from strategy_jobs import context_of, no_heartbeat
from strategy_models import samples_of
from strategy_pool import FABRICS

from smolcluster.comm.link import Link
from smolcluster.errors import PeerError
from smolcluster.runtime.slices import Slice
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.base import NotFiniteError, build_strategy
from smolcluster.strategies.mp import stage


@contextlib.contextmanager
def buckets_of(size: int | None) -> Iterator[None]:
    """Stages built meanwhile cut their parameters into buckets of so many bytes."""
    if size is None:
        yield
        return
    with mock.patch.object(stage, "bucket_bytes_of", return_value=size):
        yield


def pipelines(
    rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares, seed: int = 5, bucket: int | None = None,
    precision: str = "fp32", wire: WireFormat = "fp32",
) -> Any:  # fmt: skip
    """The strategy of this rank. Replicas are made of different seeds: those of the first pipeline must win."""
    place, pipeline = rank % len(bounds), rank // len(bounds)
    model = stage_of(kind, bounds, place, seed + pipeline)
    context = context_of("mp", rank, world_size, samples=sum(shares), precision=precision, wire=wire)
    with buckets_of(bucket):
        return build_strategy(replicated(context, len(shares)), model)


def params(strategy: Any) -> torch.Tensor:
    flat: torch.Tensor = strategy.flat.params
    return flat.clone()


def train(
    rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares, micros: int, count: int,
    bucket: int | None = None, precision: str = "fp32", wire: WireFormat = "fp32",
) -> dict[str, Any]:  # fmt: skip
    """As mp_jobs.train. `after`: all of this rank's parameters after each step."""
    strategy = pipelines(rank, world_size, kind, bounds, shares, bucket=bucket, precision=precision, wire=wire)
    results, after = [], []
    for step in range(count):
        results += steps(strategy, sum(shares), micros, 1, step, shares)
        after.append(params(strategy))
    x, y = samples_of(99, 2 * len(shares))
    pipeline = rank // len(bounds)
    evaluated = strategy.eval_loss(*(whole.chunk(len(shares))[pipeline] for whole in (x, y)))
    state = strategy.export()
    tied = dict(strategy.model.named_parameters()).get("transformer.wte.weight")
    strategy.close()
    return {
        "losses": [r.loss for r in results],
        "scales": [(r.loss_scale, r.skipped) for r in results],
        "norms": [r.grad_norm for r in results],
        "layers": [r.layer_norms for r in results],
        "tokens": [r.tokens for r in results],
        "evaluated": (evaluated.loss, evaluated.tokens, evaluated.right),
        "state": None if state is None else {key: value.clone() for key, value in state.items()},
        "tied": None if tied is None else tied.detach().clone(),
        "after": after,
        "buckets": len(strategy.flat.buckets),
    }


def slices_after(
    rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares, count: int, wire: WireFormat = "fp32"
) -> list[Any]:
    """What a rank owns after some steps, and the losses of the steps after those."""
    strategy = pipelines(rank, world_size, kind, bounds, shares, bucket=2000, wire=wire)
    steps(strategy, sum(shares), 2, count, shares=shares)
    slices = [(s.name, s.shape, s.box, s.tensor.clone()) for s in strategy.named_slices()]
    results = steps(strategy, sum(shares), 2, 3, count, shares)
    last = params(strategy)
    strategy.close()
    return [slices, [r.loss for r in results], last]


def resume(
    rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares, given: list[Any], first: int,
    wire: WireFormat = "fp32",
) -> list[Any]:  # fmt: skip
    """Losses of the steps first.. of pipelines that start from those slices, and the parameters after them."""
    strategy = pipelines(rank, world_size, kind, bounds, shares, seed=99, bucket=2000, wire=wire)
    strategy.load_slices(Slice(*fields) for fields in given)
    results = steps(strategy, sum(shares), 2, 3, first, shares)
    last = params(strategy)
    strategy.close()
    return [[r.loss for r in results], last]


def given_weights(rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares) -> bool:
    """Rank 0 hands out weights of another seed; whether this rank then has its part of them."""
    strategy = pipelines(rank, world_size, kind, bounds, shares)
    whole = dict(whole_of(kind, seed=77).named_parameters())
    strategy.start_from(whole if rank == 0 else None)
    return all(torch.equal(p, whole[n]) for n, p in strategy.model.named_parameters())


def drift(rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares, odd: int) -> tuple[str, torch.Tensor]:
    """One rank's parameters are nudged, as by a device that rounds differently, and compared after two steps: what the
    log said, and this rank's parameters after another."""
    with mock.patch.object(stage, "COMPARE_EVERY", 2), mock.patch.object(stage.log, "warning") as said:
        strategy = pipelines(rank, world_size, kind, bounds, shares)
        if rank == odd:
            strategy.flat.params[3] += 1e-3
        steps(strategy, sum(shares), 2, 3, shares=shares)
        strategy.close()
        told = " | ".join(call.args[0] % call.args[1:] for call in said.call_args_list)
        return told, params(strategy)


@mock.patch.object(Link, "pulse", no_heartbeat)
def bytes_of_a_step(rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares) -> dict[str, int]:
    """Bytes this rank sends in a step, without heartbeats, and the sizes that they follow from."""
    strategy = pipelines(rank, world_size, kind, bounds, shares)
    steps(strategy, sum(shares), 1, 1, shares=shares)
    strategy.exchange([0.0])
    before = FABRICS[rank].counters().bytes_out
    steps(strategy, sum(shares), 1, 1, 1, shares)
    sent = FABRICS[rank].counters().bytes_out - before
    tied = strategy._tied
    strategy.close()
    return {
        "sent": sent,
        "line": strategy.flat.params.nbytes,
        "tied": 0 if tied is None else tied.of(strategy.flat.params).nbytes,
    }


def poisoned(rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares, odd: int) -> str:
    """The last stage of one pipeline has a loss that is not a number: what each rank says, and nothing was updated."""
    strategy = pipelines(rank, world_size, kind, bounds, shares)
    before = params(strategy)
    if rank == odd:
        plain = strategy.stage.loss
        strategy.stage.loss = lambda x, y: plain(x, y) * float("nan")
    try:
        steps(strategy, sum(shares), 2, 1, shares=shares)
    except NotFiniteError as error:
        assert torch.equal(params(strategy), before)
        return f"{error.rank}: {error}"
    return "no error"


def one_is_stuck(rank: int, world_size: int, kind: str, bounds: Bounds, shares: Shares, odd: int) -> str:
    """After a good step one rank computes for ever, with a heart that beats: what all are told."""
    strategy = pipelines(rank, world_size, kind, bounds, shares)
    steps(strategy, sum(shares), 2, 1, shares=shares)
    strategy._deadline_s = 3.0
    if rank == odd:
        return str(FABRICS[rank].alarm.wait(60))
    try:
        steps(strategy, sum(shares), 2, 1, 1, shares)
    except PeerError as error:
        return str(error)
    return "it did not notice"
