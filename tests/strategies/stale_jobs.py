"""What the pool's processes run for the tests of bounded staleness."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from strategy_jobs import buckets_of, context_of
from strategy_models import model_of, shares_of
from strategy_pool import FABRICS

from smolcluster.comm.backend.lifetime import GroupLifetime
from smolcluster.errors import PeerError
from smolcluster.plan import buckets
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import Slice, fill
from smolcluster.spec.run import WireFormat
from smolcluster.strategies.base import Fences, NotFiniteError, build_strategy
from smolcluster.strategies.pieces import whole_slices
from smolcluster.strategies.stale import StaleSynchronous
from smolcluster.strategies.stale.messages import HEAD_BYTES


def stale_context(rank: int, shares: tuple[int, ...], bound: int, stage: int | None, **settings: Any) -> RunContext:
    """Of classicdp where `stage` is None. A step is all of the shares' samples."""
    name = "classicdp" if stage is None else "fsdp"
    made = context_of(name, rank, len(shares), stage=stage or 0, **settings)
    run = made.run.model_copy(update={"staleness_bound": bound})
    return replace(made, plan=made.plan.model_copy(update={"run": run, "global_batch": sum(shares)}))


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def train_with_fences(
    rank: int,
    _: int,
    shares: tuple[int, ...],
    bound: int,
    stage: int | None,
    steps: int,
    fence_every: int,
    kind: str = "tiny",
    late: tuple[float, ...] = (),
    wire: WireFormat = "fp32",
    bucket: int = buckets.BUCKET_BYTES,
    **training: Any,
) -> dict[str, Any]:
    """`late`: by rank, the seconds that it takes longer for a step."""
    model = model_of(kind, seed=5 + rank)
    with buckets_of(bucket):
        strategy = build_strategy(stale_context(rank, shares, bound, stage, wire=wire, **training), model)
    assert isinstance(strategy, StaleSynchronous)
    owner = strategy.owner
    applied: list[tuple[int, int]] = []
    plain = owner._step

    def step_watched() -> None:
        applied.extend(owner.in_box)
        plain()

    owner._step = step_watched  # type: ignore[method-assign]
    told: dict[str, Any] = {
        "digests": [],
        "losses": [],
        "fenced": [],
        "lags": [],
        "tokens": [],
        "norms": [],
        "counts": [],
        "drained": [],
    }
    for step in range(steps):
        result = strategy.train_step(shares_of(step, shares, rank, 64), 1e-2)
        told["lags"].append(result.lags)
        told["norms"].append(result.grad_norm)
        assert result.staleness == max(result.lags)
        if late:
            threading.Event().wait(late[rank])
        if (step + 1) % fence_every == 0:
            result = strategy.fence(result)
            told["fenced"].append(result.loss)
            told["tokens"].append(result.tokens)
            told["digests"].append(digest(strategy.flat.params))
            assert not owner.in_box
            assert owner.pushed == owner.applied == len(shares) * (step + 1)
            assert not owner.box.any()
            told["counts"].append([int(count) for count in strategy.adamw.steps])
            told["drained"].append(result.applied)
        told["losses"].append(result.loss)
    told["applied"] = applied
    told["slices"] = [(s.name, s.shape, s.box, s.tensor.clone()) for s in strategy.named_slices()]
    told["evaluated"] = strategy.eval_loss(*shares_of(99, (4,), 0, 64)[0]).loss
    strategy.close()
    return told


