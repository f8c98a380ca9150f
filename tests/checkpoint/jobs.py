"""What the pool's processes run for the tests of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from smolcluster.data import TokenFolder
from smolcluster.models import build_model
from smolcluster.plan.types import Plan
from smolcluster.runtime.checkpoint.load import restore
from smolcluster.runtime.checkpoint.sources import Source
from smolcluster.runtime.metrics import read_metrics
from smolcluster.runtime.slices import Box
from smolcluster.strategies.base import build_strategy
from smolcluster.train.account import Account
from smolcluster.train.rank import train_rank
from tests.checkpoint.runs import context_of, state_of


def train(
    fabric: Any,
    folder: Path,
    data: Path,
    made: Plan,
    generation: int = 0,
    resume: Path | None = None,
    stop_at: int | None = None,
) -> Account:
    """A whole run of this rank, of one if there is no fabric."""
    rank = 0 if fabric is None else fabric.config.rank
    context = context_of(folder, data, made, rank, fabric, generation, resume)
    metrics = context.folder.metrics(context.me.node, rank)

    def stop() -> bool:
        return stop_at is not None and len(read_metrics(metrics)[0]) >= stop_at - 1

    account = Account()
    train_rank(context, account, stop)
    return account


def load(fabric: Any, folder: Path, data: Path, made: Plan, step: int, against: Path) -> list[str]:
    """Restore into a model of other weights; the names of what lies here and is not bitwise what was saved."""
    rank = 0 if fabric is None else fabric.config.rank
    context = context_of(folder, data, made, rank, fabric)
    model = build_model(context.run.model, TokenFolder.open(data).meta.vocab_size, seed=99)
    strategy = build_strategy(context, model)
    restored = restore(context, strategy, [Source(folder, named=True)])
    assert restored is not None
    assert restored.step == step
    whole = state_of(against, step)
    wrong = []
    names = set()
    for part in strategy.held_slices():
        names.add(part.name)
        values = whole[part.name][part.box.within(Box((0,) * len(part.shape), part.shape))]
        if not torch.equal(part.tensor, values):
            wrong.append(part.name)
    strategy.close()
    return wrong or ([] if len(names) > 10 else ["hardly anything was held"])


def call(fabric: Any, job: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A job with named arguments: the pool's own are the group's settings."""
    return job(fabric, *arguments, **named)
