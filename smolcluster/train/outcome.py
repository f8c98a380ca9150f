"""What a rank knows before its part of a training, and what it says after it: the same for all strategies."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from smolcluster.errors import InterruptedRun
from smolcluster.plan.types import NodeConfig, Plan, RankPlan
from smolcluster.runtime.context import Alone, RunContext
from smolcluster.runtime.device import pick_device
from smolcluster.runtime.failures import DONE, Failure, understand
from smolcluster.runtime.generation import read_generation
from smolcluster.runtime.process import peak_rss_mb
from smolcluster.runtime.runfolder import GradientAccount, RankResult, RunFolder, Status
from smolcluster.strategies.base import NotFiniteError
from smolcluster.train.account import Account

log = logging.getLogger("smolcluster.worker")


def context_of(config: NodeConfig, plan: Plan, me: RankPlan) -> RunContext:
    """The rank's context as far as it is known without the others. ConfigError if its device is missing."""
    return RunContext(
        run_id=config.run_id,
        generation=config.generation,
        plan=plan,
        me=me,
        device=pick_device(me.device, me.node),
        folder=RunFolder(Path(config.run_dir)),
        data_dir=Path(config.data_dir),
        wires=Alone(),
        init_dir=Path(config.init_dir) if config.init_dir else None,
        resume_from=Path(config.resume_from) if config.resume_from else None,
    )


def ending_of(error: BaseException, rank: int) -> Failure:
    """What an exception means that ended a rank's part; it is logged."""
    ending = understand(error)
    if isinstance(error, NotFiniteError):
        # All ranks raise it in the same step; the one whose numbers went wrong is the cause.
        ending = replace(ending, ours=error.rank in (rank, None))
    if ending.bug:
        log.error("%s", ending.reason, exc_info=error)
    else:
        log.error("%s", ending.reason)
    return ending


def result_of(
    config: NodeConfig,
    plan: Plan,
    me: RankPlan,
    account: Account,
    ending: Failure,
    sent: int,
    received: int,
    gradients: GradientAccount | None = None,
) -> RankResult:
    """What the rank says of its part. `sent` and `received`: bytes on its sockets."""
    folder = RunFolder(Path(config.run_dir))
    if ending is DONE and account.stopped:
        ending = Failure(InterruptedRun.exit_code, "stopped as asked", ours=False, bug=False)
    note = read_generation(folder, me.node, me.rank)
    origin = note.origin if note is not None else None
    status: Status = "failed"
    if ending.exit_code in (0, InterruptedRun.exit_code):
        status = "stopped" if ending.exit_code else "completed"
    return RankResult(
        rank=me.rank,
        node=me.node,
        status=status,
        exit_code=ending.exit_code,
        reason=ending.reason,
        root_cause=ending.ours and status == "failed",
        steps=account.steps,
        tokens=account.tokens,
        seconds=account.seconds,
        **account.scores(),
        wire_bytes_out=sent,
        wire_bytes_in=received,
        peak_rss_mb=peak_rss_mb(),
        transport=plan.transport if plan.world_size > 1 else "none",
        generation=note.generation if note is not None else 0,
        finished=status == "completed",
        final=ending.final,
        resumed_from=origin.run_id if origin is not None else "",
        resumed_step=origin.step if origin is not None else None,
        gradients=gradients,
    )
