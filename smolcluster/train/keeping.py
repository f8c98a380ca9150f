"""The loop's part of checkpoints: when one is due, what goes into it, and how an account goes on from one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from smolcluster.runtime.checkpoint.agree import Facts
from smolcluster.runtime.checkpoint.load import Restored, restore
from smolcluster.runtime.checkpoint.manifest import StarNote
from smolcluster.runtime.checkpoint.save import Saver
from smolcluster.runtime.checkpoint.sources import Source
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.slices import Slice
from smolcluster.strategies.base import Strategy
from smolcluster.train.account import Account


class Stateful(Protocol):
    """What saving needs of a strategy, or of a star's centre."""

    def named_slices(self) -> Iterator[Slice]:
        """See Strategy."""
        ...


class Keeper:
    """Saves a strategy's state at the steps the run asks for. All ranks call it alike."""

    def __init__(self, context: RunContext, strategy: Stateful, saver: Saver | None = None) -> None:
        self._every = context.run.checkpoint.every_steps
        self._strategy = strategy
        self._saver = saver or Saver(context)

    def due(self, first: int, step: int, ended: bool) -> bool:
        """Whether the state is saved after the steps `first` to `step`: every so many, and after the last one."""
        if not self._every or not step or step == self._saver.begun_step:
            return False
        return ended or falls_in(self._every, first, step)

    @property
    def busy(self) -> bool:
        """Whether the last save is still being written: another would wait for it."""
        return self._saver.busy

    def save(
        self, account: Account, total_steps: int, epoch: int, measured: bool, star: StarNote | None = None
    ) -> None:
        """Begin to save what the strategy holds now. `measured`: the validation loss is of this very step. `star`: what
        a server keeps besides.
        """
        facts = Facts(
            step=account.steps,
            total_steps=total_steps,
            epoch=epoch,
            tokens=account.tokens,
            seconds=account.seconds,
            measured=measured,
            star=star,
            **account.scores(),
        )
        self._saver.save(facts, self._strategy.named_slices())

    def finish(self) -> None:
        """Wait until all that was begun is saved."""
        self._saver.finish()

    def abandon(self) -> None:
        """The run failed."""
        self._saver.abandon()


def falls_in(every: int, first: int, last: int) -> bool:
    """Whether one of the steps `first` to `last` is a multiple of `every`."""
    return last // every > (first - 1) // every


def resume(context: RunContext, strategy: Strategy, account: Account) -> bool:
    """Start from a checkpoint, if the run is to: this run's own after a restart, else that of the run it names.

    Whether it did. InputError if one was asked for and none can be used.
    """
    restored = restore(context, strategy, sources_of(context))
    if restored is not None:
        take_up(account, restored, context)
        strategy.last_loss = account.loss_last
    return restored is not None


def sources_of(context: RunContext) -> tuple[Source, ...]:
    """Where a run looks for checkpoints, in this order."""
    own = (Source(context.folder.path),) if context.generation else ()
    return own if context.resume_from is None else (*own, Source.named_by(context.resume_from))


def take_up(account: Account, restored: Restored, context: RunContext) -> None:
    """Go on with the account of the run that wrote the checkpoint."""
    manifest = restored.manifest
    progress = manifest.progress
    if manifest.world_size == context.world_size:
        account.tokens = progress.tokens[context.rank]
    else:  # the sum over ranks is what counts
        account.tokens = sum(progress.tokens) if context.rank == 0 else 0
    account.steps = manifest.step
    account.seconds = progress.seconds
    account.take_scores(progress.model_dump())
    account.resumed_from, account.resumed_step = manifest.run_id, manifest.step