def resumed(rank: int, world_size: int, stage: int | None, bound: int, given: list[Any]) -> list[float]:
    """Start from somebody else's slices: the validation loss, and what it is after two steps."""
    context = stale_context(rank, (6 // world_size,) * world_size, bound, stage)
    strategy = build_strategy(context, model_of("tiny", seed=99))
    strategy.load_slices(Slice(*fields) for fields in given)
    validation = shares_of(99, (4,), 0, 64)[0]
    losses = [strategy.eval_loss(*validation).loss]
    for step in range(6, 8):
        result = strategy.train_step(shares_of(step, (6 // world_size,) * world_size, rank, 64), 1e-2)
    if isinstance(strategy, Fences):
        result = strategy.fence(result)
    losses.append(result.loss)
    losses.append(strategy.eval_loss(*validation).loss)
    strategy.close()
    return losses


def resumed_by_torch(given: list[Any], count: int) -> list[float]:
    """What `resumed` without a bound has to see: torch's own AdamW in one process, after `count` steps, goes on from
    the same parameters and moments.
    """
    model = model_of("tiny", seed=99)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = {name: parameter.detach() for name, parameter in model.named_parameters()} | dict(model.named_buffers())
    moments = {name: {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)} for name, p in trained.items()}
    state |= {f"optim.{name}.{kind}": moment for name, kinds in moments.items() for kind, moment in kinds.items()}
    fill(whole_slices(state), (Slice(*fields) for fields in given))
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.01)
    for name, parameter in trained.items():
        optimizer.state[parameter] = {"step": torch.tensor(float(count)), **moments[name]}
    ((x, y),) = shares_of(99, (4,), 0, 64)
    before = model.loss(x, y).item()
    for step in range(6, 8):
        for parameter in trained.values():
            parameter.grad = torch.zeros_like(parameter)
        loss = model.loss(*shares_of(step, (6,), 0, 64)[0])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
    return [before * y.numel(), loss.item(), model.loss(x, y).item() * y.numel()]


def asked_to_stop(rank: int, world_size: int, bound: int) -> int:
    """Rank 1 is asked to end in its second step: after how many steps all do."""
    shares = (2,) * world_size
    strategy = build_strategy(stale_context(rank, shares, bound, 1), model_of("tiny", 1))
    assert isinstance(strategy, StaleSynchronous)
    for step in range(1, 20):
        result = strategy.train_step(shares_of(step, shares, rank, 64), 1e-2, stop=rank == 1 and step == 2)
        if result.stop:
            strategy.fence(result)
            return step
    raise AssertionError("it never ended")


def poisoned(rank: int, world_size: int) -> str:
    """Rank 1's third loss is not a number: what each rank says."""
    model = model_of("tiny", seed=1)
    strategy = build_strategy(stale_context(rank, (2,) * world_size, 1, 1), model)
    plain = model.loss
    try:
        for step in range(8):
            if step == 2 and rank == 1:
                model.loss = lambda x, y: plain(x, y) * float("nan")
            strategy.train_step(shares_of(step, (2,) * world_size, rank, 64), 1e-2)
    except NotFiniteError as error:
        FABRICS[rank].abort(str(error))
        return f"{error.rank}: {str(error).partition(':')[0]}"
    return "no error"


def one_is_stuck(rank: int, world_size: int, fence: bool, timeout_s: float) -> str:
    """Rank 1 computes for ever after its second step, with a heart that beats; or comes to no fence after it."""
    shares = (2,) * world_size
    strategy = build_strategy(stale_context(rank, shares, 2, 1), model_of("tiny", 1))
    assert isinstance(strategy, StaleSynchronous)
    group = dist.group.WORLD
    assert isinstance(group, GroupLifetime)
    group.set_timeout(timedelta(seconds=timeout_s))
    try:
        for step in range(2 if fence or rank == 1 else 20):
            result = strategy.train_step(shares_of(step, shares, rank, 64), 1e-2)
        if rank == 1:
            return str(FABRICS[rank].alarm.wait(60))
        strategy.fence(result)
    except PeerError as error:
        return str(error)
    return "it did not notice"


def garbled(rank: int, _: int) -> str:
    """Rank 1 says what nobody knows instead of resting, to rank 0 alone; rank 2 does not come to the fence at all."""
    strategy = build_strategy(stale_context(rank, (2, 2, 2), 1, 1), model_of("tiny", 1))
    assert isinstance(strategy, StaleSynchronous)
    try:
        # On a busy machine rank 1 has said it before the others are through with this step.
        result = strategy.train_step(shares_of(0, (2, 2, 2), rank, 64), 1e-2)
        if rank == 1:
            work = dist.isend(torch.full((HEAD_BYTES,), 255, dtype=torch.uint8), 0, tag=21)
            assert work is not None
            work.wait()
        if rank:
            return str(FABRICS[rank].alarm.wait(60))
        strategy.fence(result)
    except PeerError as error:
        if rank == 0:
            FABRICS[rank].abort(str(error))
        return str(error)
    return "it did not notice"


def build_of(rank: int, world_size: int) -> list[str]:
    """What is refused."""
    said = []
    shares = (2,) * world_size
    strategy = build_strategy(stale_context(rank, shares, 1, 1), model_of("tiny", 1))
    assert isinstance(strategy, StaleSynchronous)
    result = strategy.train_step(shares_of(0, shares, rank, 64), 1e-2)
    for ask in (lambda: list(strategy.named_slices()), strategy.export):
        try:
            ask()
        except RuntimeError as error:
            said.append(str(error))
    strategy.fence(result)
    assert list(strategy.named_slices())
    try:
        build_strategy(stale_context(rank, shares, 1, 3), model_of("tiny", 1))
    except ValueError as error:
        said.append(str(error))
    return said
