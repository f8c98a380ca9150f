"""A stage of a served model as a rank of its run: the head, which the API is connected to, or a later stage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from smolcluster.comm.config import GroupConfig
from smolcluster.comm.mesh import Mesh
from smolcluster.errors import ConfigError, PeerError, PeerLostError, Problem, SmolError
from smolcluster.infer.about import about, context_of, ends_of, tokenizer_of
from smolcluster.infer.engine import Engine
from smolcluster.infer.gate import Gate
from smolcluster.infer.group import group_of
from smolcluster.infer.keeper import Policy, TabletPatience
from smolcluster.infer.linkwatch import links_recorded
from smolcluster.infer.local import LocalHead
from smolcluster.infer.replan import Replanner, first_layout
from smolcluster.infer.request import Limits
from smolcluster.infer.worker import Load, Worker
from smolcluster.models.stage_weights import load_stage
from smolcluster.plan.stages import weight_of
from smolcluster.plan.types import NodeConfig, RankPlan, ServePlan
from smolcluster.runtime.process import Stop
from smolcluster.runtime.runfolder import RunFolder
from smolcluster.runtime.tabletnote import TabletNote, read_tablets
from smolcluster.spec.shape import read_shape

log = logging.getLogger("smolcluster.infer")
# Records the links of a mesh while it is entered.
Recorded = Callable[[Mesh], AbstractContextManager[None]]
# How often it is looked whether there is still something to wait for: nothing announces that.
_LOOK_S = 0.25


def run_stage(config: NodeConfig, plan: ServePlan, me: RankPlan, stop: Stop) -> None:
    """Serve until `stop`. ConfigError: no model or no secret here; SmolError: it cannot listen; PeerError: a later
    stage's head has gone.

    The head does not end with a stage: it waits the plan's `rejoin_s` for it, then plans without it.
    """
    if config.model_dir is None:
        what = f"node.yaml names no model for {me.node}, which is a stage"
        raise ConfigError([Problem("", 0, "model_dir", what, "run the playbook again")])
    folder = Path(config.model_dir)
    group = group_of(config, plan, me)
    recorded = partial(links_recorded, config, plan, me)
    if me.rank == 0:
        # The ranks of tablets are processes of this machine, so their notes are in its folder.
        handing_over = {rank: plan.ranks[rank].node for rank in plan.tablets}
        notes = partial(read_tablets, RunFolder(Path(config.run_dir)), handing_over)
        _be_head(folder, group, plan, recorded, notes, stop)
    else:
        serve_stage(group, partial(load_stage, folder), recorded, stop)


def _be_head(
    folder: Path,
    group: GroupConfig,
    plan: ServePlan,
    recorded: Recorded,
    notes: Callable[[], tuple[TabletNote, ...]],
    stop: Stop,
) -> None:
    shape, serve = read_shape(folder), plan.serve
    choice = tokenizer_of(folder)
    known = about(folder, shape, plan)
    context = context_of(shape, plan)
    replan = Replanner.of(plan, weight_of(shape, serve.model.precision, serve.cache_tokens or context))
    tablets = {rank: TabletPatience(serve.tablet_wait_s, one.optional) for rank, one in plan.tablets.items()}
    engine = Engine(
        group,
        first_layout(plan),
        partial(load_stage, folder),
        context,
        choice.tokenizer if choice is not None else None,
        ends_of(folder, choice),
        Limits(tokens=serve.cache_tokens, request_s=serve.request_timeout_s),
        serve.seed,
        serve.model.max_new_tokens,
        on_loss="continue",
        policy=Policy(replan, serve.rejoin_s, first_s=group.join_s, open_s=group.join_s, tablets=tablets),
    )
    with engine, recorded(engine.mesh):
        machines = {rank.rank: plan.machine(rank.rank) for rank in plan.ranks}
        head = LocalHead(engine, known, machines, plan.tablets, notes)
        gate = Gate(head, engine.mesh, plan.api.rank)
        try:
            engine.begin()
            while not stop.wait(_LOOK_S):
                if engine.failure is not None:
                    raise engine.failure
        finally:
            # In this order: what is in flight gets its last event before the API's link ends.
            engine.close()
            gate.close()


def serve_stage(group: GroupConfig, load: Load, recorded: Recorded, stop: Stop, why: Callable[[], str] = str) -> None:
    """Be a later stage until `stop`, which is no error; `why` then tells the head. The errors of run_stage."""
    try:
        worker = Worker(group, load)
    except PeerError as error:
        raise SmolError(str(error)) from error  # no peer was asked yet: that it cannot listen is its own failure
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if stop.wait(_LOOK_S) and not over.is_set():
                worker.close(why())
                return

    watcher = threading.Thread(target=watch, name="smol-stop", daemon=True)
    watcher.start()
    try:
        with recorded(worker.mesh):
            worker.run()
    finally:
        over.set()
        watcher.join()
    if not stop():
        raise PeerLostError("the head has ended, and nothing is served without it")
