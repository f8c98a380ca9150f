"""What the pool's processes run for the tests of checkpoints."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from smolcluster.data import TokenFolder
from smolcluster.models import build_model
from smolcluster.plan.types import Plan
from smolcluster.runtime.checkpoint.load import restore
from smolcluster.runtime.checkpoint.save import Saver
from smolcluster.runtime.checkpoint.sources import Source
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.runtime.slices import Box, is_carried
from smolcluster.strategies.base import build_strategy
from smolcluster.train import rank as rank_module
from smolcluster.train.account import Account
from smolcluster.train.rank import train_rank
from tests.checkpoint.runs import context_of, state_of
from tests.steps import read_metrics


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
    assert restored.step == step, restored.step
    whole = state_of(against, step)
    wrong = []
    names = set()
    for part in strategy.held_slices():
        if is_carried(part.name) and part.name not in whole:
            continue
        names.add(part.name)
        values = whole[part.name][part.box.within(Box((0,) * len(part.shape), part.shape))]
        if not torch.equal(part.tensor.to(values.dtype), values):
            wrong.append(part.name)
    strategy.close()
    return wrong or ([] if len(names) > 10 else ["hardly anything was held"])


def call(fabric: Any, job: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A job with named arguments: the pool's own are the group's settings."""
    return job(fabric, *arguments, **named)


def watched(fabric: Any, folder: Path, data: Path, made: Plan, victim: int, stage: str, step: int) -> Account:
    """A run in which rank `victim` is killed in that stage of the save of that step."""

    def look(rank: int, saver: Saver, now: str) -> None:
        if (rank, now, saver.begun_step) == (victim, stage, step):
            os.kill(os.getpid(), signal.SIGKILL)

    with savers_that(look):
        return train(fabric, folder, data, made)


def overlapping(fabric: Any, folder: Path, data: Path, made: Plan, held_step: int, until: int) -> list[int]:
    """A run in which rank 1 does not write the checkpoint of `held_step` before all ranks have taken step `until`.

    By the step that is being taken: how many steps had been taken when each stage of rank 1's saves came.
    """
    metrics = [RunFolder(folder).metrics(rank.node, rank.rank) for rank in made.ranks]
    done = threading.Event()
    seen: list[int] = []

    def taken() -> int:
        return min(len(read_metrics(path)[0]) for path in metrics)

    def look(rank: int, saver: Saver, now: str) -> None:
        if (rank, now, saver.begun_step) == (1, "begin", held_step):
            assert done.wait(60), "training did not go on while a checkpoint was being written"
            seen.append(taken())

    def stop() -> bool:
        if taken() >= until:
            done.set()
        return False

    with savers_that(look):
        train_rank(context_of(folder, data, made, fabric.config.rank, fabric), Account(), stop)
    return seen


@contextlib.contextmanager
def savers_that(look: Callable[[int, Saver, str], None]) -> Iterator[None]:
    """Runs meanwhile show every stage of every save."""
    usual = rank_module.Keeper

    def keeper(context: Any, strategy: Any) -> Any:
        saver = Saver(context, lambda stage: look(context.rank, saver, stage))
        return usual(context, strategy, saver)

    rank_module.Keeper = keeper  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        rank_module.Keeper = usual  # type: ignore[misc]


def warnings_of(
    fabric: Any, job: Callable[..., Any], *arguments: Any, limit: tuple[int, int] | None = None
) -> list[str]:
    """What a job's log warns of on this rank. `limit`: a rank whose files may not grow beyond so many bytes."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    logging.getLogger("smolcluster").addHandler(handler)
    try:
        if limit is not None and fabric.config.rank == limit[0]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit[1], before[1]))
        job(fabric, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        logging.getLogger("smolcluster").removeHandler(handler)
    return messages


def on_hosts(fabric: Any, job: Callable[..., Any], hosts: Path, *arguments: Any) -> Any:
    """A job on machines that share no files: each rank's run folder is `hosts`/<its node>/run."""
    rank = fabric.config.rank
    return job(fabric, hosts / f"node{rank + 1}" / "run", *arguments)
