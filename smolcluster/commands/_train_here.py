"""Training on this machine without a playbook: data, the run's folder, its ranks in this process or in their own."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from smolcluster.commands._here import (
    POLL_EVERY_S,
    Run,
    interrupts,
    new_folder,
    restarts_of,
    start_all,
    start_lost,
    workdir_of,
)
from smolcluster.commands._here import lay_out as lay_out_run
from smolcluster.data.prepare import prepare_data
from smolcluster.data.weights import prepare_weights
from smolcluster.jobs.poll import poll_job
from smolcluster.jobs.remarking import Remarks
from smolcluster.jobs.restarts import SupervisorRestarts
from smolcluster.jobs.stop import stop_job
from smolcluster.jobs.telling import StepLines
from smolcluster.jobs.types import ACTIVE_STATES, ASKED_GRACE_S, PollResult
from smolcluster.plan.types import Plan, ProfilePlan
from smolcluster.runtime.newrun import point_latest
from smolcluster.spec.request import Resolved


def lay_out(resolved: Resolved, plan: Plan, resume_from: Path | None = None) -> Run:
    """Prepare the data and write the run's folder in the workdir of its first node."""
    workdir = workdir_of(resolved.cluster, plan)
    cache = workdir.parent / ".cache" / "data"
    data = prepare_data(plan.run, cache, lambda line: print(line, file=sys.stderr), plan.global_batch)
    weights = prepare_weights(plan.run, data, cache, lambda line: print(line, file=sys.stderr))

    def own(node: str) -> dict[str, str | None]:
        return {
            "init_dir": str(weights) if weights and node == plan.ranks[0].node else None,
            "resume_from": str(resume_from) if resume_from is not None else None,
        }

    kind = "profile" if isinstance(plan, ProfilePlan) else plan.run.strategy
    return lay_out_run(new_folder(workdir, kind), plan, data, resolved.cluster, own)


def run_in_this_process(run: Run, plan: Plan) -> int:
    """Train the run's only rank here. Its exit code; Ctrl-C ends it after its step, with the model saved."""
    import torch

    from smolcluster.comm.allocator import keep_freed_memory
    from smolcluster.jobs.nodefile import load_node
    from smolcluster.runtime.process import log_to_stdout
    from smolcluster.train.part import train_part

    [me] = plan.ranks
    point_latest(run.folder.path)
    log_to_stdout(run.folder.log(me.node, me.rank))
    keep_freed_memory()
    torch.set_num_threads(me.threads)
    asked = threading.Event()
    with interrupts(asked):
        return train_part(load_node(run.node_files[me.node]), plan, me, asked.is_set)


def run_in_processes(run: Run, plan: Plan) -> int:
    """Start every node's supervisor, print their progress, renew their leases, until all have ended. An exit code.

    Ctrl-C asks all of them to stop; a second one leaves them to their leases.
    """
    asked = threading.Event()
    pause = threading.Event()
    width = max(map(len, run.node_files))
    beside = Remarks(run.folder, plan.ranks)
    told = {node: StepLines(node, width, 0.0, beside.of) for node in run.node_files}
    restarts = restarts_of(run, plan.run.recovery.max_restarts, serves=False)
    with interrupts(asked):
        start_all(run, latest=not isinstance(plan, ProfilePlan))  # it has no model to try, nothing to go on from
        while True:
            # This renews the leases too.
            answers = [poll_job(run.folder.path, node) for node in told]
            for answer in answers:
                for line in told[answer.job.node].lines(answer, time.monotonic()):
                    print(line, flush=True)
            if not asked.is_set() and _start_again(run, plan, answers, restarts):
                continue
            if all(answer.job.state not in ACTIVE_STATES for answer in answers):
                break
            if asked.is_set():
                # All ranks agree to end after the same step, so that the others are done when the first is.
                for node in run.node_files:
                    stop_job(run.folder.path, node, "interrupted", ASKED_GRACE_S)
            pause.wait(POLL_EVERY_S)
    states = {answer.job.state for answer in answers}
    return 3 if "failed" in states else 130 if "stopped" in states else 0


def _start_again(run: Run, plan: Plan, answers: list[PollResult], restarts: Mapping[str, SupervisorRestarts]) -> bool:
    # The server's end is the run's, where there is one; else any node's.
    needed = answers[:1] if plan.shape == "STAR" else answers
    over = any(each.job.state in ("failed", "stopped") and not each.job.lost for each in needed)
    if over and not plan.run.recovery.elastic:
        return False
    return start_lost(run, answers, restarts)
