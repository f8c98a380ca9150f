"""A rank's part in a run of kind profile: it computes as in a run while its links are used as in a run, and notes both.

It leaves pace.json beside its result.json. What all ranks left becomes profile.json in observe/profiled.py.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import torch.distributed as dist

from smolcluster.data import open_samples
from smolcluster.errors import InterruptedRun
from smolcluster.models.decodepace import measure_decoding
from smolcluster.plan.predict_serving import decoder_of
from smolcluster.plan.types import NodeConfig, ProfilePlan, RankPlan
from smolcluster.runtime.context import RunContext
from smolcluster.runtime.failures import DONE, Failure, understand
from smolcluster.runtime.pacenote import LinkPace, RankPace
from smolcluster.runtime.process import Stop
from smolcluster.runtime.results import leave_result
from smolcluster.runtime.runfolder import RunFolder, write_atomic
from smolcluster.spec.run import GPTSpec
from smolcluster.train.account import Account
from smolcluster.train.linkpace import LinkMeter
from smolcluster.train.outcome import context_of, result_of
from smolcluster.train.pace import Runner, versions
from smolcluster.train.part import open_wires
from smolcluster.train.turns import Turns

log = logging.getLogger("smolcluster.worker")
# Machines are told to stop one by one: who sees another leave may be told a moment later.
PARTING_S = 4.0
# How often it is looked up whether somebody wants this rank to end while links are measured.
STOP_S = 0.2


def measure_part(config: NodeConfig, plan: ProfilePlan, me: RankPlan, stop: Stop) -> int:
    """Measure, and write pace.json and result.json. The exit code; only bugs of result writing raise."""
    began = time.monotonic()
    folder = RunFolder(Path(config.run_dir))
    account, ending, sent, received = Account(), DONE, 0, 0
    try:
        context = context_of(config, plan, me)
        with open_wires(context, config, None) as context:
            try:
                pace = measure(context, stop)
            finally:
                counters = context.wires.counters()
                sent, received = counters.bytes_out, counters.bytes_in
        write_atomic(folder.pace(me.node, me.rank), pace.model_dump_json(by_alias=True, indent=2) + "\n")
        account.tokens, account.steps = pace.tokens * pace.steps, pace.steps
    except BaseException as error:  # whatever ended it, the result must say so
        ending = understand(error)
        log.error("%s", ending.reason, exc_info=error if ending.bug else None)
        if not ending.ours and not ending.bug and stop.wait(PARTING_S):
            ending = Failure(InterruptedRun.exit_code, "stopped as asked", ours=False, bug=False)
    account.seconds = time.monotonic() - began
    result = result_of(config, plan, me, account, ending, sent, received)
    leave_result(folder, result)
    return result.exit_code


def measure(context: RunContext, stop: Stop) -> RankPace:
    """Compute until there is a median and all links were measured meanwhile, by everybody. Errors as of a training."""
    data = open_samples(context.data_dir)
    data.require(context.plan.global_batch)
    context.wires.begin_step(1)  # faults on purpose begin with the first step
    runner = Runner(context, data, stop)
    log.info("measuring %s on %s, %d samples a step", context.run.model.type, context.device, context.me.samples)
    links: tuple[LinkPace, ...] = ()
    if context.world_size == 1:
        while not runner.pace.enough:
            runner.step()
    else:
        computed, still = threading.Event(), threading.Event()
        meter = LinkMeter(context.rank, context.world_size, computed, still)
        try:
            while not meter.quiet.is_set():
                runner.step()
                if runner.pace.enough:
                    computed.set()
        finally:
            computed.set()
            still.set()
        while not meter.over.wait(STOP_S):
            if stop():
                raise InterruptedRun("stopped as asked")
        links = meter.result()
    runner.close()
    decode = None
    if isinstance(context.run.model, GPTSpec):
        turns = Turns(context.rank, context.world_size, stop) if context.world_size > 1 else None
        if turns is not None:
            dist.barrier()  # all at the same time, as the steps were
        decode = measure_decoding(decoder_of(context.run.model), turns)
        log.info("decoding, a layer takes %.3g ms for one token", decode.layer_s[0] * 1000)
    pace = runner.pace
    log.info("%.0f %s/s, a step takes %.4g s", pace.tokens / pace.step_s, data.counts, pace.step_s)
    for link in links:
        log.info("from rank %d: %.0f Mbit/s, there and back in %.3f ms", link.peer, link.mbps, link.rtt_ms)
    return RankPace(
        rank=context.rank,
        node=context.me.node,
        time=time.time(),
        steps=len(pace.steps_s),
        step_s=pace.step_s,
        update_s=min(pace.update_s, pace.step_s),
        pass_s=pace.pass_s,
        samples=context.me.samples,
        tokens=pace.tokens,
        device=str(context.device),
        threads=context.me.threads,
        versions=versions(),
        links=links,
        decode=decode,
    )
