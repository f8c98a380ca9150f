"""A rank's part in a training run, from its wires to its result.json."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from smolcluster.comm import open_fabric
from smolcluster.errors import PeerError
from smolcluster.plan.types import NodeConfig, Plan, RankPlan
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.entering import enter
from smolcluster.runtime.failures import DONE, understand
from smolcluster.runtime.results import forget_finished, keep_finished, leave_result, read_finished, write_result
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.train.account import Account
from smolcluster.train.outcome import context_of, ending_of, result_of
from smolcluster.train.rank import train_rank
from smolcluster.train.star.part import star_part
from smolcluster.train.survive import Survivor

log = logging.getLogger("smolcluster.worker")
# So long a rank whose work was done looks for the others: a Pi needs most of a minute to start its ranks again.
FINISHED_JOIN_S = 90.0


def train_part(config: NodeConfig, plan: Plan, me: RankPlan, stop: Callable[[], bool]) -> int:
    """Take a rank's part in a run and write its result.json. The exit code; only bugs of result writing raise."""
    if plan.shape == "STAR":
        return star_part(config, plan, me, stop)
    account = Account()
    folder = RunFolder(Path(config.run_dir))
    before = read_finished(folder, me.node, me.rank)
    ending, sent, received, entered, done = DONE, 0, 0, False, False
    survivor = Survivor()
    goes_on = True
    while goes_on:  # through one group of ranks after the other, with a strategy that outlives them
        goes_on = False
        sent_before, received_before = sent, received
        try:
            context = context_of(config, plan, me)
            with open_wires(context, config, FINISHED_JOIN_S if before is not None else None) as context:
                entered = True
                forget_finished(folder, me.node, me.rank)

                def say_done(context: RunContext = context, sent: int = sent, received: int = received) -> None:
                    # Before the others are let go: whoever is killed from here on was done, and is not started again.
                    counters = context.wires.counters()
                    bytes_out, bytes_in = sent + counters.bytes_out, received + counters.bytes_in
                    result = result_of(config, plan, me, account, DONE, bytes_out, bytes_in)
                    if result.finished:
                        keep_finished(folder, result)
                    write_result(folder, result)

                try:
                    train_rank(context, account, stop, say_done, survivor)
                finally:
                    counters = context.wires.counters()
                    sent, received = sent_before + counters.bytes_out, received_before + counters.bytes_in
                done = True
        except BaseException as error:  # noqa: BLE001  whatever ended it, the result must say so
            goes_on = not stop() and survivor.outlives(error, account.steps)
            ending = DONE if goes_on else ending_of(error, me.rank)
        if goes_on:
            # A group that failed leaves cycles, which hold a model's worth of tensors: Python comes to them seldom, and
            # would have several of them at once.
            gc.collect()
    if before is not None and not entered and ending.exit_code == PeerError.exit_code:
        log.info("nobody needs this rank any more: its work was done, and so was the others'")
        write_result(folder, before)
        return before.exit_code
    if done:  # and said so: what the wires made of their end changes nothing
        ending = DONE
    result = result_of(config, plan, me, account, ending, sent, received)
    leave_result(folder, result)
    return result.exit_code


@contextlib.contextmanager
def open_wires(context: RunContext, config: NodeConfig, join_s: float | None) -> Iterator[RunContext]:
    """The context with its wires open. They are closed in order after a good end, and cut after a bad one, so that the
    other ranks learn of it at once instead of at their deadlines. `join_s`: how long to wait for the others, if not the
    group's own time."""
    group, context = enter(context, config)
    if group is None:
        yield context
        return
    fabric = open_fabric(group if join_s is None else replace(group, join_s=join_s))
    log.info("rank %d of %d is in generation %d", context.rank, context.world_size, fabric.generation)
    try:
        yield replace(context, wires=fabric, generation=fabric.generation)
    except BaseException as error:
        failure = understand(error)
        fabric.abort(failure.reason, failure.final)
        raise
    fabric.close()
