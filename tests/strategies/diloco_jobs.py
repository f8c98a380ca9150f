"""What the pool runs for the tests of diloco: rounds on batches of strategy_models.py, by a clock of ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from strategy_jobs import buckets_of, context_of
from strategy_models import LENGTH, model_of, shares_of
from torch import nn

from smolcluster.errors import PeerLostError
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import Slice
from smolcluster.strategies.base import Batch, NotFiniteError, StepResult, build_strategy
from smolcluster.strategies.diloco.rounds import DiLoCo

RATE = 1e-2


class Clock:
    """A clock that stands still but for the steps of a feed."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Shares:
    """A feed: this rank's share of each global batch. Every step takes `step_s` by the clock."""

    def __init__(
        self, shares: tuple[int, ...], rank: int, total: int, clock: Clock | None = None, step_s: float = 1.0
    ) -> None:
        self.steps, self.total_steps = 0, total
        self.taken: list[int] = []
        self.at: list[int] = []
        self.stop_after: int | None = None
        self.rate = RATE
        self._shares, self._rank = shares, rank
        self._clock, self._step_s = clock, step_s

    def take(self, step: int, number: int) -> tuple[Batch, float]:
        if self._clock is not None:
            self._clock.now += self._step_s
        self.taken.append(number)
        self.at.append(step)
        return shares_of(number - 1, self._shares, self._rank, 64), self.rate

    def computed(self, seconds: float) -> float:
        return 0.0

    def stop(self) -> bool:
        return self.stop_after is not None and len(self.taken) >= self.stop_after


class SGD:
    """Plain gradient descent in the place of a rank's AdamW."""

    def __init__(self, strategy: DiLoCo) -> None:
        self._params, self._grads = strategy.flat.params, strategy.whole_grads
        self.exp_avg, self.exp_avg_sq = strategy.adamw.exp_avg, strategy.adamw.exp_avg_sq
        self.steps = strategy.adamw.steps

    def step(self, piece: int, lr: float, scale: float) -> None:
        self._params.add_(self._grads, alpha=-lr * scale)


def diloco_context(rank: int, world_size: int, shares: tuple[int, ...], **outer: Any) -> RunContext:
    """A context of a run of these shares; `outer`: fields of RunSpec, and what context_of takes."""
    names = ("outer_every", "outer_lr", "outer_momentum", "outer_overlap", "outer_warmup")
    said = {name: outer.pop(name) for name in names if name in outer}
    generation = outer.pop("generation", 0)
    context = replace(context_of("diloco", rank, world_size, **outer), generation=generation)
    ranks = tuple(plan.model_copy(update={"samples": n}) for plan, n in zip(context.plan.ranks, shares, strict=True))
    run = context.run.model_copy(update=said)
    plan = context.plan.model_copy(update={"run": run, "ranks": ranks, "global_batch": sum(shares)})
    return replace(context, plan=plan, me=ranks[rank])


def made(
    rank: int, world_size: int, shares: tuple[int, ...], kind: str = "tiny", bucket: int = 4096, **outer: Any
) -> tuple[DiLoCo, nn.Module]:
    model = model_of(kind, seed=5 + rank)
    with buckets_of(bucket):
        strategy = build_strategy(diloco_context(rank, world_size, shares, **outer), model)
    assert isinstance(strategy, DiLoCo)
    return strategy, model


def run_to_the_end(strategy: DiLoCo, feed: Shares) -> list[StepResult]:
    results = []
    while feed.steps < feed.total_steps and not (results and results[-1].stop):
        results.append(strategy.train_round(feed))
        feed.steps += results[-1].steps
    return results


def rounds(
    rank: int,
    world_size: int,
    shares: tuple[int, ...],
    total: int,
    speeds: tuple[float, ...] | None = None,
    sgd: bool = False,
    stop: tuple[int, int] | None = None,
    rate: float = RATE,
    **outer: Any,
) -> dict[str, Any]:
    """A whole run. `speeds`: seconds of a step, by rank. `stop`: a rank is asked to after so many of its steps."""
    from strategy_pool import FABRICS
    from wire_jobs import digest

    strategy, model = made(rank, world_size, shares, **outer)
    if sgd:
        strategy.adamw = SGD(strategy)  # type: ignore[assignment]
    clock = Clock()
    strategy.clock = clock
    feed = Shares(shares, rank, total, clock, speeds[rank] if speeds else 1.0)
    feed.rate = rate
    if stop is not None and stop[0] == rank:
        feed.stop_after = stop[1]
    results, digests, sent, anchors = [], [], [], []
    while feed.steps < feed.total_steps and not (results and results[-1].stop):
        before = FABRICS[rank].counters().bytes_out if world_size > 1 else 0
        results.append(strategy.train_round(feed))
        sent.append((FABRICS[rank].counters().bytes_out if world_size > 1 else 0) - before)
        feed.steps += results[-1].steps
        held = [strategy.outer.anchor]
        held += [strategy.outer.momentum] if strategy.outer.momentum is not None else []
        held += [] if outer.get("outer_overlap") else [strategy.flat.params]
        digests.append(digest(held))  # compared at the end: an exchange may be under way
        anchors.append(digest([strategy.outer.anchor]))
    same = [len(set(column)) == 1 for column in zip(*strategy.exchange(digests), strict=True)]
    assert torch.equal(strategy.flat.params, strategy.outer.anchor)
    state = {name: value.detach().clone() for name, value in model.named_parameters()}
    owed = [piece.values.clone() for piece in strategy.sums.residuals]
    strategy.close()
    return {
        "results": results, "losses": [r.loss for r in results], "same": same, "sent": sent, "taken": feed.taken,
        "at": feed.at, "anchors": anchors, "state": state, "owed": owed, "steps": feed.steps,
        "params": sum(v.numel() for v in state.values()),
    }  # fmt: skip


