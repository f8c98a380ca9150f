"""A rank's part in a run with a server, from its wires to its result.json.

The server and each worker fail for themselves: no exception of one ends another. What ends the run is the server's end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from smolcluster.comm.caller import Caller
from smolcluster.comm.config import GroupConfig
from smolcluster.comm.letter import PIECE_BYTES
from smolcluster.comm.mailbox import Mailbox
from smolcluster.errors import InterruptedRun, PeerError, SmolError
from smolcluster.plan.types import NodeConfig, Plan, RankPlan
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.entering import enter
from smolcluster.runtime.failures import DONE, Failure, understand
from smolcluster.runtime.generation import note_step
from smolcluster.runtime.metrics import MetricsWriter, cut_after, last_number
from smolcluster.runtime.results import leave_result, write_result
from smolcluster.runtime.runfolder import GradientAccount, RankResult, RunFolder
from smolcluster.strategies.star.build import server_class, worker_class
from smolcluster.strategies.star.centre import Centre
from smolcluster.strategies.star.solo import solo
from smolcluster.train.account import Account
from smolcluster.train.keeping import Keeper
from smolcluster.train.outcome import context_of, ending_of, result_of
from smolcluster.train.rank import origin_of, prepared, write_model
from smolcluster.train.star.inside import InsideWorker
from smolcluster.train.star.journal import Journal
from smolcluster.train.star.server import ServerLoop, Start
from smolcluster.train.star.validation import Validation
from smolcluster.train.star.wires import MailWires
from smolcluster.train.star.worker import WorkerLoop

log = logging.getLogger("smolcluster.worker")

# A worker that was about to be started again when the run ended is waited for that long, to be told.
LINGER_S = 20.0
# When the run was stopped or failed, they are all asked at about the same time.
STOPPED_LINGER_S = 2.0
# How long a goodbye may take.
_LEAVE_S = 5.0


class Outcome:
    """What a part has come to, right at any moment."""

    def __init__(self) -> None:
        self.account = Account()
        self.wires: MailWires | None = None
        self.gradients: Callable[[], GradientAccount | None] = lambda: None


def star_part(config: NodeConfig, plan: Plan, me: RankPlan, stop: Callable[[], bool]) -> int:
    """Take the rank's part and write its result.json. The exit code; only bugs of result writing raise."""
    outcome, ending = Outcome(), DONE
    folder = RunFolder(Path(config.run_dir))

    def say_done() -> None:
        """Before the others are let go: whoever is killed from here on was done."""
        write_result(folder, _result(config, plan, me, outcome, DONE))

    try:
        group, context = enter(context_of(config, plan, me), config)
        assert group is not None, "a star has a server and a worker"
        play = _serve if me.role == "server" else _work
        play(context, group, outcome, stop, say_done)
    except BaseException as error:  # noqa: BLE001  whatever ended it, the result must say so
        ending = ending_of(error, me.rank)
        if stop() and ending.exit_code == PeerError.exit_code:
            outcome.account.stopped, ending = True, DONE
    result = _result(config, plan, me, outcome, ending)
    leave_result(folder, result)
    return result.exit_code


def _result(config: NodeConfig, plan: Plan, me: RankPlan, outcome: Outcome, ending: Failure) -> RankResult:
    sent, received = 0, 0
    if outcome.wires is not None:
        counters = outcome.wires.counters()
        sent, received = counters.bytes_out, counters.bytes_in
    return result_of(config, plan, me, outcome.account, ending, sent, received, outcome.gradients())


def _serve(
    context: RunContext, group: GroupConfig, outcome: Outcome, stop: Callable[[], bool], say_done: Callable[[], None]
) -> None:
    """Rank 0: hold the weights until all samples are applied; write the model."""
    data, model = prepared(context)
    alone = solo(context)
    validation = Validation(alone, model, data)
    inside = InsideWorker(context, model, data) if context.run.server_trains else None
    centre = Centre(alone, model)
    journal = Journal(context.folder.journal(context.me.node, context.seat))
    account = outcome.account
    start = Start.of(alone, centre, data, account, journal)
    note_step(context.folder, context.me.node, context.seat, account.steps, origin_of(context, account))
    metrics_file = context.folder.metrics(context.me.node, context.seat)
    cut_after(metrics_file, account.steps)
    try:
        mailbox = Mailbox(group, most_bytes_of(model))
    except PeerError as error:
        raise SmolError(str(error)) from error  # no peer was asked yet: that it cannot listen is its own failure
    wires = outcome.wires = MailWires(mailbox.mesh, group.faults)
    alone = replace(alone, wires=wires)
    keeper = Keeper(alone, centre)
    try:
        with MetricsWriter(metrics_file) as metrics:
            server = server_class(context.run.strategy)(alone, centre, mailbox, context.plan.global_batch, start.rate)
            server.leases, server.ledger = start.leases, start.ledger
            outcome.gradients = server.account
            if inside is not None:
                inside.start(mailbox, group.timeout_s)
                stop = inside.watched(stop)
            alone_s = group.join_s or group.timeout_s
            loop = ServerLoop(alone, server, data, metrics, account, keeper, validation, journal, start, stop, alone_s)
            try:
                loop.run()
                tensors = centre.export()
                assert tensors is not None, "rank 0 has them"
                write_model(context, data, model, tensors)
            except BaseException as error:
                keeper.abandon()
                if ends_all(error, context.run.recovery.max_restarts):
                    server.finish("failed", str(error)[:500], STOPPED_LINGER_S)
                raise
            say_done()
            if account.stopped:
                server.finish("stopped", "the server was asked to stop", STOPPED_LINGER_S)
            else:
                server.finish("completed", "", LINGER_S)
    finally:
        validation.close()
        if inside is not None:
            inside.close()
        mailbox.close(_LEAVE_S)
        centre.close()
        journal.close()


def ends_all(error: BaseException, max_restarts: int) -> bool:
    """Whether what ended the server ends the run: else it is started again, and its workers are to look for it."""
    failure = understand(error)
    return failure.final or failure.exit_code == InterruptedRun.exit_code or not max_restarts


def _work(
    context: RunContext, group: GroupConfig, outcome: Outcome, stop: Callable[[], bool], say_done: Callable[[], None]
) -> None:
    """A worker: steps on leases until the server says that the run is over."""
    data, model = prepared(context)
    alone = solo(context)
    metrics_file = context.folder.metrics(context.me.node, context.seat)
    account = outcome.account
    account.steps = last_number(metrics_file)
    try:
        caller = Caller(group, most_bytes_of(model))
    except PeerError as error:
        raise SmolError(str(error)) from error
    wires = outcome.wires = MailWires(caller.mesh, group.faults)
    alone = replace(alone, wires=wires)
    worker = worker_class(context.run.strategy)(
        alone, model, caller, stop, group.entered, group.join_s or group.timeout_s
    )
    try:
        with MetricsWriter(metrics_file) as metrics:
            WorkerLoop(alone, worker, data, metrics, account, stop, context.plan.global_batch).run()
        say_done()
    finally:
        caller.close(_LEAVE_S)
        worker.close()


def most_bytes_of(model: nn.Module) -> int:
    """What the body of a letter may have: the weights in float32, what is not trained, and some room for padding."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) + PIECE_BYTES