def poisoned(rank: int, world_size: int, where: str) -> str:
    """Rank 1's loss, or its parameters after its steps, are no numbers: what each rank says, and nothing changed."""
    shares = (2,) * world_size
    strategy, model = made(rank, world_size, shares, outer_every=2)
    feed = Shares(shares, rank, 10)
    anchor = strategy.outer.anchor.clone()
    if rank == 1 and where == "loss":
        plain = model.loss
        model.loss = lambda x, y: plain(x, y) * float("nan")  # type: ignore[method-assign]
    if rank == 1 and where == "average":
        usual = strategy.adamw.step

        def step(*given: Any) -> None:
            usual(*given)
            strategy.flat.params[:3].fill_(torch.inf)

        strategy.adamw.step = step  # type: ignore[method-assign]
    try:
        strategy.train_round(feed)
    except NotFiniteError as error:
        assert torch.equal(strategy.outer.anchor, anchor)
        return f"{error.rank}: {error}"
    return "no error"


def cut_and_resumed(
    rank: int, world_size: int, shares: tuple[int, ...], total: int, cut: int, **outer: Any
) -> tuple[list[float], list[float], list[Any]]:
    """The losses of rounds from step `cut` on, by a run that goes on and by one that starts from its slices then."""
    strategy, _ = made(rank, world_size, shares, **outer)
    clock = strategy.clock = Clock()
    feed = Shares(shares, rank, cut, clock, 1.0 + rank)
    run_to_the_end(strategy, feed)
    saved = [Slice(s.name, s.shape, s.box, s.tensor.clone()) for s in strategy.named_slices()]
    everybody: list[Any] = [None] * world_size
    dist.all_gather_object(everybody, saved)
    feed.total_steps = total
    whole = [one.loss for one in run_to_the_end(strategy, feed)]
    strategy.exchange([0.0])  # nothing is under way any more
    fresh, _ = made(rank, world_size, shares, seed=9, **outer)
    clock = fresh.clock = Clock()
    fresh.load_slices(part for parts in everybody for part in parts)
    again = Shares(shares, rank, total, clock, 1.0 + rank)
    again.steps = cut
    return whole, [one.loss for one in run_to_the_end(fresh, again)], [s.name for s in saved]


def regrouped(
    rank: int, world_size: int, shares: tuple[int, ...], fails_at: int, fate: str, **outer: Any
) -> dict[str, Any]:
    """A run whose group fails in round `fails_at`, on its way to the commit, and that goes on in another.

    fate: who has committed that round ("nobody", "rank 0", "all but the new": rank 1 is a process that was started
    again), or "nothing": the group does not fail.
    """
    from wire_jobs import digest

    total = 33
    strategy, model = made(rank, world_size, shares, **outer)
    clock = strategy.clock = Clock()
    feed = Shares(shares, rank, total, clock, 1.0 + rank)
    usual = strategy.require_all_have

    def fail(sums: torch.Tensor) -> None:
        usual(sums)
        if strategy.rounds_done == fails_at and (fate == "nobody" or (fate == "rank 0" and rank != 0)):
            raise PeerLostError("the test")

    def fail_later() -> None:
        if strategy.rounds_done > fails_at:
            raise PeerLostError("the test")

    strategy.require_all_have = fail  # type: ignore[method-assign]
    if fate == "rank 0" and rank == 0:
        strategy.compare = fail_later  # type: ignore[method-assign]
    taken = 0
    while feed.steps < total:
        try:
            feed.steps += strategy.train_round(feed).steps
            if strategy.rounds_done <= fails_at or strategy.generation or fate == "nothing":
                continue
        except PeerLostError:
            pass
        carried: Any = strategy.carry()
        if (fate, rank) == ("all but the new", 1):
            carried = None
        taken = max(feed.taken)
        strategy, model = made(rank, world_size, shares, seed=7, generation=1, **outer)
        strategy.clock = clock
        met = strategy.meet(carried)
        assert met is not None
        assert met.tokens == strategy.samples_done * LENGTH
        feed.steps = met.steps
    strategy.export()
    held = [strategy.outer.anchor, strategy.flat.params, strategy.outer.momentum, strategy._progress]
    state = {name: value.detach().clone() for name, value in model.named_parameters()}
    rows = strategy.exchange([digest([one for one in held if one is not None])])
    owed = strategy.outer.owed()
    strategy.close()
    return {
        "state": state, "same": rows == [rows[0]] * world_size, "taken": feed.taken, "before": taken,
        "samples": strategy.samples_done, "rounds": strategy.rounds_done, "owed": owed,
    }  # fmt: skip
